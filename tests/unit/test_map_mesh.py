# SPDX-License-Identifier: Apache-2.0
"""The maps of a cluster, over maps in memory: other hosts, machines on them, and
this host's machines by their 6PN numbers."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address

import pytest

from flyebpf.bpf import layout
from flyebpf.drivers.link import Link
from flyebpf.model.rows import HostRow, SettingsRow, SlotRow, TableRow
from flyebpf.model.sixpn import HOST_BIT
from flyebpf.reconcile.base import Failure
from tests.fakes_maps import FakeMap, slots_by_ifindex
from tests.maps_rig import M1, M2, M3, POOL, Rig, settings, slot

HERE, THERE, THIRD = HOST_BIT | 1, HOST_BIT | 2, HOST_BIT | 3
NETWORK = 7
LIVE, REMOTE = layout.SLOT_LIVE, layout.SLOT_REMOTE
OTHER = HostRow(THERE, "h2", "fly0", "")


def here(machine: str, tap: int, *, live: bool = True) -> SlotRow:
    """A machine of this host; its number is 100 more than its interface's."""
    row = slot(machine, tap, live=live)
    return replace(row, network=NETWORK, host=HERE, number=100 + tap)


def remote(machine: str, number: int, host: int = THERE, *, live: bool = True) -> SlotRow:
    return SlotRow(machine, "", "", "", "", live, 0, host, number, remote=True)


def sixpn(maps: dict[str, FakeMap]) -> dict[tuple[int, int], int]:
    found = {}
    for raw, value in maps["sixpn"].data.items():
        key = layout.SixpnKey.from_buffer_copy(raw)
        found[key.network, key.machine] = int.from_bytes(value, "little")
    return found


def put_sixpn(rig: Rig, network: int, machine: int, index: int) -> None:
    key = bytes(layout.SixpnKey(network=network, machine=machine))
    rig.maps["sixpn"].update(key, index.to_bytes(4, "little"))


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    rig.links["fly0"] = Link(40, bytes(6), False)
    assert rig.put(settings(POOL), OTHER, here(M1, 1), remote(M2, 200)) == []
    return rig


WORLD = (settings(POOL), OTHER, here(M1, 1), remote(M2, 200))


def test_slots_of_both_kinds(rig: Rig) -> None:
    mine, theirs = rig.slot(0), rig.slot(1)
    assert (mine.network, mine.host, mine.machine, mine.flags) == (NETWORK, HERE, 101, LIVE)
    assert (theirs.network, theirs.host, theirs.machine) == (0, THERE, 200)
    assert theirs.flags == LIVE | REMOTE
    assert (theirs.ifindex, theirs.private_ip, bytes(theirs.mac)) == (0, 0, bytes(6))
    assert slots_by_ifindex(rig.maps) == {11: 0}
    assert sixpn(rig.maps) == {(NETWORK, 101): 0, (0, 101): 0}
    assert rig.drift(*WORLD) == []
    after = rig.reborn()
    after.links = rig.links
    after.driver._slots._link_of = rig.links.get
    assert after.driver.read(SlotRow) == rig.driver.read(SlotRow)


def test_tables_lead_to_machines_of_other_hosts(rig: Rig) -> None:
    assert rig.put(TableRow("web:app", (M1, M2))) == []
    assert set(rig.table(0)) == {0, 1}
    assert rig.put(remote(M2, 200, live=False)) == []
    assert (rig.slot(1).flags, rig.slot(1).generation) == (REMOTE, 2)


def test_without_a_network_only_what_edges_send_is_delivered(rig: Rig) -> None:
    assert rig.put(replace(here(M3, 3), network=0)) == []
    assert (0, 103) in sixpn(rig.maps)
    assert [key for key in sixpn(rig.maps) if key[1] == 103] == [(0, 103)]


def test_a_stopped_machine_is_not_found(rig: Rig) -> None:
    order: list[str] = []
    rig.watch(order, "slots", "sixpn")
    assert rig.put(here(M1, 1, live=False)) == []
    assert sixpn(rig.maps) == {}
    assert order == ["sixpn", "sixpn", "slots"], "first nobody finds it"
    assert rig.put(here(M1, 1)) == []
    assert sixpn(rig.maps) == {(NETWORK, 101): 0, (0, 101): 0}
    assert rig.drift(*WORLD) == []


