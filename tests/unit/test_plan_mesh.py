# SPDX-License-Identifier: Apache-2.0
"""Rows of the mesh: settings, this host's devices, the other hosts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flyebpf.config import DaemonConfig, MeshConfig
from flyebpf.model.reasons import DropReason
from flyebpf.model.records import (
    AnyRecord,
    WireguardPeer,
)
from flyebpf.model.rows import (
    HostRow,
    MeshPeerRow,
    MeshRow,
    PolicyRow,
    Row,
    SettingsRow,
)
from flyebpf.model.sixpn import HOST_BIT, peer_prefix
from flyebpf.model.state import State
from flyebpf.plan import HOST, Owner, Planner
from tests.records import CLUSTER, MESH, host, state

ONE, TWO, THREE = host(1), host(2, "fra"), host(3, "lhr")
PLAIN = replace(MESH, mesh=replace(MESH.mesh, underlay="plain", interface="eth9"))
CLOSED = PolicyRow("192.0.2.2/32", int(DropReason.VM_TO_HOST))
PEER = WireguardPeer(
    "acme", "default", "laptop", "h1", "key", peer_prefix(7, HOST_BIT | 1, 5), "2026-01-01"
)


def planned(of: State, owner: Owner, config: DaemonConfig = MESH) -> tuple[list[Row], str]:
    planner = Planner(config)
    rows = planner.rows(of, owner)
    return rows, "\n".join(planner.problems.get(owner, []))


def neighbour(*records: AnyRecord, name: str = "h2", config: DaemonConfig = MESH) -> Any:
    return planned(state(ONE, TWO, *records), ("mesh", name), config)


def settings_of(*records: AnyRecord, config: DaemonConfig = MESH) -> SettingsRow:
    rows, _ = planned(state(*records), HOST, config)
    (row,) = (row for row in rows if isinstance(row, SettingsRow))
    return row


def meshes(*records: AnyRecord, config: DaemonConfig = MESH) -> list[MeshRow]:
    rows, _ = planned(state(*records), HOST, config)
    return [row for row in rows if isinstance(row, MeshRow)]


class TestDevices:
    def test_one_for_each_key_that_this_host_has_published(self) -> None:
        (row,) = meshes(ONE)
        assert row == MeshRow("fly0", "wireguard", 0, 51820, ("fdaa:8000:1::1/128",), 1420)
        both = replace(ONE, keys={"0": "a", "1": "b", "peers": "c"})
        found = meshes(both, replace(CLUSTER, next_generation=1))
        assert [(r.interface, r.generation, r.port) for r in found] == [
            ("fly0", 0, 51820),
            ("fly1", 1, 51821),
        ]
        assert meshes(replace(ONE, keys={})) == []

    def test_of_two_generations_with_one_name_the_one_that_is_sent_with(self) -> None:
        three = replace(ONE, keys={"0": "a", "1": "b", "2": "c"})
        found = meshes(three, replace(CLUSTER, mesh_generation=0))
        assert {r.interface: r.generation for r in found} == {"fly0": 0, "fly1": 1}
        found = meshes(three, replace(CLUSTER, mesh_generation=1))
        assert {r.interface: r.generation for r in found} == {"fly0": 2, "fly1": 1}

    def test_the_fabrics_interface(self) -> None:
        (row,) = meshes(replace(ONE, underlay="plain"), config=PLAIN)
        assert row == MeshRow("eth9", "plain", 0, 0, ("fdaa:8000:1::1/128",), 1500)

    def test_none_without_a_mesh(self) -> None:
        alone = replace(MESH, mesh=MeshConfig())
        assert meshes(ONE, config=alone) == []
        assert settings_of(ONE, config=alone).mesh_mtu == 0
        assert planned(state(ONE), HOST, alone)[1] == ""

    @pytest.mark.parametrize(
        ("own", "message"),
        [
            (replace(ONE, number=5), "5 is no host's number"),
            (replace(ONE, endpoint=""), "'' is no address"),
            (replace(ONE, block="10.0.0.0/20"), "10.0.0.0/20 is no part of 172.16.0.0/12"),
            (replace(ONE, keys={}), "no WireGuard key of generation 0"),
            (replace(ONE, number=TWO.number, block="172.20.0.0/20"), ""),
            (replace(ONE, number=THREE.number), "is that of host h0"),
        ],
    )
    def test_a_host_that_does_not_fit_says_so(self, own: AnyRecord, message: str) -> None:
        rows, problem = planned(state(own, TWO, replace(THREE, name="h0"), THREE), HOST)
        assert message in problem
        assert bool(problem) == bool(message)
        assert any(isinstance(row, MeshRow) for row in rows) == (not message)

    def test_without_its_record(self) -> None:
        planner = Planner(replace(MESH, host="h9"))
        planner.rows(state(ONE), HOST)
        assert "host h9 has no record" in planner.problems[HOST][0]


def test_settings_of_the_mesh() -> None:
    row = settings_of(ONE)
    assert (row.host, row.mesh_mtu, row.mesh_ethernet, row.return_edge) == (
        ONE.number,
        1420,
        False,
        False,
    )
    assert row.peers == ""
    mesh = replace(MESH.mesh, mtu=1380, return_path="edge")
    row = settings_of(ONE, PEER, config=replace(MESH, mesh=mesh))
    assert (row.mesh_mtu, row.return_edge, row.peers) == (1380, True, "flyp")
    row = settings_of(replace(ONE, underlay="plain"), PEER, config=PLAIN)
    assert (row.mesh_mtu, row.mesh_ethernet, row.peers) == (1500, True, "flyp")


class TestNeighbours:
    def test_a_peer_with_all_that_comes_from_it(self) -> None:
        assert neighbour() == (
            [
                CLOSED,
                MeshPeerRow(
                    interface="fly0",
                    host="h2",
                    public_key="key0-2",
                    endpoint="192.0.2.2:51820",
                    allowed=("fdaa:8000:2::/48", "172.16.16.0/20"),
                ),
                HostRow(HOST_BIT | 2, "h2", "fly0", "", "172.16.16.1"),
            ],
            "",
        )

    def test_both_generations_while_keys_are_rotated(self) -> None:
        keys = {"0": "old", "1": "new"}
        both = (replace(ONE, keys=keys), replace(TWO, keys=keys, endpoint="2001:db8::2"))
        for sending in (0, 1):
            cluster = replace(CLUSTER, mesh_generation=sending, next_generation=1)
            rows, problem = neighbour(*both, cluster)
            peers = [row for row in rows if isinstance(row, MeshPeerRow)]
            assert [(p.interface, p.public_key, p.endpoint) for p in peers] == [
                ("fly0", "old", "[2001:db8::2]:51820"),
                ("fly1", "new", "[2001:db8::2]:51821"),
            ]
            assert [r.interface for r in rows if isinstance(r, HostRow)] == [f"fly{sending}"]
            assert not problem

    def test_one_that_has_only_its_old_key(self) -> None:
        """Its packets are taken; nothing can be sent to it."""
        keys = replace(ONE, keys={"0": "old", "1": "new"})
        rows, problem = neighbour(keys, replace(CLUSTER, mesh_generation=1, next_generation=1))
        assert [type(row) for row in rows] == [PolicyRow, MeshPeerRow]
        assert "host h2 has published no WireGuard key of generation 1" in problem

    def test_its_endpoint_is_closed_to_vms(self) -> None:
        """Unless just that address is opened."""
        for allow, found in (
            ((), [CLOSED]),
            (("192.0.2.0/24",), [CLOSED]),
            (("192.0.2.2/32",), []),
        ):
            egress = replace(MESH.egress, allow=allow)
            rows, _ = neighbour(config=replace(MESH, egress=egress))
            assert [row for row in rows if isinstance(row, PolicyRow)] == found
        rows, _ = neighbour(replace(TWO, endpoint="2001:db8::2"))
        assert not any(isinstance(row, PolicyRow) for row in rows), "no way there"

    def test_on_the_plain_underlay(self) -> None:
        plain = (replace(ONE, underlay="plain"), replace(TWO, underlay="plain", keys={}))
        rows, problem = neighbour(*plain, config=PLAIN)
        assert rows == [
            CLOSED,
            MeshPeerRow("eth9", "h2", "", "192.0.2.2", ("fdaa:8000:2::/48", "172.16.16.0/20")),
            HostRow(HOST_BIT | 2, "h2", "eth9", "fdaa:8000:2::1", "172.16.16.1"),
        ]
        assert not problem

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"underlay": "none", "endpoint": ""}, ""),
            ({"underlay": "plain"}, "its mesh underlay is plain, that of this host is wireguard"),
            ({"endpoint": "fe80::1%eth0\nremove=true"}, "is no address: set mesh.endpoint"),
            ({"endpoint": "h2.example"}, "'h2.example' is no address: set mesh.endpoint"),
            ({"endpoint": "192.0.2.1"}, "192.0.2.1 is that of host h1: give it its own"),
            ({"block": "172.16.0.0/16"}, "172.16.0.0/16 overlaps 172.16.0.0/20 of host h1"),
            ({"block": "0.0.0.0/0"}, "0.0.0.0/0 is no part of 172.16.0.0/12"),
            ({"number": ONE.number}, "is that of host h1: remove it (`flyebpf hosts remove h2`)"),
            ({"number": 2}, "2 is no host's number"),
        ],
    )
    def test_who_is_no_peer_and_why(self, values: dict[str, Any], message: str) -> None:
        rows, problem = neighbour(replace(TWO, **values))
        assert rows == []
        assert message in problem
        assert bool(problem) == bool(message)

    def test_the_first_of_two_stays(self) -> None:
        assert neighbour(replace(THREE, number=TWO.number)) == neighbour()
        assert neighbour(replace(THREE, name="h0", number=TWO.number))[0] == []

    def test_this_host_is_none_and_others_are_known(self) -> None:
        assert neighbour(name="h1") == ([], "")
        assert neighbour(name="h7") == ([], "")
