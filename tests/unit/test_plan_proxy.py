# SPDX-License-Identifier: Apache-2.0
"""What the proxy of a host serves of an app."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import pytest

from flyebpf.config import DaemonConfig, MachinesConfig, PoolsConfig
from flyebpf.model.certificates import DEFAULT, SelfSigned
from flyebpf.model.checkrows import CheckRow
from flyebpf.model.health import CheckResult, MachineChecks
from flyebpf.model.proxyrows import (
    Chain,
    ProxyAppRow,
    ProxyBindRow,
    ProxyCertificateRow,
    ProxyClusterRow,
    ProxyEndpoint,
    ProxyRouteRow,
    ProxyRow,
    ProxySniRow,
    ProxyTargetRow,
)
from flyebpf.model.records import (
    Address,
    AddressKind,
    AnyRecord,
    App,
    Check,
    Concurrency,
    Deployment,
    HttpOptions,
    Latency,
    MachineState,
    Network,
    Port,
    Presence,
    Service,
    TlsOptions,
)
from flyebpf.model.rows import ReplyRow, Row, ServiceRow, SlotRow, TableRow
from flyebpf.model.state import State
from flyebpf.plan import HOST, Planner
from tests.records import (
    CONFIG,
    MESH,
    PROXY,
    address,
    deployment,
    flycast,
    host,
    machine,
    pair,
    service,
    shared,
    state,
)

R = TypeVar("R", bound=Row)
VIP, CAST, SHARED = "203.0.113.1", "fdaa:0:7:0:1::1", "198.51.100.1"
HTTP, TLS, BOTH = ("http",), ("tls",), ("http", "tls")
WEB = deployment(
    Service("tcp", 8080, (Port(80, 80, HTTP), Port(443, 443, BOTH)), processes=("app",))
)
ONE = machine(1)
LAN = Network("acme", "lan", 9)
SIGNED = SelfSigned(DEFAULT, "signed chain", "signed key", "2030-01-01T00:00:00Z")


ONLY_REPLAYS = {ProxyAppRow, ProxyClusterRow, ProxyTargetRow}
"""Of an app with services for HTTP that has no address: other apps' replays reach it."""


def app(*records: AnyRecord) -> State:
    return state(App("web", "acme"), host(1), *records)


def rows(of: State, kind: type[R], name: str = "web") -> list[R]:
    """The rows of a kind of an app that has no problems."""
    planner = Planner(PROXY)
    found = planner.rows(of, ("proxy", name))
    assert not planner.problems
    return [row for row in found if isinstance(row, kind)]


def problems(of: State, owner: str = "proxy") -> list[str]:
    planner = Planner(PROXY)
    planner.rows(of, (owner, "web"))
    return planner.problems.get((owner, "web"), [])


def test_a_web_app_on_every_kind_of_address() -> None:
    here = app(WEB, address(), shared(), flycast(), ONE)
    found = Planner(PROXY).rows(here, ("proxy", "web"))
    cluster, targets = "web/8080:app", ("web/80", "web/443")
    binds = [
        ProxyBindRow(where, port, port, chain, f"web/{port}", "web", tls)
        for port, chain, tls in ((80, Chain.HTTP, None), (443, Chain.HTTPS, TlsOptions()))
        for where in (VIP, CAST)
    ]
    routes = [
        ProxyRouteRow(name, "web", name == "web/443", cluster, ("web.fly.test",))
        for name in targets
    ]
    endpoint = ProxyEndpoint(ONE.id, ONE.private_ip, 8080, "ams")
    assert sorted(map(repr, found)) == sorted(
        map(
            repr,
            [
                *binds,
                *routes,
                ProxyAppRow("web", "acme", "default", ports=((80, cluster), (443, cluster))),
                ProxyClusterRow(cluster, "web", (endpoint,), http=True, port=8080, groups=("app",)),
                ProxyTargetRow(ONE.private_ip, 8080, ONE.id),
            ],
        )
    )


