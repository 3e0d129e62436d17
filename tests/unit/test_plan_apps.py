# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flyebpf.model.records import AddressKind, AnyRecord, App, MachineState, Service
from flyebpf.model.rows import ReplyRow, Row, ServiceRow, TableRow, VipRow
from flyebpf.model.state import State
from flyebpf.plan import Planner
from tests.records import CONFIG, address, deployment, machine, service, state, web

ONE, TWO = machine(1), machine(2)
VIP, VIP2 = "203.0.113.1", "203.0.113.2"


def rows(of: State, app: str = "web") -> list[Row]:
    """The rows of an app that has no problems."""
    planner = Planner(CONFIG)
    found = planner.rows(of, ("app", app))
    assert not planner.problems
    return found


def services(of: State) -> list[ServiceRow]:
    return [row for row in rows(of) if isinstance(row, ServiceRow)]


def tables(of: State) -> dict[str, tuple[str, ...]]:
    return {row.name: row.backends for row in rows(of) if isinstance(row, TableRow)}


def problems(*records: AnyRecord, app: str = "web") -> tuple[list[Row], list[str]]:
    planner = Planner(CONFIG)
    found = planner.rows(web(*records), ("app", app))
    return found, planner.problems.get(("app", app), [])


def replies(of: State, ident: str = ONE.id) -> list[ReplyRow]:
    found = Planner(CONFIG).rows(of, ("machine", ident))
    return [row for row in found if isinstance(row, ReplyRow)]


def test_one_service_on_one_address() -> None:
    assert rows(web(TWO, ONE)) == [
        VipRow(VIP, "web", False),
        TableRow("web:app", (ONE.id, TWO.id)),
        ServiceRow(
            vip=VIP,
            proto=6,
            first_port=80,
            last_port=80,
            service=f"web/tcp/80@{VIP}",
            table="web:app",
            internal_port=8080,
            reverse=False,
            proxy=False,
        ),
    ]
    assert replies(web(ONE)) == [ReplyRow(ONE.id, 6, 8080, VIP, 80, f"web/tcp/80@{VIP}", True)]


def test_every_address_gets_every_service_under_a_counter_of_its_own() -> None:
    here = web(ONE, address(VIP2), deployment(service(80), service((5000, 5010), protocol="udp")))
    found = {(r.vip, r.proto, r.first_port, r.last_port, r.service) for r in services(here)}
    assert found == {
        (VIP, 6, 80, 80, f"web/tcp/80@{VIP}"),
        (VIP2, 6, 80, 80, f"web/tcp/80@{VIP2}"),
        (VIP, 17, 5000, 5010, f"web/udp/5000-5010@{VIP}"),
        (VIP2, 17, 5000, 5010, f"web/udp/5000-5010@{VIP2}"),
    }
    assert VipRow(VIP2, "web", True) in rows(here)


def test_only_dedicated_addresses_count() -> None:
    here = state(
        App("web", "acme"),
        deployment(service(80)),
        address("203.0.113.9", type=AddressKind.SHARED_V4),
        address("2001:db8::1", type=AddressKind.PRIVATE_V6),
        ONE,
    )
    assert rows(here) == []
    assert replies(here) == []


VIP6 = "2001:db8:f::1"
CONFIG6 = replace(CONFIG, pools=replace(CONFIG.pools, anycast_v6=("2001:db8:f::/48",)))


def test_ipv6_address_beside_an_ipv4_one() -> None:
    """One table for both; of IPv6 every flow is told apart, and replies of one family
    are not those of the other."""
    here = web(ONE, address(VIP6, type=AddressKind.V6))
    found = Planner(CONFIG6).rows(here, ("app", "web"))
    assert [r for r in found if isinstance(r, VipRow)] == [
        VipRow(VIP, "web", False),
        VipRow(VIP6, "web", False),
    ]
    assert [(r.vip, r.table, r.reverse) for r in found if isinstance(r, ServiceRow)] == [
        (VIP, "web:app", False),
        (VIP6, "web:app", True),
    ]
    rows = Planner(CONFIG6).rows(here, ("machine", ONE.id))
    assert [r for r in rows if isinstance(r, ReplyRow)] == [
        ReplyRow(ONE.id, 6, 8080, VIP, 80, f"web/tcp/80@{VIP}", True),
        ReplyRow(ONE.id, 6, 8080, VIP6, 80, f"web/tcp/80@{VIP6}", False),
    ]


def test_ipv6_address_alone() -> None:
    here = state(
        App("web", "acme"), deployment(service(80)), address(VIP6, type=AddressKind.V6), ONE
    )
    rows = Planner(CONFIG6).rows(here, ("machine", ONE.id))
    assert [r.vip for r in rows if isinstance(r, ReplyRow)] == [VIP6]


@pytest.mark.parametrize("text", ["2001:db8:e::1", "2001:db8:f::1:0", "2001:db8:f::4000"])
def test_ipv6_address_that_no_pool_gives_out(text: str) -> None:
    planner = Planner(CONFIG6)
    found = planner.rows(web(ONE, address(text, type=AddressKind.V6)), ("app", "web"))
    assert not any(isinstance(r, VipRow) and r.vip == text for r in found)
    assert [p for p in planner.problems["app", "web"] if "pools.anycast_v6" in p]


def test_an_address_without_services_is_known_all_the_same() -> None:
    here = state(App("web", "acme"), address(), ONE)
    assert rows(here) == [VipRow(VIP, "web", False)]
    assert replies(here) == []