def test_a_slot_is_complete_before_it_is_found(rig: Rig) -> None:
    order: list[str] = []
    rig.watch(order, "slots", "vm_slots", "sixpn")
    assert rig.put(here(M3, 3)) == []
    assert order == ["slots", "slots", "vm_slots", "sixpn", "sixpn"]


def test_removal_clears_every_way_first(rig: Rig) -> None:
    rig.delete(here(M1, 1))
    assert sixpn(rig.maps) == {}
    assert slots_by_ifindex(rig.maps) == {}
    assert (rig.slot(0).machine_id, rig.slot(0).flags, rig.slot(0).generation) == (0, 0, 2)
    rig.delete(remote(M2, 200))
    assert (rig.slot(1).machine_id, rig.slot(1).flags, rig.slot(1).generation) == (0, 0, 2)


class TestLife:
    """A flow keeps its slot's generation: a change of it ends the flow."""

    def test_a_machine_that_moves_away(self, rig: Rig) -> None:
        assert rig.put(remote(M1, 101)) == []
        one = rig.slot(0)
        assert (one.generation, one.flags, one.host, one.ifindex) == (2, LIVE | REMOTE, THERE, 0)
        assert sixpn(rig.maps) == {}
        assert slots_by_ifindex(rig.maps) == {}
        assert rig.drift(settings(POOL), OTHER, remote(M1, 101), remote(M2, 200)) == []

    def test_one_that_comes_here(self, rig: Rig) -> None:
        assert rig.put(replace(here(M2, 2), number=200)) == []
        one = rig.slot(1)
        assert (one.generation, one.host, one.ifindex) == (2, HERE, 12)
        assert sixpn(rig.maps)[NETWORK, 200] == sixpn(rig.maps)[0, 200] == 1
        assert slots_by_ifindex(rig.maps) == {11: 0, 12: 1}

    def test_one_that_moves_between_other_hosts(self, rig: Rig) -> None:
        assert rig.put(remote(M2, 200, THIRD)) == []
        assert (rig.slot(1).generation, rig.slot(1).host) == (2, THIRD)

    def test_another_machine_with_the_same_id(self, rig: Rig) -> None:
        """Removed and added again between two passes, maybe for another app."""
        assert rig.put(replace(here(M1, 1), number=300), remote(M2, 301)) == []
        assert (rig.slot(0).generation, rig.slot(1).generation) == (2, 2)
        assert sixpn(rig.maps) == {(NETWORK, 300): 0, (0, 300): 0}

    def test_what_is_no_other_owner_keeps_flows(self, rig: Rig) -> None:
        assert rig.put(replace(here(M1, 1), network=0, mac="02:00:00:00:00:77")) == []
        assert rig.slot(0).generation == 1

    def test_a_number_that_another_slot_has_by_now_stays_its(self, rig: Rig) -> None:
        put_sixpn(rig, 0, 101, 1)
        rig.delete(here(M1, 1))
        assert sixpn(rig.maps) == {(0, 101): 1}


def test_lost_and_foreign_entries(rig: Rig) -> None:
    rig.maps["sixpn"].data.clear()
    assert rig.drift(*WORLD) == [here(M1, 1)]
    assert rig.put(here(M1, 1)) == []
    put_sixpn(rig, 9, 101, 0)
    put_sixpn(rig, 0, 200, 1)
    strays = [key for key in rig.driver.read(SlotRow) if str(key).startswith("sixpn#")]
    assert sorted(map(str, strays)) == ["sixpn#0/200", "sixpn#9/101"]
    assert rig.driver.apply(SlotRow, (), [*strays, f"sixpn#{NETWORK}/101"]) == []
    assert rig.drift(*WORLD) == [], "what fits a slot has stayed"