WAYS: list[tuple[str, tuple[str, ...], str, list[AnyRecord], list[str]]] = [
    ("handlers on an own address", HTTP, "tcp", [address()], [VIP]),
    ("a raw stream on an own address is the kernel's", (), "tcp", [address()], []),
    ("handlers on Flycast", HTTP, "tcp", [flycast()], [CAST]),
    ("a raw stream on Flycast", (), "tcp", [flycast()], [CAST]),
    ("a raw stream on both: the proxy has one", (), "tcp", [address(), flycast()], [CAST]),
    ("datagrams are never the proxy's", (), "udp", [address(), flycast()], []),
    ("no address at all", HTTP, "tcp", [], []),
    ("shared addresses need no bind", HTTP, "tcp", [shared()], []),
]


@pytest.mark.parametrize(
    ("handlers", "protocol", "records", "where"), [w[1:] for w in WAYS], ids=[w[0] for w in WAYS]
)
def test_where_a_port_is_bound(
    handlers: tuple[str, ...], protocol: str, records: list[AnyRecord], where: list[str]
) -> None:
    here = app(deployment(service(80, handlers=handlers, protocol=protocol)), ONE, *records)
    assert [bind.address for bind in rows(here, ProxyBindRow)] == where
    served = bool(where) or (handlers == HTTP and protocol == "tcp")  # by replays
    assert bool(rows(here, ProxyClusterRow)) is served
    assert bool(rows(here, ProxyTargetRow)) is served, "no other port of a machine is opened"


VIP6 = "2001:db8::1"


def test_an_own_ipv6_address_is_as_an_own_ipv4_one() -> None:
    """Ports with handlers; raw streams and datagrams are the kernel's."""
    six = address(VIP6, type=AddressKind.V6)
    made = service(80, handlers=HTTP), service(81, to=81), service(82, to=82, protocol="udp")
    here = app(deployment(*made), six, ONE)
    assert [(b.address, b.first_port) for b in rows(here, ProxyBindRow)] == [(VIP6, 80)]
    assert [t.port for t in rows(here, ProxyTargetRow)] == [8080]
    kernel = Planner(PROXY).rows(here, ("app", "web"))
    assert {(r.first_port, r.proxy) for r in kernel if isinstance(r, ServiceRow)} == {
        (80, True),
        (81, False),
        (82, False),
    }
    both = app(deployment(*made), six, address(), ONE)
    assert [b.address for b in rows(both, ProxyBindRow)] == [VIP, VIP6]
    replies = Planner(PROXY).rows(both, ("machine", ONE.id))
    assert {r.internal_port for r in replies if isinstance(r, ReplyRow)} == {81, 82}


def test_an_ipv6_address_of_no_pool_is_bound_nowhere() -> None:
    other = address("2001:db9::1", type=AddressKind.V6)
    here = app(WEB, other, ONE)
    planner = Planner(PROXY)
    assert {type(row) for row in planner.rows(here, ("proxy", "web"))} == ONLY_REPLAYS
    planner.rows(here, ("app", "web"))
    assert "pools.anycast_v6" in planner.problems["app", "web"][0]


CHAINS = [
    ((), Chain.RAW, "web/8080:app+tcp"),
    (("proxy_proto",), Chain.RAW, "web/8080:app+tcp+v1"),
    (HTTP, Chain.HTTP, "web/80"),
    (TLS, Chain.TLS, "web/8080:app+tcp"),
    (("tls", "proxy_proto"), Chain.TLS, "web/8080:app+tcp+v1"),
    (("tls", "http"), Chain.HTTPS, "web/80"),
    (("pg_tls",), Chain.PG_TLS, "web/8080:app+tcp"),
    (("proxy_proto", "pg_tls"), Chain.PG_TLS, "web/8080:app+tcp+v1"),
]


@pytest.mark.parametrize(("handlers", "chain", "target"), CHAINS)
def test_handlers_are_chains(handlers: tuple[str, ...], chain: Chain, target: str) -> None:
    here = app(deployment(service(80, handlers=handlers)), ONE, flycast())
    (bind,) = rows(here, ProxyBindRow)
    assert (bind.chain, bind.target) == (chain, target)
    assert (bind.tls is not None) == (chain in (Chain.TLS, Chain.HTTPS, Chain.PG_TLS))
    named = rows(here, ProxyRouteRow) if chain in (Chain.HTTP, Chain.HTTPS) else []
    named += rows(here, ProxyClusterRow)  # type: ignore[arg-type]
    assert target in [row.name for row in named]


