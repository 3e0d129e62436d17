# SPDX-License-Identifier: Apache-2.0
"""From the proxy's rows to Envoy's resources: which ones, and which are made anew."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from google.protobuf.json_format import ParseDict

from flyebpf.bpf.layout import PROXY_WAITING
from flyebpf.model.proxyrows import (
    Chain,
    ProxyBindRow,
    ProxyCertificateRow,
    ProxyClusterRow,
    ProxyEndpoint,
    ProxyRouteRow,
    ProxyRow,
    ProxySniRow,
)
from flyebpf.model.records import HttpOptions, TlsOptions
from flyebpf.proxy import ads, chains  # noqa: F401 (ads: the messages' types)
from flyebpf.proxy.bootstrap import Paths, bootstrap
from flyebpf.proxy.chains import Signed
from flyebpf.proxy.resources import Type
from flyebpf.proxy.table import Gone, Table

VIP, SIX = "203.0.113.1", "2001:db8::1"
ENDPOINT = ProxyEndpoint("m1", "172.16.0.2", 8080, "ams")
CLUSTER = ProxyClusterRow("web/8080:app", "web", (ENDPOINT,), http=True)
TCP = ProxyClusterRow("web/8080:app+tcp", "web", (ENDPOINT,), http=False)
ROUTE = ProxyRouteRow("web/80", "web", False, CLUSTER.name)
SECURE = ProxyRouteRow("web/443", "web", True, CLUSTER.name)
BIND = ProxyBindRow(VIP, 80, 80, Chain.HTTP, ROUTE.name, "web")
SECURE_BIND = ProxyBindRow(VIP, 443, 443, Chain.HTTPS, SECURE.name, "web", TlsOptions())
CERTIFICATE = ProxyCertificateRow("web/a", "web", ("a.example.com", "*.b.example.com"), "C", "K")


class Envoy:
    """What somebody has who is told a table's changes."""

    def __init__(self, *rows: Any) -> None:
        self.table = Table()
        self.has: dict[Gone, Any] = {}
        self.put(*rows)

    def put(self, *rows: Any) -> set[Gone]:
        for row in rows:
            self.table.put(row)
        return self.take()

    def remove(self, row: Any) -> set[Gone]:
        self.table.remove(type(row), row.key)
        return self.take()

    def take(self) -> set[Gone]:
        """The changes: names of what was put or has gone."""
        puts, gone = self.table.changes()
        for name in gone:
            del self.has[name]
        for kind, name, body in puts:
            self.has[kind, name] = json.loads(body)
        return {(kind, name) for kind, name, _ in puts} | set(gone)

    def domains(self, name: str) -> list[str]:
        return list(self.has[Type.VHOST, name]["domains"])


def test_a_route_is_found_by_the_addresses_that_lead_to_it() -> None:
    envoy = Envoy(CLUSTER, ROUTE, BIND)
    assert envoy.domains("own-http|web/80") == [f"{VIP}:80"]
    envoy.put(replace(BIND, address=SIX))
    assert envoy.domains("own-http|web/80") == [f"{VIP}:80", f"[{SIX}]:80"]
    envoy.remove(BIND)
    assert envoy.domains("own-http|web/80") == [f"[{SIX}]:80"]


def test_over_tls_the_name_is_one_of_the_apps() -> None:
    """Another app's certificate, shown at this app's address, leads nowhere."""
    envoy = Envoy(CLUSTER, SECURE, SECURE_BIND, CERTIFICATE)
    local = f"{VIP}:443"
    assert envoy.domains("own-https|web/443") == [
        f"{name}/{local}" for name in ("*.b.example.com", "", "a.example.com")
    ]
    envoy.remove(CERTIFICATE)
    assert envoy.domains("own-https|web/443") == [f"/{local}"]


def test_hosts_of_shared_addresses() -> None:
    envoy = Envoy(CLUSTER, replace(ROUTE, hosts=("web.fly.test", "*.web.fly.test")))
    assert envoy.domains("shared-http|web/80") == ["*.web.fly.test", "web.fly.test"]
    assert (Type.VHOST, "own-http|web/80") not in envoy.has


def test_a_route_without_a_way_to_it_is_none() -> None:
    assert Envoy(ROUTE).has == {}


