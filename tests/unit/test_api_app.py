# SPDX-License-Identifier: Apache-2.0
"""The API over its socket: every route, and what it answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flyebpf.api.backend import (
    DropCounter,
    MeshDevice,
    MeshPeer,
    MeshStatus,
    Problem,
    ServiceCounters,
    Severity,
)
from flyebpf.api.routes import ROUTES
from flyebpf.config import AcmeConfig, ProxyConfig
from flyebpf.model.health import CheckResult
from flyebpf.model.records import Address, AddressKind, Host, HostStatus
from flyebpf.ops import health
from flyebpf.ops.transact import Tx, transact
from flyebpf.store.base import Entry, Put, Transaction
from flyebpf.store.sqlite import SqliteStore
from tests.api import (
    FLY_TOML,
    Api,
    certificate_body,
    machine_body,
    make_cluster,
    use_proxy,
)
from tests.fakes_backend import serving
from tests.stores import GATEWAY_KEY


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with serving(tmp_path) as (backend, path):
        yield Api(backend, path)


@pytest.fixture
def web(api: Api) -> Api:
    """An organization, an app and a machine."""
    api.ok("POST", "/v1/orgs", {"name": "acme"})
    api.ok("POST", "/v1/apps", {"name": "web", "org": "acme"})
    return api


def test_every_route_answers_by_its_schema(web: Api) -> None:
    web.backend.drop_counters = [DropCounter(6, 10, 1000), DropCounter(63, 1, 60)]
    devices = [MeshDevice("fly0", "kernel", 0, 51820)]
    peers = [MeshPeer("h2", "fly0", True, "192.0.2.2:51820", 1.5, 1, 2, None)]
    web.backend.mesh = MeshStatus(0, 0, devices, peers)
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
        f"{one}/hosts", "/v1/services", "/v1/checks", "/v1/addresses", "/v1/apps/web/deployment",
        "/v1/dns?name=web.internal&type=AAAA&tcp=1",
        "/v1/doctor",
        "/v1/doctor?app=web",
    ):  # fmt: skip
        web.ok("GET", target)
    web.ok("POST", "/v1/reload")
    use_replays(web)
    use_cluster(web, one)
    use_certificates(web)
    owned = [item["address"] for item in web.ok("GET", "/v1/addresses?app=web")["items"]]
    web.ok("POST", "/v1/apps/web/addresses/release", {"addresses": owned})
    web.ok("DELETE", one)
    web.ok("DELETE", "/v1/apps/web")
    assert web.used == {route.name for route in ROUTES if not route.stream}


def use_replays(web: Api) -> None:
    web.ok("POST", "/v1/orgs", {"name": "others"})
    web.ok("POST", "/v1/orgs/acme/replay-sources", {"source": "others"})
    org = web.ok("POST", "/v1/orgs/acme/cross-network-replays", {"enabled": True})
    assert (org["replay_sources"], org["cross_network_replays"]) == (["others"], True)
    assert web.ok("DELETE", "/v1/orgs/acme/replay-sources/others")["replay_sources"] == []


class Counting(SqliteStore):
    """Counts what each request asks of the store."""

    asked = 0

    def get(self, kind: str, id: str) -> Entry | None:
        self.asked += 1
        return super().get(kind, id)

    def list(self, kind: str) -> list[Entry]:
        self.asked += 1
        return super().list(kind)


def test_lists_ask_the_store_a_few_times(web: Api, tmp_path: Path) -> None:
    """However long they are: an answer of etcd takes a millisecond or more."""
    make_cluster(web)
    for number in range(1, 31):
        name = f"a{number}"
        web.ok("POST", "/v1/apps", {"name": name, "org": "acme", "network": f"n{number}"})
        web.ok("POST", f"/v1/apps/{name}/machines", machine_body(number))
        web.ok("POST", f"/v1/apps/{name}/deployments", {"config": FLY_TOML})
        peer = {"name": name, "org": "acme", "network": f"n{number}"}
        web.ok("POST", "/v1/wireguard-peers", peer)
        web.ok("POST", "/v1/certificates", certificate_body(f"{name}.example.com", app=name))
    counting = Counting(tmp_path / "state.db", durable=False)
    web.backend.store = counting
    for what in (
        "apps", "machines", "services", "addresses", "hosts", "networks", "orgs",
        "wireguard-peers", "wireguard-peers/status", "certificates", "checks",
    ):  # fmt: skip
        counting.asked = 0
        web.ok("GET", f"/v1/{what}")
        assert counting.asked <= 8, what
    counting.close()


def test_every_kind_of_address(web: Api) -> None:
    use_proxy(web)
    web.ok("POST", "/v1/orgs", {"name": "globex"})
    target = "/v1/apps/web/addresses"
    shared = web.ok("POST", target, {"type": "shared_v4"})
    assert (shared["type"], shared["address"][:8]) == ("shared_v4", "192.0.2.")
    own = web.ok("POST", target, {"type": "private_v6"})
    assert (own["address"], own["org"], own["network"]) == ("fdaa:0:1:0:1::1", "acme", "default")
    other = web.ok("POST", target, {"type": "private_v6", "org": "globex"})
    assert (other["app"], other["org"], other["network"]) == ("web", "globex", "default")
    assert other["network_id"] == "00000002"
    listed = web.ok("GET", "/v1/addresses?app=web")["items"]
    assert listed == [shared, own, other]
    released = {"addresses": [item["address"] for item in listed]}
    assert web.ok("POST", f"{target}/release", released)["items"] == listed


def test_a_flycast_address_is_on_its_callers_network(web: Api) -> None:
    web.ok("POST", "/v1/apps", {"name": "api", "org": "acme", "network": "lan"})
    record = Address("fdaa:0:2:0:1::1", "web", AddressKind.PRIVATE_V6, "lan", org="acme")
    transact(web.backend.store, lambda tx: tx.put(record))
    (shown,) = web.ok("GET", "/v1/addresses?app=web")["items"]
    assert (shown["org"], shown["network"], shown["network_id"]) == ("acme", "lan", "00000002")


def use_cluster(api: Api, machine: str) -> None:
    """Every route of hosts and WireGuard peers."""
    make_cluster(api)
    peer = {"name": "laptop", "org": "acme"}
    assert "PrivateKey" in api.ok("POST", "/v1/wireguard-peers", peer)["config"]
    api.ok("POST", f"{machine}/move", {"host": "h2", "interface": "tap7"})
    for target in (
        "/v1/hosts", "/v1/hosts/h2", "/v1/wireguard-peers", "/v1/wireguard-peers/status",
        "/v1/orgs/acme/wireguard-peers/laptop", "/v1/key-rotation",
    ):  # fmt: skip
        api.ok("GET", target)
    assert api.ok("POST", "/v1/hosts/h2/drain")["drained"]
    assert not api.ok("POST", "/v1/hosts/h2/undrain")["drained"]
    api.ok("POST", f"{machine}/move", {"interface": "tap1"})
    api.ok("POST", "/v1/key-rotation")
    add_next_keys(api)
    api.ok("POST", "/v1/key-rotation/finish")
    api.ok("POST", "/v1/hosts/h2/remove", {"force": True})
    api.ok("DELETE", "/v1/orgs/acme/wireguard-peers/laptop")
    api.ok("POST", "/v1/join-tokens", {"minutes": 5})
    assert api.ok("DELETE", "/v1/join-tokens") == {"revoked": 1}


def use_certificates(api: Api) -> None:
    api.ok("POST", "/v1/certificates", certificate_body(app="web"))
    for target in ("/v1/certificates", "/v1/certificates/www.example.com"):
        assert "PRIVATE" not in json.dumps(api.ok("GET", target))
    api.ok("DELETE", "/v1/certificates/www.example.com?app=web")
    before = api.backend.config
    acme = AcmeConfig("https://authority.example/directory")
    api.backend.config = replace(before, proxy=ProxyConfig("envoy"), acme=acme)
    api.ok("POST", "/v1/acme", {"hostname": "www.example.com", "app": "web"})
    for target in ("/v1/acme", "/v1/acme?app=web", "/v1/acme/www.example.com"):
        api.ok("GET", target)
    api.ok("POST", "/v1/acme/www.example.com/check", {})
    api.ok("DELETE", "/v1/acme/www.example.com")
    api.backend.config = before


def add_next_keys(api: Api) -> None:
    """As the hosts' daemons do it."""

    def action(tx: Tx) -> None:
        for name in ("h1", "h2"):
            host = tx.require(Host, name)
            tx.put(replace(host, keys={**host.keys, "1": GATEWAY_KEY}))
            tx.put(HostStatus(name, "", ready_generation=1))

    transact(api.backend.store, action)


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
    assert app["hostname"] == "api.fly.test"