def test_options_reach_the_rows() -> None:
    http = HttpOptions(compress=True, h2_backend=True, response_headers=(("x", ("1",)),))
    tls = TlsOptions(alpn=("h2",), versions=("TLSv1.3",))
    ports = (
        Port(80, 80, HTTP, force_https=True, http_options=http),
        Port(443, 443, BOTH, tls_options=tls),
        Port(25, 25, ("proxy_proto",), proxy_proto_version="v2"),
    )
    limits = Concurrency("requests", 5, 10)
    made = Service("tcp", 8080, ports, processes=("app",), concurrency=limits)
    here = app(deployment(made), ONE, address())
    routes = {row.name: row for row in rows(here, ProxyRouteRow)}
    assert (routes["web/80"].options, routes["web/80"].force_https) == (http, True)
    assert (routes["web/443"].options, routes["web/443"].force_https) == (HttpOptions(), False)
    assert {bind.first_port: bind.tls for bind in rows(here, ProxyBindRow)} == {
        80: None,
        443: tls,
        25: None,
    }
    clusters = {row.name: row for row in rows(here, ProxyClusterRow)}
    assert set(clusters) == {"web/8080:app+h2", "web/8080:app", "web/8080:app+tcp+v2"}
    assert routes["web/80"].cluster == "web/8080:app+h2"
    assert [(c.h2, c.proxy_proto) for c in clusters.values()] == [
        (True, ""),
        (False, ""),
        (False, "v2"),
    ]
    assert {(c.limit, c.soft, c.hard) for c in clusters.values()} == {("requests", 5, 10)}


def test_a_range_is_one_bind() -> None:
    here = app(deployment(service((5000, 5010), handlers=TLS)), ONE, address())
    (bind,) = rows(here, ProxyBindRow)
    assert (bind.first_port, bind.last_port) == (5000, 5010)


def test_two_services_to_one_port_keep_their_own_limits() -> None:
    first = service(80, handlers=HTTP, groups=("app",))
    second = replace(
        service(81, handlers=HTTP, groups=("app",)), concurrency=Concurrency(hard_limit=1)
    )
    third = service(82, handlers=HTTP, groups=("app",))
    here = app(deployment(first, second, third), ONE, address())
    assert {row.name: row.cluster for row in rows(here, ProxyRouteRow)} == {
        "web/80": "web/8080:app",
        "web/81": "web/8080:app+s1",
        "web/82": "web/8080:app",
    }
    hard = {row.name: row.hard for row in rows(here, ProxyClusterRow)}
    assert hard == {"web/8080:app": None, "web/8080:app+s1": 1}
    assert len(rows(here, ProxyTargetRow)) == 1


LIMITED = Concurrency("requests", 2, 3)
PROXIED = (Port(80, 80, ("proxy_proto",)),)
WATCHED: list[tuple[str, dict[str, Any], list[AnyRecord], bool]] = [
    ("nothing follows from it", {}, [], False),
    ("a limit in one region", {"concurrency": LIMITED}, [], False),
    ("a limit behind PROXY headers", {"concurrency": LIMITED, "ports": PROXIED}, [], True),
    ("another region helps out", {"concurrency": LIMITED}, ["lax"], True),
    ("another region without a limit", {}, ["lax"], False),
    ("a machine that may be started", {}, [MachineState.STOPPED], True),
    ("one that may not", {"auto_start": False}, [MachineState.STOPPED], False),
    ("machines that are stopped", {"auto_stop": "suspend"}, [], True),
]


@pytest.mark.parametrize(
    ("options", "more", "wanted"), [w[1:] for w in WATCHED], ids=[w[0] for w in WATCHED]
)
def test_whose_loads_are_wanted(options: dict[str, Any], more: list[Any], wanted: bool) -> None:
    one = replace(service(80, handlers=HTTP), **options)
    there = host(2, region="lax")
    second = {
        "lax": machine(2, host="h2", region="lax"),
        MachineState.STOPPED: machine(2, state=MachineState.STOPPED),
    }
    here = app(deployment(one), address(), ONE, there, *(second[which] for which in more))
    (cluster,) = rows(here, ProxyClusterRow)
    assert cluster.watched is wanted