@pytest.mark.parametrize(
    "values",
    [
        {"state": MachineState.STOPPED},
        {"state": MachineState.SUSPENDED},
        {"cordoned": True},
        {"host": "h2"},
        {"group": "worker"},
        {"private_ip": "10.0.0.1"},
    ],
)
def test_who_gets_no_new_flows(values: dict[str, Any]) -> None:
    assert tables(web(ONE, replace(TWO, **values)))["web:app"] == (ONE.id,)


def test_no_machine_at_all_is_an_empty_table() -> None:
    assert tables(web()) == {"web:app": ()}


def test_process_groups_have_their_own_tables() -> None:
    groups = ("web", "api", "worker")
    here = web(
        deployment(
            service(80, groups=("web",)),
            service(81, to=81, groups=("web", "api")),
            service(82, to=82, groups=("api", "web")),
            processes=groups,
        ),
        *(machine(n, group=group) for n, group in enumerate(groups, 1)),
    )
    assert tables(here) == {
        "web:web": (machine(1).id,),
        "web:api,web": (machine(1).id, machine(2).id),
    }
    assert {row.first_port: row.table for row in services(here)} == {
        80: "web:web",
        81: "web:api,web",
        82: "web:api,web",
    }
    assert [r.internal_port for r in replies(here, machine(1).id)] == [8080, 81, 82]
    assert [r.internal_port for r in replies(here, machine(2).id)] == [81, 82]
    assert replies(here, machine(3).id) == []


def test_handlers_need_the_proxy() -> None:
    here = web(deployment(service(80, handlers=("http",)), service(90, to=9090)))
    assert {row.first_port: row.proxy for row in services(here)} == {80: True, 90: False}


@pytest.mark.parametrize(
    ("records", "reverse"),
    [
        ([], {80: False}),
        ([address(VIP2)], {80: True}),
        ([deployment(service(80, 81))], {80: True, 81: True}),
        ([deployment(service(80), service(81))], {80: True, 81: True}),
        ([deployment(service(80), service(81, to=81))], {80: False, 81: False}),
        ([deployment(service(80), service(80, protocol="udp"))], {80: False}),
        ([deployment(service((80, 89)))], {80: True}),
        ([deployment(service((80, 80)))], {80: False}),
        (
            [deployment(service(80, groups=("a",)), service(81, groups=("b",)))],
            {80: False, 81: False},
        ),
        (
            [deployment(service(80, groups=("app",)), service(81, groups=("app", "b")))],
            {80: True, 81: True},
        ),
    ],
)
def test_several_ways_to_one_internal_port(
    records: list[AnyRecord], reverse: dict[int, bool]
) -> None:
    here = web(ONE, *records)
    assert {row.first_port: row.reverse for row in services(here)} == reverse
    for row in replies(here):
        assert row.unique is not reverse[80]
        assert (row.vip, row.port) == (VIP, 80 if row.internal_port == 8080 else 81)


def test_reply_of_one_group_is_unique_although_another_has_several_ways() -> None:
    here = web(
        deployment(service(80, groups=("app",)), service(81, 82, groups=("b",))),
        ONE,
        machine(2, group="b"),
    )
    assert replies(here) == [ReplyRow(ONE.id, 6, 8080, VIP, 80, f"web/tcp/80@{VIP}", True)]
    assert replies(here, TWO.id) == [ReplyRow(TWO.id, 6, 8080, VIP, 81, f"web/tcp/81@{VIP}", False)]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (service((90, 70), to=9), "90-70 are impossible"),
        (service(70000, to=9), "70000-70000 are impossible"),
        (service(90, to=0), "internal port 0"),
        (service(90, to=9, protocol="sctp"), "sctp"),
        (service((70, 90), to=9), "70-90 overlaps 80-80"),
        (service(80, to=9), "80 overlaps 80-80"),
        (service((1, 65535), to=9), "overlaps 80-80"),
    ],
)
def test_an_impossible_service_does_not_stop_the_others(bad: Service, message: str) -> None:
    found, said = problems(deployment(service(80), bad, service(99, to=99)))
    assert [row.first_port for row in found if isinstance(row, ServiceRow)] == [80, 99]
    assert len(said) == 1
    assert message in said[0]
    assert "services[1]" in said[0]


def test_neighbouring_ranges_do_not_overlap() -> None:
    here = web(deployment(service((10, 19)), service((30, 39), to=1), service((20, 29), to=2)))
    assert [row.first_port for row in services(here)] == [10, 30, 20]


def test_a_service_of_no_group_when_there_are_several() -> None:
    found, said = problems(deployment(service(80), processes=("web", "worker")))
    assert found == [VipRow(VIP, "web", False)]
    assert "web, worker" in said[0]


def test_the_only_group_is_the_default() -> None:
    here = web(deployment(service(80), processes=("srv",)), machine(1, group="srv"))
    assert tables(here) == {"web:srv": (ONE.id,)}


def test_an_address_outside_the_pools_does_not_stop_the_others() -> None:
    found, said = problems(address("192.0.2.1"), address("nonsense"))
    assert {row.vip for row in found if isinstance(row, VipRow | ServiceRow)} == {VIP}
    assert len(said) == 2
    assert "192.0.2.1" in said[0]


def test_addresses_of_an_app_that_is_gone() -> None:
    here = state(address(app="gone"), machine(1, app="gone"))
    planner = Planner(CONFIG)
    assert ("app", "gone") in planner.all_owners(here)
    assert planner.rows(here, ("app", "gone")) == []
    assert "app gone is missing" in planner.problems["app", "gone"][0]
    assert replies(here) == []
