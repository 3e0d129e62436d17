# SPDX-License-Identifier: Apache-2.0
"""Wrong requests: each gets its status and message, and changes nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from flyebpf.errors import ConfigError, KernelError
from tests.api import (
    FLY_TOML,
    MACHINE,
    Api,
    UnixConnection,
    certificate_body,
    machine_body,
)
from tests.fakes_backend import serving

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
    ("GET", "/v1/events?since=soon", None, 422, "not a whole number"),
    ("GET", "/v1/events?since=" + "9" * 5000, None, 422, "not a whole number"),
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
    (
        "POST",
        "/v1/apps/web/addresses",
        {"type": "egress"},
        422,
        "type: 'egress' is not allowed",
    ),
    ("POST", "/v1/apps/none/addresses", {"type": "v4"}, 404, "none"),
    ("POST", "/v1/apps/web/addresses", {"type": "shared_v4"}, 503, "needs the proxy"),
    ("POST", "/v1/apps/web/addresses", {"type": "private_v6"}, 503, "needs the proxy"),
    ("POST", "/v1/apps/web/addresses", {"type": "v4", "org": "acme"}, 422, "of Flycast addresses"),
    ("POST", "/v1/apps/web/addresses", {"type": "v4", "network": ""}, 422, "of Flycast addresses"),
    ("POST", "/v1/apps/web/addresses/release", {"addresses": []}, 422, "at least 1"),
    ("POST", "/v1/apps/web/addresses/release", {"addresses": ["198.51.100.1"]}, 404, "198.51"),
    ("POST", "/v1/apps/web/deployments", {"config": "app = = 1"}, 422, "line 1"),
    ("POST", "/v1/apps/none/deployments", {"config": FLY_TOML}, 404, "none"),
    ("POST", "/v1/config/validate", {"config": 7}, 422, "config: expected a string"),
    ("POST", f"/v1/machines/{MACHINE}/start", None, 404, "0123456789abcd"),
    ("PATCH", f"/v1/machines/{MACHINE}/metadata", {}, 422, "either 'set' or 'unset'"),
    ("DELETE", "/v1/apps/none", None, 404, "none"),
    ("GET", "/v1/hosts/h9", None, 404, "h9"),
    ("POST", "/v1/hosts/h9/drain", None, 404, "h9"),
    ("POST", "/v1/hosts/h9/remove", {}, 404, "h9"),
    ("POST", "/v1/hosts/h1/remove", {"force": True}, 409, "is the one that was asked"),
    ("POST", "/v1/hosts/h1/remove", {"force": "yes"}, 422, "force: expected true or false"),
    ("POST", "/v1/join-tokens", {}, 503, "a file of its own"),
    ("POST", "/v1/join-tokens", {"minutes": 0}, 422, "minutes: 0 is less than 1"),
    ("POST", "/v1/join-tokens", {"minutes": 43201}, 422, "minutes: 43201 is more than"),
    ("POST", "/v1/key-rotation", None, 503, "no host has WireGuard keys"),
    ("POST", "/v1/key-rotation/finish", None, 409, "no rotation of keys"),
    ("POST", f"/v1/machines/{MACHINE}/move", {}, 422, "interface: missing"),
    ("POST", f"/v1/machines/{MACHINE}/move", {"interface": "t"}, 404, MACHINE),
    ("GET", "/v1/certificates?app=none", None, 404, "none"),
    ("GET", "/v1/certificates/www.example.com", None, 404, "www.example.com has no"),
    ("GET", "/v1/certificates/x", None, 422, "'x' is not valid"),
    ("DELETE", "/v1/certificates/www.example.com", None, 404, "www.example.com has no"),
    ("POST", "/v1/certificates", {"hostname": "x"}, 422, "certificate: missing"),
    ("POST", "/v1/certificates", certificate_body(app="none"), 404, "none"),
    ("POST", "/v1/certificates", certificate_body(), 422, "no certificate of the operator"),
    ("POST", "/v1/certificates", certificate_body("a.example.org", app="web"), 422, "is for *."),
    ("POST", "/v1/certificates", certificate_body(app="web", key="x" * 65_537), 422, "longer"),
    ("GET", "/v1/wireguard-peers?org=none", None, 404, "none"),
    ("GET", "/v1/wireguard-peers/status?org=none", None, 404, "none"),
    ("GET", "/v1/orgs/acme/wireguard-peers/none", None, 404, "acme/none"),
    ("DELETE", "/v1/orgs/acme/wireguard-peers/none", None, 404, "acme/none"),
    ("POST", "/v1/wireguard-peers", {"name": "x"}, 422, "org: missing"),
    ("POST", "/v1/wireguard-peers", {"name": "x", "org": "acme"}, 503, "'h1' has no address"),
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