PROBE, SEEN = Check("http", path="/up"), Check("tcp", name="db", port=5432)
CHECKED = replace(service(80, handlers=HTTP), checks=(PROBE,))


def test_checks_of_machines_here() -> None:
    """Asked from where the proxy asks, at ports that are opened for it; also of
    services that the proxy does not serve."""
    checked = replace(deployment(CHECKED, service(9, to=99)), checks=(SEEN,))
    far, off = machine(2, host="h2"), machine(3, state=MachineState.STOPPED)
    for reached in ([address()], []):
        here = app(checked, ONE, far, off, host(2), *reached)
        found = [(row.machine, row.name, row.address, row.port) for row in rows(here, CheckRow)]
        assert found == [
            (ONE.id, "servicecheck-00-http-8080", ONE.private_ip, 8080),
            (ONE.id, "db", ONE.private_ip, 5432),
        ]
        assert {row.source for row in rows(here, CheckRow)} == {"172.16.0.1"}
        opened = {(row.address, row.port) for row in rows(here, ProxyTargetRow)}
        assert opened >= {(ONE.private_ip, 8080), (ONE.private_ip, 5432)}


def test_checks_are_for_their_groups() -> None:
    named = replace(SEEN, processes=("db",))
    services = replace(CHECKED, processes=("web",))
    checked = replace(deployment(services, processes=("web", "db")), checks=(named,))
    here = app(checked, machine(1, group="web"), machine(2, group="db"), address())
    found = {(row.machine, row.name) for row in rows(here, CheckRow)}
    assert found == {(machine(1).id, "servicecheck-00-http-8080"), (machine(2).id, "db")}


def result(passing: bool, name: str = "servicecheck-00-http-8080") -> MachineChecks:
    return MachineChecks(ONE.id, (CheckResult(name, passing),))


@pytest.mark.parametrize(
    ("found", "drains"),
    [(result(True), False), (result(False), True), (result(False, "db"), False)],
)
def test_a_machine_that_fails_gets_nothing_new(found: MachineChecks, drains: bool) -> None:
    """From the proxy as from the kernel; what is only reported changes nothing, nor
    does another service's check."""
    raw = replace(service(7000), checks=())
    here = app(deployment(CHECKED, raw), ONE, machine(2), address(), found)
    by_service = {row.soft: row for row in rows(here, ProxyClusterRow)}
    (cluster,) = by_service.values()
    assert [e.draining for e in cluster.endpoints] == [drains, False]
    tables = {
        r.name: r.backends
        for r in Planner(PROXY).rows(here, ("app", "web"))
        if isinstance(r, TableRow)
    }
    other = machine(2).id
    assert tables == {
        "web:app/0": (other,) if drains else (ONE.id, other),
        "web:app": (ONE.id, other),
    }


def test_nobody_passes() -> None:
    """Then nobody is served, as on the platform."""
    here = app(deployment(CHECKED), ONE, address(), result(False))
    (cluster,) = rows(here, ProxyClusterRow)
    assert all(endpoint.draining for endpoint in cluster.endpoints)


def test_many_groups_have_a_short_name() -> None:
    groups = tuple(f"g{number:03}{'x' * 59}" for number in range(300))
    services = (
        service(80, handlers=HTTP, groups=groups),
        service(81, handlers=HTTP, groups=groups[1:]),
    )
    here = app(
        Deployment("web", services, processes=groups), address(), machine(1, group=groups[0])
    )
    first, second = (row.name for row in rows(here, ProxyClusterRow))
    assert first != second
    assert len(first) == len(second) == len("web/8080:~") + 32