def test_one_changed_machine_is_one_changed_resource() -> None:
    envoy = Envoy(CLUSTER, ROUTE, BIND, SECURE, SECURE_BIND, CERTIFICATE)
    second = replace(ENDPOINT, machine="m2", address="172.16.0.4")
    assert envoy.put(replace(CLUSTER, endpoints=(ENDPOINT, second))) == {
        (Type.ENDPOINTS, CLUSTER.name)
    }


def test_a_changed_app_changes_nothing_of_another() -> None:
    others = [replace(CLUSTER, name="db/1:app", app="db"), replace(ROUTE, name="db/80", app="db")]
    envoy = Envoy(CLUSTER, ROUTE, BIND, *others, replace(BIND, address=SIX, target="db/80"))
    assert envoy.put(replace(ROUTE, force_https=True)) == {(Type.VHOST, "own-http|web/80")}


def test_what_is_the_same_again_is_no_change() -> None:
    envoy = Envoy(CLUSTER, ROUTE, BIND)
    assert envoy.put(CLUSTER, ROUTE, BIND) == set()


def test_all_of_an_app_goes() -> None:
    rows = [CLUSTER, ROUTE, BIND, SECURE, SECURE_BIND, CERTIFICATE, TCP]
    envoy = Envoy(*rows)
    for row in rows:
        envoy.remove(row)
    assert envoy.has == {}


def test_whoever_has_lost_them_gets_all_again() -> None:
    envoy = Envoy(CLUSTER, ROUTE, BIND)
    before = set(envoy.has)
    envoy.table.forget_given()
    assert envoy.take() == before