def test_lists_are_limited_to_the_app_asked_for(web: Api) -> None:
    web.ok("POST", "/v1/apps", {"name": "api", "org": "acme"})
    web.ok("POST", "/v1/apps/web/machines", machine_body(1))
    other = web.ok("POST", "/v1/apps/api/machines", machine_body(2))
    found = web.ok("GET", "/v1/machines?app=api")["items"]
    assert [item["id"] for item in found] == [other["id"]]
    assert len(web.ok("GET", "/v1/machines")["items"]) == 2


def test_checks(web: Api) -> None:
    """Those of services and of the app, with what the machine's host has found."""
    machine = web.ok("POST", "/v1/apps/web/machines", machine_body())
    text = """
        [[services]]
        internal_port = 8080
        [[services.tcp_checks]]
        [[services.ports]]
        port = 7000
        [checks.db]
        type = "http"
        port = 5432
    """
    web.ok("POST", "/v1/apps/web/deployments", {"config": text})
    result = CheckResult("db", False, "HTTP 500; 2xx passes", "2026-01-01T00:00:00Z")
    health.publish(web.backend.store, machine["host"], {machine["id"]: (result,)})
    first, second = web.ok("GET", "/v1/checks?app=web")["items"]
    assert (first["name"], first["status"], first["routing"], first["since"]) == (
        *("servicecheck-00-tcp-8080", "unknown", True, ""),
    )
    assert (second["name"], second["status"], second["routing"], second["output"]) == (
        *("db", "critical", False, result.output),
    )
    shown = web.ok("GET", f"/v1/machines/{machine['id']}")["checks"]
    assert shown == {"passing": 0, "critical": 1}


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