def test_groups_have_clusters_of_their_own() -> None:
    here = app(
        Deployment(
            "web",
            (
                service(80, handlers=HTTP, groups=("front",)),
                service(81, to=81, handlers=HTTP, groups=("back", "front")),
            ),
            processes=("front", "back"),
        ),
        address(),
        machine(1, group="front"),
        machine(2, group="back"),
        machine(3, group="cron"),
    )
    found = {row.name: [e.machine for e in row.endpoints] for row in rows(here, ProxyClusterRow)}
    assert found == {
        "web/8080:front": [machine(1).id],
        "web/81:back,front": [machine(1).id, machine(2).id],
    }
    assert {(row.machine, row.port) for row in rows(here, ProxyTargetRow)} == {
        (machine(1).id, 8080),
        (machine(1).id, 81),
        (machine(2).id, 81),
    }


def far(number: int, place: int, **values: Any) -> Any:
    """Machine ``number`` on host h<place>, with addresses of its block."""
    block = f"172.16.{place * 16 - 16}"
    places = {"private_ip": f"{block}.{2 * number}", "services_ip": f"{block}.{2 * number + 1}"}
    return machine(number, host=f"h{place}", **(places | values))


def spread(*more: AnyRecord) -> State:
    """Machines here, in a near region and in a far one."""
    return app(
        WEB,
        address(),
        host(2, "fra"),
        host(3, "lhr"),
        Latency("h1", "ams", {"fra": 9000, "lhr": 7000}),
        far(1, 1),
        far(2, 2, region="fra"),
        far(3, 3, region="lhr"),
        *more,
    )


def endpoints(of: State) -> list[tuple[int, int, bool]]:
    """Number, priority and draining of the cluster's endpoints."""
    (cluster,) = rows(of, ProxyClusterRow)
    return [(int(e.machine, 16), e.priority, e.draining) for e in cluster.endpoints]


def test_regions_are_priorities_the_nearest_first() -> None:
    here = spread(far(4, 2, region="fra"), far(5, 1))
    assert endpoints(here) == [
        (1, 0, False),
        (5, 0, False),
        (3, 1, False),
        (2, 2, False),
        (4, 2, False),
    ]
    (cluster,) = rows(here, ProxyClusterRow)
    assert [e.region for e in cluster.endpoints] == ["ams", "ams", "lhr", "fra", "fra"]


CHANGES: list[tuple[str, list[AnyRecord], list[tuple[int, int, bool]]]] = [
    (
        "a stopped machine is no endpoint, and leaves no gap",
        [far(1, 1, state=MachineState.STOPPED)],
        [(3, 0, False), (2, 1, False)],
    ),
    (
        "a suspended one neither",
        [far(3, 3, state=MachineState.SUSPENDED)],
        [(1, 0, False), (2, 1, False)],
    ),
    (
        "a cordoned machine keeps the connections that it has",
        [far(1, 1, cordoned=True)],
        [(1, 0, True), (3, 1, False), (2, 2, False)],
    ),
    (
        "so do those of a host that is drained",
        [host(3, "lhr", drained=True)],
        [(1, 0, False), (3, 1, True), (2, 2, False)],
    ),
    (
        "where the store knows of no daemon at all, nobody counts as gone",
        [],
        [(1, 0, False), (3, 1, False), (2, 2, False)],
    ),
    (
        "and those of this host when it is drained",
        [host(1, drained=True)],
        [(1, 0, True), (3, 1, False), (2, 2, False)],
    ),
    (
        "a host without a key is not reached",
        [host(2, "fra", keys={})],
        [(1, 0, False), (3, 1, False)],
    ),
    (
        "nor is one that has no place in the mesh",
        [host(2, "fra", number=7)],
        [(1, 0, False), (3, 1, False)],
    ),
    (
        "machines of a host whose daemon is gone keep the connections that they have",
        [Presence("h1"), Presence("h2")],
        [(1, 0, False), (3, 1, True), (2, 2, False)],
    ),
    (
        "a machine that claims another's address gets nothing",
        [far(4, 1, private_ip="172.16.0.2")],
        [(1, 0, False), (3, 1, False), (2, 2, False)],
    ),
    (
        "nor does a machine of no group of the service",
        [far(1, 1, group="cron")],
        [(3, 0, False), (2, 1, False)],
    ),
]


