# SPDX-License-Identifier: Apache-2.0
"""The API over its socket: every route, every kind of wrong request."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flyebpf.api.backend import DropCounter, Problem, ServiceCounters, Severity
from flyebpf.api.components import COMPONENTS
from flyebpf.api.routes import ROUTES
from flyebpf.api.schema import check
from flyebpf.api.table import ERROR_SCHEMA, Route
from flyebpf.errors import ConfigError, KernelError
from flyebpf.store.base import Put, Transaction
from tests.fakes_backend import FakeBackend, serving

MACHINE = "0123456789abcd"

FLY_TOML = """
app = "web"

[[services]]
internal_port = 8080
protocol = "tcp"
[[services.ports]]
port = 80
[[services.ports]]
start_port = 9000
end_port = 9010

[[services]]
internal_port = 5000
protocol = "udp"
[[services.ports]]
port = 5000
"""


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=10)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(10)
        self.sock.connect(self.path)


@dataclass
class Api:
    """Asks, and checks every answer with the schema of its route."""

    backend: FakeBackend
    path: str
    used: set[str] = field(default_factory=set)

    def raw(self, method: str, target: str, body: bytes | None = None, **headers: str) -> Any:
        connection = UnixConnection(self.path)
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def __call__(self, method: str, target: str, body: object = None) -> tuple[int, Any]:
        content = None if body is None else json.dumps(body).encode()
        status, answer = self.raw(method, target, content)
        route = find_route(method, target)
        if route is not None:
            self.used.add(route.name)
        if status < 400:
            assert route is not None
            assert status == route.status
            check(answer, route.answer, COMPONENTS)
        else:
            check(answer, ERROR_SCHEMA, COMPONENTS)
        return status, answer

    def ok(self, method: str, target: str, body: object = None) -> Any:
        status, answer = self(method, target, body)
        assert status < 400, answer
        return answer


def find_route(method: str, target: str) -> Route | None:
    bare = target.partition("?")[0]
    for route in ROUTES:
        pattern = re.sub(r"{\w+}", "[^/]+", route.path)
        if route.method == method and re.fullmatch(pattern, bare):
            return route
    return None


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with serving(tmp_path) as (backend, path):
        yield Api(backend, path)


def machine_body(number: int = 1, **more: object) -> dict[str, object]:
    return {"interface": f"tap{number}", "mac": f"02:00:00:00:00:{number:02x}", **more}


@pytest.fixture
def web(api: Api) -> Api:
    """An organization, an app and a machine."""
    api.ok("POST", "/v1/orgs", {"name": "acme"})
    api.ok("POST", "/v1/apps", {"name": "web", "org": "acme"})
    return api


def test_every_route_answers_by_its_schema(web: Api) -> None:
    web.backend.drop_counters = [DropCounter(6, 10, 1000), DropCounter(63, 1, 60)]
    machine = web.ok("POST", "/v1/apps/web/machines", machine_body(metadata={"role": "db"}))
    one = f"/v1/machines/{machine['id']}"
    for verb in ("stop", "start", "suspend", "cordon", "uncordon"):
        web.ok("POST", f"{one}/{verb}")
    web.ok("PATCH", f"{one}/metadata", {"set": {"a": "1"}})
    web.ok("POST", "/v1/apps/web/addresses", {"type": "v4"})
    web.ok("POST", "/v1/config/validate", {"config": FLY_TOML})
    web.ok("POST", "/v1/apps/web/deployments", {"config": FLY_TOML})
    for target in (
        "/healthz", "/v1/status", "/v1/drops", "/v1/openapi.json", "/v1/orgs", "/v1/orgs/acme",
        "/v1/networks", "/v1/apps", "/v1/apps/web", "/v1/machines", one, f"{one}/environment",
        f"{one}/hosts", "/v1/services", "/v1/addresses", "/v1/apps/web/deployment",
    ):  # fmt: skip
        web.ok("GET", target)
    web.ok("POST", "/v1/reload")
    owned = [item["address"] for item in web.ok("GET", "/v1/addresses?app=web")["items"]]
    web.ok("POST", "/v1/apps/web/addresses/release", {"addresses": owned})
    web.ok("DELETE", one)
    web.ok("DELETE", "/v1/apps/web")
    assert web.used == {route.name for route in ROUTES if not route.stream}


def test_records_show_what_they_belong_to(web: Api) -> None:
    web.ok("POST", "/v1/apps", {"name": "api", "org": "acme", "network": "lan"})
    network = web.ok("GET", "/v1/networks?org=acme")["items"]
    by_name = {item["network"]: item for item in network}
    assert set(by_name) == {"default", "lan"}
    machine = web.ok("POST", "/v1/apps/api/machines", machine_body())
    assert (machine["org"], machine["network"]) == ("acme", "lan")
    assert machine["network_id"] == by_name["lan"]["network_id"]
    prefix = by_name["lan"]["prefix"].split("::")[0]
    assert machine["ip_6pn"].startswith(prefix + ":")
    environment = web.ok("GET", f"/v1/machines/{machine['id']}/environment")["environment"]
    assert environment["FLY_PRIVATE_IP"] == machine["ip_6pn"]
    address = web.ok("POST", "/v1/apps/api/addresses", {"type": "v4"})
    assert (address["org"], address["network"], address["app"]) == ("acme", "lan", "api")
    app = web.ok("GET", "/v1/apps/api")
    assert app["machines"] == 1
    assert app["addresses"] == [address["address"]]
    assert app["version"] is None


def test_lists_are_limited_to_the_app_asked_for(web: Api) -> None:
    web.ok("POST", "/v1/apps", {"name": "api", "org": "acme"})
    web.ok("POST", "/v1/apps/web/machines", machine_body(1))
    other = web.ok("POST", "/v1/apps/api/machines", machine_body(2))
    found = web.ok("GET", "/v1/machines?app=api")["items"]
    assert [item["id"] for item in found] == [other["id"]]
    assert len(web.ok("GET", "/v1/machines")["items"]) == 2


def test_services_have_machines_addresses_and_counters(web: Api) -> None:
    first = web.ok("POST", "/v1/apps/web/machines", machine_body(1))
    web.ok("POST", "/v1/apps/web/machines", machine_body(2))
    web.ok("POST", f"/v1/machines/{first['id']}/cordon")
    address = web.ok("POST", "/v1/apps/web/addresses", {"type": "v4"})["address"]
    web.ok("POST", "/v1/apps/web/deployments", {"config": FLY_TOML, "public_ips": False})
    web.backend.service_counters = [
        ServiceCounters("web/tcp/80", 10, 1000, 9, 900, 2),
        ServiceCounters("other/tcp/80", 99, 99, 99, 99, 99),
    ]
    services = web.ok("GET", "/v1/services?app=web")["items"]
    ports = [(s["protocol"], s["first_port"], s["last_port"]) for s in services]
    assert ports == [("tcp", 80, 80), ("tcp", 9000, 9010), ("udp", 5000, 5000)]
    assert all(s["machines"] == 1 and s["addresses"] == [address] for s in services)
    assert services[0]["counters"] == {
        "in_packets": 10, "in_bytes": 1000, "out_packets": 9, "out_bytes": 900, "flows": 2,
    }  # fmt: skip
    assert services[1]["counters"] is None


def test_status_tells_what_is_wrong(api: Api) -> None:
    assert api.ok("GET", "/v1/status")["state"] == "ok"
    api.backend.problems = [Problem("uplink eth0", "generic XDP", "", Severity.WARNING)]
    assert api.ok("GET", "/v1/status")["state"] == "ok"
    api.backend.pending = 3
    assert api.ok("GET", "/v1/status")["state"] == "syncing"
    api.backend.problems.append(Problem("interface tap7", "it does not exist", "Create it."))
    status = api.ok("GET", "/v1/status")
    assert status["state"] == "failed"
    assert status["problems"][1] == {
        "object": "interface tap7",
        "message": "it does not exist",
        "remedy": "Create it.",
        "severity": "error",
    }


def test_drops_are_named_and_described(api: Api) -> None:
    api.backend.drop_counters = [DropCounter(6, 10, 1000), DropCounter(63, 1, 60)]
    known, unknown = api.ok("GET", "/v1/drops")["items"]
    assert known["reason"] == "no_service"
    assert "no service" in known["description"]
    assert unknown["reason"] == "reason_63"


def test_a_deployment_reports_versions_warnings_and_addresses(web: Api) -> None:
    text = FLY_TOML + "\n[surprise]\nx = 1\n"
    report = web.ok("POST", "/v1/apps/web/deployments", {"config": text})
    assert report["version"] == 1
    assert report["services"] == 2
    assert any("surprise" in warning for warning in report["warnings"])
    status, answer = web("POST", "/v1/apps/web/deployments", {"config": text, "strict": True})
    assert status == 422
    assert "surprise" in answer["error"]["message"]
    assert web.ok("POST", "/v1/apps/web/deployments", {"config": FLY_TOML})["version"] == 2


WRONG = [
    ("GET", "/v1/nothing", None, 404, "no such resource"),
    ("PUT", "/v1/orgs", {}, 405, "no such method"),
    ("GET", "/v1/orgs/", None, 404, "no such resource"),
    ("GET", "/v1/orgs/nobody", None, 404, "nobody"),
    ("GET", "/v1/apps/none", None, 404, "none"),
    ("GET", "/v1/apps/none/deployment", None, 404, "none"),
    ("GET", "/v1/apps/web/deployment", None, 404, "not been deployed"),
    ("GET", "/v1/machines/0123456789abcd", None, 404, "0123456789abcd"),
    ("GET", "/v1/machines?app=none", None, 404, "none"),
    ("GET", "/v1/services?app=none", None, 404, "none"),
    ("GET", "/v1/addresses?app=none", None, 404, "none"),
    ("GET", "/v1/apps?org=none", None, 404, "none"),
    ("GET", "/v1/networks?org=none", None, 404, "none"),
    ("GET", "/v1/apps?app=web", None, 422, "unknown query parameter 'app'"),
    ("GET", "/v1/apps?org=a&org=b", None, 422, "given twice"),
    ("GET", "/v1/events?since=soon", None, 422, "not a number"),
    ("GET", "/v1/events?since=" + "9" * 5000, None, 422, "not a number"),
    ("GET", "/v1/events?since=999999", None, 422, "after the store's last revision"),
    ("GET", "/v1/orgs", {"name": "x"}, 422, "takes no body"),
    ("POST", "/v1/orgs", None, 400, "empty"),
    ("POST", "/v1/orgs", {}, 422, "name: missing"),
    ("POST", "/v1/orgs", [], 422, "expected an object"),
    ("POST", "/v1/orgs", {"name": 1}, 422, "name: expected a string"),
    ("POST", "/v1/orgs", {"name": "No Such Name!"}, 422, "No Such Name!"),
    ("POST", "/v1/orgs", {"name": "acme"}, 409, "acme"),
    ("POST", "/v1/orgs", {"name": "x", "color": "red"}, 422, "color: unknown field"),
    ("POST", "/v1/apps", {"name": "web", "org": "acme"}, 409, "web"),
    ("POST", "/v1/apps", {"name": "new", "org": "none"}, 404, "none"),
    ("POST", "/v1/apps", {"name": "new", "org": "acme", "network": "1x"}, 422, "1x"),
    ("POST", "/v1/apps/none/machines", machine_body(), 404, "none"),
    ("POST", "/v1/apps/web/machines", machine_body(mac="nonsense"), 422, "nonsense"),
    ("POST", "/v1/apps/web/machines", machine_body(interface="a/b"), 422, "a/b"),
    ("POST", "/v1/apps/web/machines", machine_body(id="xyz"), 422, "xyz"),
    ("POST", "/v1/apps/web/machines", machine_body(metadata={"a": 1}), 422, "metadata.a"),
    ("POST", "/v1/apps/web/addresses", {"type": "v6"}, 422, "type: 'v6' is not allowed"),
    ("POST", "/v1/apps/none/addresses", {"type": "v4"}, 404, "none"),
    ("POST", "/v1/apps/web/addresses/release", {"addresses": []}, 422, "at least 1"),
    ("POST", "/v1/apps/web/addresses/release", {"addresses": ["198.51.100.1"]}, 404, "198.51"),
    ("POST", "/v1/apps/web/deployments", {"config": "app = = 1"}, 422, "line 1"),
    ("POST", "/v1/apps/none/deployments", {"config": FLY_TOML}, 404, "none"),
    ("POST", "/v1/config/validate", {"config": 7}, 422, "config: expected a string"),
    ("POST", f"/v1/machines/{MACHINE}/start", None, 404, "0123456789abcd"),
    ("PATCH", f"/v1/machines/{MACHINE}/metadata", {}, 422, "either 'set' or 'unset'"),
    ("DELETE", "/v1/apps/none", None, 404, "none"),
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with serving(tmp_path_factory.mktemp("api")) as (backend, path):
        api = Api(backend, path)
        api.ok("POST", "/v1/orgs", {"name": "acme"})
        api.ok("POST", "/v1/apps", {"name": "web", "org": "acme"})
        yield api


@pytest.mark.parametrize("case", WRONG, ids=lambda case: f"{case[0]} {case[1][:60]} {case[3]}")
def test_wrong_requests_change_nothing(
    shared: Api, case: tuple[str, str, object, int, str]
) -> None:
    method, target, body, status, message = case
    before = shared.backend.store.revision()
    got, answer = shared(method, target, body)
    assert message in answer["error"]["message"]
    assert got == status
    assert shared.backend.store.revision() == before


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (b"{not json", {}, 400, "not JSON"),
        (b"\xff\xfe", {}, 400, "not UTF-8"),
        (b"[" * 200_000, {}, 400, "nested too deeply"),
        (b'{"name": "a", "name": "b"}', {}, 400, "twice"),
        (b'{"name": "' + b"x" * (1 << 20) + b'"}', {}, 413, "1024 KiB"),
    ],
)
def test_bodies_that_cannot_be_read(
    shared: Api, body: bytes, headers: dict[str, str], status: int, message: str
) -> None:
    got, answer = shared.raw("POST", "/v1/orgs", body, **headers)
    assert got == status
    assert message in answer["error"]["message"]


def test_a_chunked_body_is_limited_too(shared: Api) -> None:
    connection = UnixConnection(shared.path)
    chunks = iter([b"x" * 65536] * 17)
    connection.request("POST", "/v1/orgs", chunks, encode_chunked=True, headers={
        "Transfer-Encoding": "chunked",
    })  # fmt: skip
    response = connection.getresponse()
    assert response.status == 413
    assert json.loads(response.read())["error"]["code"] == "too_large"
    connection.close()


def test_a_fault_of_the_daemon_shows_no_traceback(
    shared: Api, caplog: pytest.LogCaptureFixture
) -> None:
    shared.backend.crash = ZeroDivisionError("secret detail")
    try:
        status, answer = shared("GET", "/v1/status")
    finally:
        shared.backend.crash = None
    assert status == 500
    assert "secret detail" not in json.dumps(answer)
    incident = re.search(r"under (\w+)", answer["error"]["remedy"])
    assert incident is not None
    assert incident[1] in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_errors_of_the_backend_keep_their_words(shared: Api) -> None:
    shared.backend.crash = KernelError("map slots: not permitted", "Run it as root.")
    try:
        status, answer = shared("GET", "/v1/status")
    finally:
        shared.backend.crash = None
    assert status == 500
    assert answer["error"] == {
        "code": "kernel",
        "message": "map slots: not permitted",
        "remedy": "Run it as root.",
    }


def test_a_reload_that_fails_says_why(shared: Api) -> None:
    shared.backend.reload_error = ConfigError("line 3: unknown key 'hots'", "Did you mean 'host'?")
    try:
        status, answer = shared("POST", "/v1/reload")
    finally:
        shared.backend.reload_error = None
    assert (status, answer["error"]["code"]) == (422, "config")


def test_a_record_that_cannot_be_read_hides_nothing_else(web: Api) -> None:
    web.ok("POST", "/v1/apps/web/machines", machine_body())
    broken = Put("deployment", "web", {"app": "web", "services": "?"})
    web.backend.store.commit(Transaction((), (broken,)))
    assert web.ok("GET", "/v1/apps")["items"][0]["version"] is None
    assert len(web.ok("GET", "/v1/machines")["items"]) == 1
    assert web.ok("GET", "/v1/services")["items"] == []