def test_services_say_which_address_carries_which_port(web: Api) -> None:
    use_proxy(web)
    text = """
        [http_service]
        internal_port = 3000
        force_https = true
        concurrency = { type = "requests", soft_limit = 5, hard_limit = 9 }
        [[http_service.checks]]
        path = "/up"
        [[services]]
        ports = [{ port = 25 }, { port = 993, handlers = ["tls"] }]
        internal_port = 25
        [[services]]
        protocol = "udp"
        ports = [{ port = 53 }]
        internal_port = 53
    """
    for name in ("www.example.com", "a.example.com"):
        web.ok("POST", "/v1/certificates", certificate_body(name, app="web"))
    report = web.ok("POST", "/v1/apps/web/deployments", {"config": text})
    shared, six = report["allocated"]
    own = web.ok("POST", "/v1/apps/web/addresses", {"type": "v4"})["address"]
    found = {s["first_port"]: s for s in web.ok("GET", "/v1/services?app=web")["items"]}
    names = ["web.fly.test", "a.example.com", "www.example.com"]
    alone, both = sorted((own, six)), sorted((shared, own, six))
    assert {port: sorted(s["addresses"]) for port, s in found.items()} == {
        80: both, 443: both, 25: alone, 993: both, 53: alone,
    }  # fmt: skip
    assert {port: s["hostnames"] for port, s in found.items()} == {
        80: names, 443: names, 25: [], 993: names, 53: [],
    }  # fmt: skip
    assert {port: s["needs_proxy"] for port, s in found.items()} == {
        80: True, 443: True, 25: False, 993: True, 53: False,
    }  # fmt: skip
    limits = {"type": "requests", "soft_limit": 5, "hard_limit": 9}
    assert (found[80]["force_https"], found[443]["force_https"]) == (True, False)
    assert (found[80]["concurrency"], found[80]["checks"]) == (limits, 1)


def test_a_flycast_address_carries_every_stream(web: Api) -> None:
    use_proxy(web)
    body = {"config": FLY_TOML, "flycast": True}
    (private,) = web.ok("POST", "/v1/apps/web/deployments", body)["allocated"]
    found = web.ok("GET", "/v1/services?app=web")["items"]
    assert [(s["protocol"], s["addresses"]) for s in found] == [
        ("tcp", [private]),
        ("tcp", [private]),
        ("udp", []),
    ]
    assert [s["needs_proxy"] for s in found] == [True, True, False]


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


def test_a_record_that_cannot_be_read_hides_nothing_else(web: Api) -> None:
    web.ok("POST", "/v1/apps/web/machines", machine_body())
    broken = Put("deployment", "web", {"app": "web", "services": "?"})
    web.backend.store.commit(Transaction((), (broken,)))
    assert web.ok("GET", "/v1/apps")["items"][0]["version"] is None
    assert len(web.ok("GET", "/v1/machines")["items"]) == 1
    assert web.ok("GET", "/v1/services")["items"] == []