@pytest.mark.parametrize(
    ("records", "found"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES]
)
def test_what_becomes_of_machines(
    records: list[AnyRecord], found: list[tuple[int, int, bool]]
) -> None:
    here = spread(*records)
    assert endpoints(here) == found
    targets = {int(row.machine, 16) for row in rows(here, ProxyTargetRow)}
    assert targets == {number for number, _, _ in found}


def test_hosts_without_daemons_are_better_than_nobody() -> None:
    here = spread(
        Presence("h1"),
        far(1, 1, state=MachineState.STOPPED),
    )
    assert endpoints(here) == [(3, 0, False), (2, 1, False)]


def test_no_machine_at_all_is_a_cluster_without_endpoints() -> None:
    here = app(WEB, address())
    (cluster,) = rows(here, ProxyClusterRow)
    assert cluster.endpoints == ()
    assert rows(here, ProxyTargetRow) == []


def test_machines_of_other_hosts_have_slots_for_their_targets() -> None:
    """Also where only the proxy leads to them: a target refers to its slot."""
    for where in (address(), shared(), flycast()):
        here = app(WEB, where, host(2, "fra"), far(2, 2))
        (target,) = rows(here, ProxyTargetRow)
        slots = Planner(PROXY).rows(here, ("machine", target.machine))
        assert [type(row) for row in slots] == [SlotRow], where
    raw = app(deployment(service(80)), shared(), host(2, "fra"), far(2, 2))
    assert Planner(PROXY).rows(raw, ("machine", far(2, 2).id)) == []


def test_what_the_proxy_serves_has_no_replies_of_the_kernel() -> None:
    """A machine answers the proxy itself, not the client at its address."""
    both = deployment(service(80, handlers=HTTP), service(90, to=9090))
    here = app(both, address(), ONE)
    planner = Planner(PROXY)
    found = planner.rows(here, ("machine", ONE.id))
    assert [row.internal_port for row in found if isinstance(row, ReplyRow)] == [9090]
    services = [r for r in planner.rows(here, ("app", "web")) if isinstance(r, ServiceRow)]
    assert [(row.first_port, row.proxy) for row in services] == [(80, True), (90, False)]


def test_one_raw_way_beside_a_proxied_one_to_the_same_port_is_unique() -> None:
    both = deployment(service(80, handlers=HTTP), service(8080))
    here = app(both, address(), ONE)
    (reply,) = (
        r for r in Planner(PROXY).rows(here, ("machine", ONE.id)) if isinstance(r, ReplyRow)
    )
    assert (reply.port, reply.unique) == (8080, True)


def test_shared_addresses_ask_for_the_apps_names() -> None:
    certs = [pair(name) for name in ("www.example.com", "*.example.org", "web.flycast")]
    mine = pair("db.example.com", "db")
    here = app(WEB, shared(), ONE, *certs, mine)
    for route in rows(here, ProxyRouteRow):
        assert route.hosts == ("web.fly.test", "*.example.org", "www.example.com")
    assert rows(app(WEB, address(), ONE, *certs), ProxyRouteRow)[0].hosts == ()


def test_other_ports_of_shared_addresses_are_by_server_name() -> None:
    ports = (Port(993, 993, TLS), Port(8443, 8443, BOTH), Port(25, 25), Port(8080, 8080, HTTP))
    made = Service("tcp", 143, ports, processes=("app",))
    here = app(deployment(made), shared(), ONE, pair("mail.example.com"))
    cluster = "web/143:app+tcp"
    assert rows(here, ProxySniRow) == [
        ProxySniRow(993, "web.fly.test", cluster),
        ProxySniRow(993, "mail.example.com", cluster),
        ProxySniRow(8443, "web.fly.test", "", "web/8443"),
        ProxySniRow(8443, "mail.example.com", "", "web/8443"),
    ]
    (route,) = rows(here, ProxyRouteRow)
    assert (route.name, route.hosts, route.tls) == ("web/8443", (), True)
    assert {row.name for row in rows(here, ProxyClusterRow)} == {cluster, "web/143:app"}