def test_priorities_and_draining() -> None:
    far = replace(ENDPOINT, machine="m2", address="172.17.0.2", region="fra", priority=1)
    leaving = replace(ENDPOINT, machine="m3", address="172.16.0.6", draining=True)
    envoy = Envoy(replace(CLUSTER, endpoints=(ENDPOINT, leaving, far)))
    near, farther = envoy.has[Type.ENDPOINTS, CLUSTER.name]["endpoints"]
    assert (near["priority"], farther["priority"]) == (0, 1)
    assert [e.get("health_status") for e in near["lb_endpoints"]] == [None, "DRAINING"]
    address = farther["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
    assert address == {"address": "172.17.0.2", "port_value": 8080}


RAW = ProxyBindRow(SIX, 5432, 5432, Chain.RAW, TCP.name, "web")
TLS_BIND = ProxyBindRow(VIP, 8443, 8443, Chain.TLS, TCP.name, "web", TlsOptions())


def clusters(envoy: Envoy) -> set[str]:
    return {name for kind, name in envoy.has if kind is Type.CLUSTER}


def let_in(envoy: Envoy, name: str) -> list[Any]:
    """The server names for which a cluster's machines can be reached."""
    body = envoy.has[Type.CLUSTER, name]
    found = body.get("transport_socket_matcher", {"matcher_list": {"matchers": []}})
    predicates = [one["predicate"]["single_predicate"] for one in found["matcher_list"]["matchers"]]
    return [next(iter(one["value_match"].values())) for one in predicates]


def test_a_tls_port_is_for_the_names_of_its_apps_certificates() -> None:
    envoy = Envoy(TCP, TLS_BIND)
    name = f"tls/{VIP}:8443"
    assert let_in(envoy, name) == ["*"]
    envoy.put(CERTIFICATE)
    assert let_in(envoy, name) == [
        {"google_re2": {}, "regex": r"[^.]+\.b\.example\.com"},
        "a.example.com",
        "*",
    ]
    for version in ("", "v2"):
        envoy.put(replace(TCP, proxy_proto=version))
        body = envoy.has[Type.CLUSTER, name]
        assert body["transport_socket"]["name"] == "envoy.transport_sockets.tls"
        (found,) = body["transport_socket_matches"]
        assert ("proxy_protocol" in found["transport_socket"]["name"]) is bool(version)
        ParseDict(body, Cluster())


def test_a_limit_that_several_ports_share_lets_in_all_of_their_names() -> None:
    signs = replace(TLS_BIND, first_port=9443, last_port=9443, tls=SIGNS)
    envoy = Envoy(replace(TCP, hard=7), RAW, TLS_BIND, CERTIFICATE)
    assert let_in(envoy, TCP.name)[1:] == ["a.example.com", "*"]
    envoy.put(signs)
    assert let_in(envoy, TCP.name)[1:] == ["a.example.com", "*", "-"]
    envoy.remove(signs)
    envoy.remove(TLS_BIND)
    assert "transport_socket_matcher" not in envoy.has[Type.CLUSTER, TCP.name]


def test_connections_that_are_not_http_find_their_cluster_by_name() -> None:
    assert clusters(Envoy(TCP, RAW)) == {f"raw/[{SIX}]:5432"}
    assert clusters(Envoy(TCP, replace(RAW, last_port=5440))) == {f"range0/{SIX}"}
    assert clusters(Envoy(TCP, TLS_BIND, CERTIFICATE)) == {f"tls/{VIP}:8443"}
    assert clusters(Envoy(TCP, ProxySniRow(993, "a.example.com", TCP.name))) == {
        "sni/993/a.example.com"
    }


def test_http_on_other_ports_of_shared_addresses_goes_round_by_a_pipe() -> None:
    sni = ProxySniRow(8443, "a.example.com", "", SECURE.name)
    envoy = Envoy(CLUSTER, SECURE, sni)
    assert clusters(envoy) == {CLUSTER.name, "sni/8443/a.example.com"}
    assert envoy.domains("inner-https|web/443") == ["a.example.com:8443|8443", "a.example.com|8443"]
    ParseDict(envoy.has[Type.CLUSTER, "sni/8443/a.example.com"], Cluster())
    envoy.remove(sni)
    assert clusters(envoy) == {CLUSTER.name}
    assert (Type.VHOST, "inner-https|web/443") not in envoy.has


def test_several_ranges_of_an_address_have_places_of_their_own() -> None:
    first, second = replace(RAW, last_port=5440), replace(RAW, first_port=6000, last_port=6009)
    envoy = Envoy(TCP, first, second)
    assert clusters(envoy) == {f"range0/{SIX}", f"range1/{SIX}"}
    envoy.remove(first)
    assert clusters(envoy) == {f"range1/{SIX}"}
    envoy.put(replace(RAW, first_port=7000, last_port=7001))
    assert clusters(envoy) == {f"range0/{SIX}", f"range1/{SIX}"}


def test_each_name_has_the_machines() -> None:
    envoy = Envoy(TCP, RAW, replace(RAW, address=VIP))
    found = {name for kind, name in envoy.has if kind is Type.ENDPOINTS}
    assert found == clusters(envoy) == {f"raw/{VIP}:5432", f"raw/[{SIX}]:5432"}
    assert envoy.put(replace(TCP, endpoints=())) == {(Type.ENDPOINTS, name) for name in found}


def test_load_reports_of_all_that_a_cluster_is_called() -> None:
    envoy = Envoy(replace(CLUSTER, watched=True), ROUTE, BIND)
    assert envoy.has[Type.LOADS, CLUSTER.name] == {"clusters": [CLUSTER.name]}
    assert (Type.LOADS, CLUSTER.name) in envoy.put(CLUSTER)
    raw = ProxyBindRow(SIX, 7000, 7001, Chain.RAW, TCP.name, "web")
    tls = ProxyBindRow(VIP, 8443, 8443, Chain.TLS, TCP.name, "web", TlsOptions())
    envoy = Envoy(replace(TCP, watched=True))
    assert (Type.LOADS, TCP.name) not in envoy.has
    envoy.put(raw, tls, CERTIFICATE, ProxySniRow(9000, "a.example.com", TCP.name))
    assert envoy.has[Type.LOADS, TCP.name] == {
        "clusters": sorted(name for kind, name in envoy.has if kind is Type.CLUSTER)
    }
    envoy.remove(raw)
    assert envoy.has[Type.LOADS, TCP.name] == {
        "clusters": ["sni/9000/a.example.com", f"tls/{VIP}:8443"]
    }


@pytest.mark.parametrize(("version", "word"), [("v1", "V1"), ("v2", "V2")])
def test_proxy_protocol(version: str, word: str) -> None:
    envoy = Envoy(replace(TCP, proxy_proto=version), RAW)
    (name,) = clusters(envoy)
    config = envoy.has[Type.CLUSTER, name]["transport_socket"]["typed_config"]
    assert config["config"] == {"version": word}


def test_h2_backends_and_hard_limits() -> None:
    envoy = Envoy(replace(CLUSTER, h2=True, hard=7))
    body = envoy.has[Type.CLUSTER, CLUSTER.name]
    (options,) = body["typed_extension_protocol_options"].values()
    assert options["explicit_http_config"] == {"http2_protocol_options": {}}
    assert body["circuit_breakers"]["per_host_thresholds"] == [{"max_connections": 7}]


def vhost(**options: Any) -> Any:
    envoy = Envoy(CLUSTER, replace(ROUTE, options=HttpOptions(**options)), BIND)
    return envoy.has[Type.VHOST, "own-http|web/80"]


def test_one_limit_under_all_names() -> None:
    """Machines' connections are counted once, whatever clients dial."""
    limited = replace(TCP, hard=3, watched=True)
    envoy = Envoy(limited, RAW, replace(RAW, address=VIP))
    aliases = {f"raw/{VIP}:5432", f"raw/[{SIX}]:5432"}
    assert clusters(envoy) == {TCP.name, *aliases}
    assert {name for kind, name in envoy.has if kind is Type.ENDPOINTS} == {TCP.name}
    for name in aliases:
        config = envoy.has[Type.CLUSTER, name]["cluster_type"]["typed_config"]
        assert config["clusters"] == [TCP.name]
    loads = envoy.has[Type.LOADS, TCP.name]
    assert (loads["clusters"], loads["hard"], loads["queue"]) == ([TCP.name], 3, True)
    assert loads["endpoints"] == envoy.has[Type.ENDPOINTS, TCP.name]
    sleeping = replace(ENDPOINT, draining=True)
    envoy.put(replace(limited, wakes=True, endpoints=(sleeping,)))
    loads = envoy.has[Type.LOADS, TCP.name]
    assert len(loads["endpoints"]["endpoints"]) == 2
    assert loads["endpoints"] == envoy.has[Type.ENDPOINTS, TCP.name]
    envoy.put(replace(limited, proxy_proto="v1"))
    assert envoy.has[Type.LOADS, TCP.name]["queue"] is False
    envoy.put(TCP)
    assert clusters(envoy) == aliases


def test_requests_over_h2_are_limited_as_connections() -> None:
    def streams(**limits: Any) -> Any:
        row = replace(CLUSTER, h2=True, **limits)
        options = Envoy(row).has[Type.CLUSTER, CLUSTER.name]["typed_extension_protocol_options"]
        (found,) = options.values()
        return found["explicit_http_config"]["http2_protocol_options"]

    assert streams(limit="requests", hard=5) == {"max_concurrent_streams": 1}
    assert streams(limit="requests") == {}
    assert streams(limit="connections", hard=5) == {}


def test_response_headers() -> None:
    body = vhost(response_headers=(("x-a", ("50%", "b")), ("x-gone", ())))
    assert body["response_headers_to_remove"] == ["x-a", "x-gone"]
    added = [(h["header"]["key"], h["header"]["value"]) for h in body["response_headers_to_add"]]
    assert added[-2:] == [("x-a", "50%%"), ("x-a", "b")]
    assert [key for key, _ in added[:-2]] == ["fly-request-id", "server", "via"]
    assert "response_headers_to_add" not in vhost(pristine=True)


def test_idle_timeout() -> None:
    assert vhost(idle_timeout=5)["routes"][0]["route"]["idle_timeout"] == "5s"


def test_no_service_answers() -> None:
    envoy = Envoy(replace(ROUTE, cluster=""), BIND)
    body = envoy.has[Type.VHOST, "own-http|web/80"]
    assert body["routes"][0]["direct_response"] == {"status": 503}


def test_region_of_the_edge() -> None:
    row = ProxyRow("proxy", "h1", "ams", "172.16.0.1", (), ())
    envoy = Envoy(row)
    assert len(envoy.has) == 5
    changed = envoy.put(replace(row, region="fra"))
    assert changed == {(Type.ROUTES, name) for _, name in changed}
    assert len(changed) == 5


def test_keys_are_not_shown() -> None:
    assert "K" not in repr(CERTIFICATE).replace("ProxyCertificateRow", "")


FALLBACK = ProxyCertificateRow("/self-signed", "", (), "C", "K", fallback=True)
SIGNS = TlsOptions(default_self_signed=True)


def test_without_a_certificate_the_one_that_vouches_for_nobody_is_for_any_name() -> None:
    bind, raw = replace(SECURE_BIND, tls=SIGNS), replace(TLS_BIND, tls=SIGNS)
    envoy = Envoy(FALLBACK, SECURE, bind, raw, CLUSTER, TCP)
    assert envoy.table.signed(bind) is Signed.ALL
    assert envoy.domains("own-https|web/443") == [f"*/{VIP}:443", f"/{VIP}:443"]
    assert f"raw/{VIP}:8443" in clusters(envoy)
    assert envoy.has[Type.CERTIFICATE, "/self-signed"]["hosts"] == ["/self-signed", "/nameless"]


def test_with_a_certificate_it_is_for_clients_that_say_no_name() -> None:
    bind, raw = replace(SECURE_BIND, tls=SIGNS), replace(TLS_BIND, tls=SIGNS)
    envoy = Envoy(SECURE, bind, raw, CLUSTER, TCP, CERTIFICATE)
    assert envoy.table.signed(bind) is Signed.NAMELESS
    assert f"/{VIP}:443" in envoy.domains("own-https|web/443")
    assert let_in(envoy, f"tls/{VIP}:8443")[-1] == "-"
    assert f"raw/{VIP}:8443" not in clusters(envoy)
    assert set(envoy.table.stale_binds) == {bind.key, raw.key}


def test_every_listener_has_a_number_of_its_own() -> None:
    found = list(chains.all_listeners())
    assert len({one.number for one in found}) == len({one.name for one in found}) == len(found)
    assert max(one.number for one in found) < PROXY_WAITING


@pytest.mark.parametrize("alpn", [("h2", "http/1.1"), ("http/1.1",), (), ("h2",), ("mqtt",)])
@pytest.mark.parametrize("versions", [("TLSv1.2", "TLSv1.3"), ("TLSv1.3",), ("TLSv1.2",)])
@pytest.mark.parametrize("signed", Signed)
def test_each_set_of_tls_options_has_a_listener(
    alpn: tuple[str, ...], versions: tuple[str, ...], signed: Signed
) -> None:
    found = chains.with_tls(Chain.HTTPS, TlsOptions(alpn, versions), signed)
    assert found in set(chains.all_listeners())
    assert found.tls is not None
    assert found.tls.versions == versions
    assert found.signed is signed
    assert set(found.tls.alpn) == set(alpn) & {"h2", "http/1.1"}


def test_headers_that_envoy_would_refuse_all_routes_for() -> None:
    """They are left out, whatever was deployed."""
    many = tuple((f"x-{number}", ("a",)) for number in range(1100))
    headers = (("Host", ("a",)), ("host", ()), ("x-long", ("%" * 8193,)), ("x-fine", ("b",)), *many)
    route = replace(ROUTE, options=HttpOptions(response_headers=headers))
    body = Envoy(CLUSTER, route, BIND).has[Type.VHOST, f"own-http|{ROUTE.name}"]
    added = [one["header"]["key"] for one in body["response_headers_to_add"]]
    removed = body["response_headers_to_remove"]
    assert "x-fine" in added
    assert not {"Host", "host"} & {*added, *removed}
    assert "x-long" not in added
    assert len(added) == len(removed) == 1000


def test_envoy_has_a_limit_to_its_memory(tmp_path: Path) -> None:
    row = ProxyRow("proxy", "h1", "ams", "172.16.0.1", (), ())
    limited = bootstrap(row, Paths(tmp_path), memory=1 << 30)["overload_manager"]
    (monitor,) = limited["resource_monitors"]
    assert monitor["typed_config"]["max_heap_size_bytes"] == 1 << 30
    assert all(t["name"] == monitor["name"] for a in limited["actions"] for t in a["triggers"])
    assert "overload_manager" not in bootstrap(row, Paths(tmp_path))
