# SPDX-License-Identifier: Apache-2.0
"""Where new flows go, machines of this host and others, users' peers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flyebpf.config import DaemonConfig, MeshConfig
from flyebpf.model.nearest import Distances
from flyebpf.model.records import (
    AnyRecord,
    App,
    Latency,
    MachineState,
    Network,
    Presence,
    WireguardPeer,
)
from flyebpf.model.rows import (
    ReplyRow,
    Row,
    SlotRow,
    TableRow,
    UserPeerRow,
)
from flyebpf.model.sixpn import HOST_BIT, peer_prefix
from flyebpf.model.state import State
from flyebpf.plan import Owner, Planner
from tests.records import MESH, host, machine, state, web

ONE, TWO, THREE = host(1), host(2, "fra"), host(3, "lhr")
M1, M2, M3 = machine(1), machine(2, host="h2"), machine(3, host="h3")
PEER = WireguardPeer(
    "acme", "default", "laptop", "h1", "key", peer_prefix(7, HOST_BIT | 1, 5), "2026-01-01"
)


def planned(of: State, owner: Owner, config: DaemonConfig = MESH) -> tuple[list[Row], str]:
    planner = Planner(config)
    rows = planner.rows(of, owner)
    return rows, "\n".join(planner.problems.get(owner, []))


def table(*records: AnyRecord, config: DaemonConfig = MESH) -> tuple[str, ...]:
    rows, _ = planned(web(ONE, TWO, THREE, *records), ("app", "web"), config)
    (row,) = (row for row in rows if isinstance(row, TableRow))
    return row.backends


class TestTables:
    def test_the_nearest_region_that_has_a_machine(self) -> None:
        far = Latency("h1", "ams", {"fra": 9000, "lhr": 8000})
        assert table(far, M1, M2, M3) == (M1.id,)
        assert table(far, M2, M3) == (M3.id,)
        assert table(far, M2, replace(M3, state=MachineState.STOPPED)) == (M2.id,)
        assert table(far, M2, replace(M3, cordoned=True)) == (M2.id,)

    def test_all_machines_of_that_region(self) -> None:
        four = machine(4, host="h4")
        assert table(host(4), M1, four, M2) == (M1.id, four.id)

    def test_regions_that_nobody_measured_by_name(self) -> None:
        assert table(M2, M3) == (M2.id,)
        assert table(M2, M3, Latency("h1", "ams", {"lhr": 10**6})) == (M3.id,)

    def test_the_configuration_overrides_what_was_measured(self) -> None:
        mesh = replace(MESH.mesh, latency=("lhr ams 1.5",))
        far = Latency("h1", "ams", {"fra": 2000, "lhr": 80_000})
        assert table(far, M2, M3, config=replace(MESH, mesh=mesh)) == (M3.id,)

    def test_groups_by_themselves(self) -> None:
        assert table(M1, replace(M1, group="worker"), M2) == (M2.id,)

    @pytest.mark.parametrize(
        "records",
        [
            (replace(TWO, drained=True),),
            (Presence("h1"), Presence("h3")),
            (replace(TWO, keys={}),),
            (replace(TWO, underlay="plain"),),
            (replace(TWO, number=ONE.number),),
            (replace(M2, private_ip="10.0.0.1"),),
            (replace(M2, number=3),),
            (machine(9, "db", host="h3", id="0" * 14, number=M2.number),),
        ],
    )
    def test_who_gets_no_new_flows(self, records: tuple[AnyRecord, ...]) -> None:
        assert table(M2, M3) == (M2.id,)
        assert table(M2, M3, *records) == (M3.id,)

    def test_without_any_presence_nobody_is_left_out(self) -> None:
        assert table(M2) == (M2.id,)
        assert table(M2, Presence("h2")) == (M2.id,)

    @pytest.mark.parametrize("left", [(), ("h1",), ("h3",), ("h1", "h3")])
    def test_an_only_host_whose_presence_is_lost_keeps_its_flows(
        self, left: tuple[str, ...]
    ) -> None:
        """Whatever becomes of the hosts' leases, a table does not lose its last host."""
        before = table(M2, Presence("h1"), Presence("h2"), Presence("h3"))
        assert table(M2, *map(Presence, left)) == before == (M2.id,)

    def test_hosts_without_presence_when_there_is_nobody_else(self) -> None:
        assert table(M2, Presence("h3")) == (M2.id,)
        assert table(M2, M3, Presence("h1")) == (M2.id,)
        assert table(M2, M3, Presence("h3")) == (M3.id,)
        assert table(M2, Presence("h3"), replace(TWO, drained=True)) == ()

    def test_this_host_is_there_whatever_the_store_says(self) -> None:
        assert table(M1, Presence("h3")) == (M1.id,)
        assert table(M1, replace(ONE, drained=True)) == ()

    def test_without_a_mesh_only_this_hosts(self) -> None:
        assert table(M1, M2, config=replace(MESH, mesh=MeshConfig())) == (M1.id,)
        assert table(M2, config=replace(MESH, mesh=MeshConfig())) == ()
        assert table(M2, replace(ONE, keys={})) == (), "nothing can be sent"