def certificates(of: State) -> dict[tuple[str, ...], str]:
    """Hosts to the chain that they are shown."""
    found = rows(of, ProxyCertificateRow)
    assert all(row.app == "web" for row in found)
    assert all(row.chain.replace("chain", "key") == row.private_key for row in found)
    assert [row.fallback for row in found] == ["signed" in row.chain for row in found]
    return {row.hosts: row.chain for row in found}


OWN, OPERATORS = pair("web.fly.test"), pair("*.fly.test", "")
WANTS = deployment(
    Service(
        "tcp",
        8080,
        (Port(443, 443, BOTH, tls_options=TlsOptions(default_self_signed=True)),),
        processes=("app",),
    )
)
SHOWN: list[tuple[str, list[AnyRecord], dict[tuple[str, ...], str]]] = [
    ("none", [], {}),
    (
        "the app's own",
        [pair("a.example")],
        {("a.example",): "chain of a.example"},
    ),
    ("another app's is not shown", [pair("a.example", "db")], {}),
    (
        "the operator's for the default host name alone",
        [OPERATORS],
        {("web.fly.test",): "chain of *.fly.test"},
    ),
    (
        "the app's own for its default host name comes first",
        [OPERATORS, OWN],
        {("web.fly.test",): "chain of web.fly.test"},
    ),
    ("one that vouches for nobody is not shown where no port asks for it", [SIGNED], {}),
    (
        "one that vouches for nobody, for its default host name",
        [WANTS, SIGNED],
        {("web.fly.test",): "signed chain"},
    ),
    (
        "one that vouches for nobody is not for a name that has another",
        [WANTS, SIGNED, OPERATORS],
        {("web.fly.test",): "chain of *.fly.test"},
    ),
]


@pytest.mark.parametrize(("records", "shown"), [c[1:] for c in SHOWN], ids=[c[0] for c in SHOWN])
@pytest.mark.parametrize("where", [address(), shared(), flycast()], ids=lambda a: a.type.value)
def test_which_certificates_are_shown(
    where: Address, records: list[AnyRecord], shown: dict[tuple[str, ...], str]
) -> None:
    assert certificates(app(WEB, where, ONE, *records)) == shown


def test_without_tls_no_key_is_handed_out() -> None:
    here = app(deployment(service(80, handlers=HTTP)), address(), ONE, pair("a.example"))
    assert rows(here, ProxyCertificateRow) == []


def test_a_name_below_the_domain_is_nobody_elses() -> None:
    """A record that no command writes."""
    thief = pair("db.fly.test", "web")
    here = app(WEB, shared(), ONE, thief)
    assert all("db.fly.test" not in row.hosts for row in rows_of(here, ProxyRouteRow))
    assert rows_of(here, ProxyCertificateRow) == []
    (said,) = problems(here)
    assert "certificate of db.fly.test" in said
    assert "certs remove db.fly.test" in said


def rows_of(of: State, kind: type[R]) -> list[R]:
    """Also of an app with problems."""
    found = Planner(PROXY).rows(of, ("proxy", "web"))
    return [row for row in found if isinstance(row, kind)]


WRONG: list[tuple[str, list[AnyRecord], str]] = [
    ("a shared address of no pool", [shared(text="192.0.2.1")], "add its pool to pools.shared_v4"),
    ("a shared address that is a dedicated one", [shared(text=VIP)], "in no pool of this host"),
    ("a shared address that is none", [shared(text="nonsense")], "in no pool of this host"),
    (
        "a Flycast address of another network than it says",
        [replace(flycast(), address="fdaa:0:9:0:1::1"), LAN],
        "is not one of network acme/default",
    ),
    (
        "a machine's address in the place of a Flycast one",
        [replace(flycast(), address="fdaa:0:7:8000:1:0:65:2")],
        "is not one of network",
    ),
    (
        "the network's first address, which is nobody's",
        [replace(flycast(), address="fdaa:0:7:0:1::")],
        "is not one of network",
    ),
    (
        "a Flycast address that is none",
        [replace(flycast(), address="nonsense")],
        "is no IPv6 address",
    ),
    ("a network that is not there", [flycast(network=LAN)], "acme/lan is missing"),
    (
        "a network whose number is another's",
        [flycast(network=LAN), replace(LAN, number=7), replace(flycast(network=LAN), address=CAST)],
        "has the number of network acme/default",
    ),
]