def test_an_entry_that_leads_elsewhere_is_drift(rig: Rig) -> None:
    put_sixpn(rig, NETWORK, 101, 5)
    assert rig.driver.read(SlotRow)[M1] != rig.driver.fingerprint(here(M1, 1))
    assert rig.put(here(M1, 1)) == []
    assert rig.drift(*WORLD) == []


def test_a_full_map_of_numbers_is_named(rig: Rig) -> None:
    room = rig.maps["sixpn"].spec.max_entries - len(rig.maps["sixpn"].data)
    for number in range(room):
        put_sixpn(rig, 99, number, 0)
    (failure,) = rig.put(here(M3, 3))
    assert failure.key == M3
    assert failure.error == "the map sixpn is full"
    assert "dataplane.machines" in failure.remedy


class TestHosts:
    def entry(self, rig: Rig, number: int = THERE) -> layout.Host | None:
        value = rig.maps["hosts"].data.get(number.to_bytes(4, "little"))
        return None if value is None else layout.Host.from_buffer_copy(value)

    def test_by_device_and_next_hop(self, rig: Rig) -> None:
        found = self.entry(rig)
        assert found is not None
        assert (found.ifindex, bytes(found.next_hop)) == (40, bytes(16))
        for hop, packed in (
            ("192.0.2.9", "::ffff:192.0.2.9"),
            ("2001:db8::9", "2001:db8::9"),
        ):
            assert rig.put(replace(OTHER, next_hop=hop)) == []
            found = self.entry(rig)
            assert found is not None
            assert bytes(found.next_hop) == IPv6Address(packed).packed
            assert rig.drift(*WORLD) == [OTHER]

    def test_without_its_device_nothing_is_sent_there(self, rig: Rig) -> None:
        link = rig.links.pop("fly0")
        assert rig.drift(*WORLD) == [OTHER]
        (failure,) = rig.put(OTHER)
        assert failure == Failure(
            HostRow,
            THERE,
            "mesh device fly0, which leads to host h2, does not exist",
            "`flyebpf status` says why it could not be made, or what mesh.interface has to name.",
            permanent=True,
        )
        assert self.entry(rig) is None
        rig.links["fly0"] = replace(link, ifindex=41)
        assert rig.put(OTHER) == []
        found = self.entry(rig)
        assert found is not None
        assert found.ifindex == 41

    def test_foreign_and_deleted(self, rig: Rig) -> None:
        rig.maps["hosts"].update(THIRD.to_bytes(4, "little"), bytes(24))
        assert set(rig.driver.read(HostRow)) == {THERE, THIRD}
        assert rig.driver.apply(HostRow, (), [THIRD, THERE]) == []
        assert rig.maps["hosts"].data == {}

    def test_a_full_map_is_named(self, rig: Rig) -> None:
        for number in range(rig.maps["hosts"].spec.max_entries - 1):
            rig.maps["hosts"].update(number.to_bytes(4, "little"), bytes(24))
        (failure,) = rig.put(replace(OTHER, number=THIRD, name="h3"))
        assert failure.error == "the map hosts is full"
        assert "dataplane.hosts" in failure.remedy


def test_settings_of_the_mesh(rig: Rig) -> None:
    row = replace(settings(POOL), host=HERE, mesh_mtu=1420, peers="flyp", return_edge=True)
    assert rig.put(row) == []
    value = layout.Settings.from_buffer_copy(rig.maps["settings"].data[bytes(4)])
    assert (value.host, value.mesh_mtu, value.peers) == (HERE, 1420, 0)
    assert value.mesh_flags == layout.MESH_RETURN_EDGE
    rig.links["flyp"] = Link(50, bytes(6), False)
    both = replace(row, mesh_ethernet=True)
    assert rig.driver.fingerprint(row) != rig.driver.read(SettingsRow)["settings"]
    assert rig.put(both) == []
    value = layout.Settings.from_buffer_copy(rig.maps["settings"].data[bytes(4)])
    assert value.peers == 50
    assert value.mesh_flags == layout.MESH_RETURN_EDGE | layout.MESH_ETHERNET
    assert value.vm_buckets == rig.maps["vm_slots"].spec.max_entries