class TestSlots:
    def slot(self, ident: str, *records: AnyRecord) -> tuple[list[Row], str]:
        return planned(web(ONE, TWO, *records), ("machine", ident))

    def test_of_another_hosts_machine(self) -> None:
        expected = SlotRow(M2.id, "", "", "", "", True, 0, TWO.number, M2.number, remote=True)
        assert self.slot(M2.id, M2) == ([expected], "")
        for same in (
            (replace(M2, cordoned=True),),
            (M2, replace(TWO, drained=True)),
            (M2, Presence("h1")),
            (M2, replace(TWO, keys={})),
        ):
            assert self.slot(M2.id, *same) == ([expected], ""), "its flows go on"
        stopped = replace(M2, state=MachineState.STOPPED)
        assert self.slot(M2.id, stopped) == ([replace(expected, live=False)], "")

    @pytest.mark.parametrize(
        "records",
        [
            (replace(M2, app="db"),),
            (replace(M2, group="worker"),),
            (replace(M2, host="h9"),),
            (replace(M2, services_ip=M2.private_ip),),
            (M2, replace(TWO, underlay="none")),
            (M2, replace(TWO, number=ONE.number)),
        ],
    )
    def test_none_where_no_table_can_name_it(self, records: tuple[AnyRecord, ...]) -> None:
        assert self.slot(M2.id, *records) == ([], "")

    def test_an_uplinks_name_is_only_ours(self) -> None:
        assert self.slot(M2.id, replace(M2, interface="eth0"))[0] != []

    def test_of_this_hosts_with_its_network(self) -> None:
        rows, problem = self.slot(M1.id, M1)
        (row,) = (row for row in rows if isinstance(row, SlotRow))
        assert (row.network, row.host, row.number, row.remote) == (7, ONE.number, 101, False)
        assert any(isinstance(row, ReplyRow) for row in rows)
        assert not problem

    @pytest.mark.parametrize(
        ("records", "message"),
        [
            ((App("web", "acme", "late"),), "network acme/late of app web is missing"),
            ((Network("acme", "default", 0),), "impossible number 0"),
            ((Network("acme", "a", 7),), "acme/default has the number of network acme/a"),
            ((replace(M1, app="db"),), "app db is missing"),
        ],
    )
    def test_without_a_sure_network_it_has_none(
        self, records: tuple[AnyRecord, ...], message: str
    ) -> None:
        rows, problem = self.slot(M1.id, M1, *records)
        (row,) = (row for row in rows if isinstance(row, SlotRow))
        assert (row.network, row.number) == (0, 101)
        assert message in problem
        assert M1.id in problem

    @pytest.mark.parametrize("number", [0, 15, 2**32])
    def test_numbers_that_no_machine_has(self, number: int) -> None:
        rows, problem = self.slot(M1.id, replace(M1, number=number))
        assert not any(isinstance(row, SlotRow) for row in rows)
        assert f"{number} is no machine's number" in problem

    def test_the_first_of_two_keeps_the_number(self) -> None:
        again = replace(machine(5), number=M1.number)
        assert self.slot(M1.id, M1, again)[1] == ""
        rows, problem = self.slot(again.id, M1, again)
        assert not any(isinstance(row, SlotRow) for row in rows)
        assert f"number 101 belongs to machine {M1.id}" in problem


class TestUsersPeers:
    def peer(self, *records: AnyRecord) -> tuple[list[Row], str]:
        return planned(state(ONE, TWO, PEER, *records), ("wireguard", PEER.ident))

    def test_a_peer_of_this_gateway(self) -> None:
        assert self.peer() == (
            [UserPeerRow("key", "acme/laptop", "flyp", "fdaa:0:7:8000:1:0:a:500/120")],
            "",
        )
        assert self.peer(replace(PEER, host="h2")) == ([], "")

    @pytest.mark.parametrize(
        "address",
        [
            "fdaa:0:8:8000:1:0:a:500/120",
            "fdaa:0:7:8000:2:0:a:500/120",
            "fdaa:0:7:8000:1:0:b:500/120",
            "fdaa:0:7:8000:1:0:a:0/112",
            "fdaa:0:7:8000:1:0:a:502/128",
            "fdaa:0:7:8000:1:0:a:502/120",
            "10.0.0.0/8",
            "nonsense",
        ],
    )
    def test_an_address_of_anybody_elses_is_refused(self, address: str) -> None:
        rows, problem = self.peer(replace(PEER, address=address))
        assert rows == []
        assert "is not one of network acme/default at this host" in problem
        assert "acme/laptop" in problem

    @pytest.mark.parametrize(
        ("records", "message"),
        [
            ((replace(PEER, network="late"),), "network acme/late is missing"),
            ((Network("acme", "a", 7),), "has the number of network acme/a"),
            ((replace(PEER, name="a"),), "its key is that of peer acme/a"),
            ((replace(PEER, name="a", public_key="other"),), "its address is that of peer acme/a"),
            ((replace(ONE, number=9),), "host h1 has no number"),
        ],
    )
    def test_one_that_must_not_be_let_in(
        self, records: tuple[AnyRecord, ...], message: str
    ) -> None:
        rows, problem = self.peer(*records)
        assert rows == []
        assert message in problem


class TestDistances:
    def test_own_then_measured_then_by_name(self) -> None:
        far = [
            Latency("h1", "ams", {"lhr": 9, "fra": 5, "nrt": 0}),
            Latency("h4", "ams", {"lhr": 1, "fra": 6}),
            Latency("h5", "ams", {"lhr": 2, "fra": 7}),
        ]
        distances = Distances("ams", far, ("nrt ams 100", "fra lhr 1"))
        regions = {"zrh", "cdg", "lhr", "fra", "nrt", "ams"}
        assert distances.order(regions) == ["ams", "lhr", "fra", "nrt", "cdg", "zrh"]