@pytest.mark.parametrize(("records", "message"), [c[1:] for c in WRONG], ids=[c[0] for c in WRONG])
def test_an_address_that_cannot_be_served_stops_nothing_else(
    records: list[AnyRecord], message: str
) -> None:
    here = app(WEB, address(), ONE, *records)
    assert {row.address for row in rows_of(here, ProxyBindRow)} == {VIP}
    assert all(row.hosts == () for row in rows_of(here, ProxyRouteRow))
    found = problems(here, "app")
    assert any(message in text for text in found), found


def test_handlers_that_contradict_each_other_are_left_out() -> None:
    odd = service(25, handlers=("pg_tls", "http"))
    here = app(deployment(service(80, handlers=HTTP), odd), address(), ONE)
    assert [row.first_port for row in rows_of(here, ProxyBindRow)] == [80]
    (said,) = problems(here)
    assert "services[1]: the handlers pg_tls, http contradict" in said


def test_a_flycast_address_is_on_its_callers_network() -> None:
    here = app(WEB, LAN, flycast(network=LAN), ONE)
    assert {row.address for row in rows(here, ProxyBindRow)} == {"fdaa:0:9:0:1::1"}


def test_the_host_has_the_certificate_that_vouches_for_nobody() -> None:
    made = Planner(PROXY).rows(app(SIGNED), HOST)
    (row,) = (found for found in made if isinstance(found, ProxyCertificateRow))
    assert (row.app, row.hosts, row.fallback, row.chain) == ("", (), True, "signed chain")


def test_a_host_without_a_proxy_has_no_rows_of_one() -> None:
    here = app(WEB, address(), shared(), flycast(), ONE)
    for config in (CONFIG, MESH):
        planner = Planner(config)
        assert planner.rows(here, ("proxy", "web")) == []
        assert not any(owner[0] == "proxy" for owner in planner.all_owners(here))
        assert not any(isinstance(row, ProxyRow) for row in planner.rows(here, HOST))


def test_the_host_says_where_its_proxy_is() -> None:
    pools = PoolsConfig(("203.0.113.0/24",), ("2001:db8::/48",), ("198.51.100.0/30",))
    config = replace(PROXY, pools=pools)
    (row,) = (r for r in Planner(config).rows(app(), HOST) if isinstance(r, ProxyRow))
    assert row == ProxyRow(
        "proxy",
        "h1",
        "ams",
        "172.16.0.1",
        ("203.0.113.0/24", "2001:db8::/48"),
        ("198.51.100.0/30",),
    )


def test_an_app_that_is_gone_is_served_nowhere() -> None:
    here = state(WEB, address(), shared(), ONE, pair("a.example"))
    assert Planner(PROXY).rows(here, ("proxy", "web")) == []


def test_addresses_of_other_kinds_are_none_of_the_proxys() -> None:
    here = app(WEB, Address("203.0.113.9", "web", AddressKind.EGRESS), ONE)
    assert {type(row) for row in Planner(PROXY).rows(here, ("proxy", "web"))} == ONLY_REPLAYS


def test_where_machines_sleep_nothing_is_the_kernels() -> None:
    """It could not hold a client; what has no machine that sleeps stays there."""
    raw = replace(service(7000), auto_stop="stop")
    of = app(deployment(raw, service(7001), service(7002, protocol="udp")), address(), ONE)
    able = replace(PROXY, machines=MachinesConfig(start=("/bin/true",)))

    def by_proxy(config: DaemonConfig) -> dict[int, bool]:
        found = Planner(config).rows(of, ("app", "web"))
        return {row.first_port: row.proxy for row in found if isinstance(row, ServiceRow)}

    assert by_proxy(able) == {7000: True, 7001: False, 7002: False}
    assert by_proxy(PROXY) == {7000: False, 7001: False, 7002: False}
    binds = [
        row for row in Planner(able).rows(of, ("proxy", "web")) if isinstance(row, ProxyBindRow)
    ]
    assert [(bind.first_port, bind.chain) for bind in binds] == [(7000, Chain.RAW)]
