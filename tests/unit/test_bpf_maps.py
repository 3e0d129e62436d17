# SPDX-License-Identifier: Apache-2.0
"""The maps driver over maps in memory: what entries rows become, in which
order they are written, and that a driver without memory recognises them."""

from __future__ import annotations

import ctypes as ct
import socket
from dataclasses import replace

import pytest

from flyebpf.bpf import layout
from flyebpf.drivers.bpf_maps import Image
from flyebpf.drivers.link import Link
from flyebpf.drivers.map_ranges import RangeKey
from flyebpf.drivers.segments import QUARANTINE
from flyebpf.errors import KernelError
from flyebpf.model.rows import (
    PolicyRow,
    ReplyRow,
    ServiceRow,
    SlotRow,
    TableRow,
    VipRow,
)
from tests.fakes_maps import SMALL, slots_by_ifindex
from tests.maps_rig import LINKS, M1, M2, M3, POOL, Rig, settings, slot


def service(port: int = 80, last: int = 0, *, name: str = "web/tcp/80") -> ServiceRow:
    return ServiceRow(
        "203.0.113.5", 6, port, last or port, name, "web:app", 8080, reverse=False, proxy=False
    )


TABLE = TableRow("web:app", (M1, M2))
REPLY = ReplyRow(M1, 6, 8080, "203.0.113.5", 80, "web/tcp/80", unique=True)
VIP = VipRow("203.0.113.5", "web", False)
POOL6, VIP6 = "2001:db8:f::/48", "2001:db8:f::10"
SERVICE6 = ServiceRow(
    VIP6, 6, 80, 80, f"web/tcp/80@{VIP6}", "web:app", 8080, reverse=True, proxy=False
)
REPLY6 = ReplyRow(M1, 6, 8080, VIP6, 80, f"web/tcp/80@{VIP6}", unique=False)
WORLD = (
    settings(POOL),
    PolicyRow("0.0.0.0/0", 0),
    PolicyRow("10.0.0.0/8", 40),
    slot(M1, 1),
    slot(M2, 2),
    TABLE,
    REPLY,
    service(),
    VIP,
)


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    assert rig.put(*WORLD) == []
    return rig


def test_entries_of_a_small_world(rig: Rig) -> None:
    one, two = rig.slot(0), rig.slot(1)
    assert (one.generation, one.flags, one.ifindex) == (1, layout.SLOT_LIVE, 11)
    assert two.flags == layout.SLOT_LIVE | layout.SLOT_VIA_TC
    assert bytes(one.mac) == bytes.fromhex("02aa00000001")
    assert bytes(one.host_mac) == LINKS["tap1"].mac
    assert one.machine_id == int(M1, 16)
    assert one.private_ip.to_bytes(4, "big") == socket.inet_aton("172.16.0.2")
    assert slots_by_ifindex(rig.maps) == {11: 0, 12: 1}
    assert rig.table(0) == [0, 1, 0, 1, 0, 1, 0]
    entry = rig.service(5, 80)
    assert entry is not None
    assert (entry.id, entry.table, entry.internal_port, entry.flags) == (0, 0, 8080, 0)
    (raw,) = rig.maps["replies"].data.values()
    reply = layout.Reply.from_buffer_copy(raw)
    assert bytes(reply.vip) == bytes(10) + b"\xff\xff" + socket.inet_aton("203.0.113.5")
    assert (reply.service, reply.port, reply.flags) == (0, 80, layout.REPLY_UNIQUE)
    assert rig.maps["vips"].data[b"\5\0\0\0"] == bytes(layout.Vip(flags=layout.VIP_ALLOCATED))


def test_settings_in_host_order_and_uplinks_by_index(rig: Rig) -> None:
    value = layout.Settings.from_buffer_copy(rig.maps["settings"].data[bytes(4)])
    assert (value.pool_count, value.pool[0].prefix) == (1, 0xCB007100)
    assert (value.pool[0].mask, value.pool[0].vip_base) == (0xFFFFFF00, 0)
    assert (value.private_prefix, value.private_mask) == (0xAC100000, 0xFFF00000)
    assert value.alias_prefix == 0x64400000
    assert (value.uplink_count, value.uplink[0], value.flow_buckets) == (1, 2, 16)
    assert value.seed == 2**63 + 5


def test_a_driver_without_memory_recognises_everything(rig: Rig) -> None:
    ranged = service(1000, 2999, name="web/tcp/1000-2999")
    assert rig.put(ranged) == []
    assert rig.drift(*WORLD, ranged) == []
    assert rig.reborn().drift(*WORLD, ranged) == []


def test_a_new_driver_gives_nobody_elses_index_away(rig: Rig) -> None:
    after = rig.reborn()
    table = TableRow("db:app", (M3,))
    assert after.put(slot(M3, 3), table, replace(service(81, name="db"), table="db:app")) == []
    entry = after.service(5, 81)
    assert entry is not None
    assert (entry.id, entry.table) == (1, 1)
    assert after.table(1) == [2]
    assert after.table(0) == [0, 1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("slots", bytes(4), bytes(ct.sizeof(layout.Slot))),
        ("vm_slots", b"\x0b\0\0\0", b"\x0b\0\0\0\7\0\0\0" + bytes(24)),
        ("vm_slots", b"\x0b\0\0\0", bytes(32)),
        ("tables", bytes(4), bytes(8)),
        ("maglev", bytes(4), b"\7\0\0\0"),
        ("vips", b"\5\0\0\0", bytes(8)),
        ("settings", bytes(4), bytes(ct.sizeof(layout.Settings))),
    ],
)
def test_drift_is_noticed_and_repaired(rig: Rig, name: str, key: bytes, value: bytes) -> None:
    rig.maps[name].update(key, value)
    assert any(
        rig.driver.read(type(row)).get(row.key) != rig.driver.fingerprint(row) for row in WORLD
    )
    for _ in range(2):  # the row, then what refers to it
        for kind in rig.driver.kinds:
            wanted = {row.key: row for row in WORLD if type(row) is kind}
            actual = rig.driver.read(kind)
            bad = [r for k, r in wanted.items() if actual.get(k) != rig.driver.fingerprint(r)]
            assert rig.driver.apply(kind, bad, list(actual.keys() - wanted.keys())) == []
    assert rig.drift(*WORLD) == []
    assert [rig.driver._slots.machine(i) for i in rig.table(0)[:2]] == [M1, M2]


def test_lost_and_foreign_entries_of_hashes(rig: Rig) -> None:
    rig.maps["services"].data.clear()
    rig.maps["replies"].data.clear()
    assert rig.drift(*WORLD) == [REPLY, service()]
    assert rig.put(REPLY, service()) == []
    stray = bytes(layout.ServiceKey(vip=9, port=9, proto=17))
    rig.maps["services"].update(stray, bytes(ct.sizeof(layout.Service)))
    key = ("203.0.113.9", 17, 9, 9)
    assert key in rig.driver.read(ServiceRow)
    assert rig.driver.apply(ServiceRow, (), [key]) == []
    rig.maps["vm_slots"].update(b"\3\0\0\0", b"\x63\0\0\0\1\0\0\0" + bytes(24))
    assert "vm_slots#3/0" in rig.driver.read(SlotRow)
    assert rig.driver.apply(SlotRow, (), ["vm_slots#3/0", "vm_slots#11/0"]) == []
    assert rig.drift(*WORLD) == [], "what fits a slot has stayed"


def test_unknown_tables_are_named_by_digest_and_deleted(rig: Rig) -> None:
    after = rig.reborn()
    (key,) = after.driver.read(TableRow)
    assert isinstance(key, bytes)
    assert after.driver.apply(TableRow, (), [key]) == []
    assert after.driver.read(TableRow) == {}
    assert after.table(0) == []


def test_entries_of_interfaces_that_no_program_would_find(rig: Rig) -> None:
    """In another bucket than their own, and behind one of the same interface."""
    wrong, again = b"\x0c\0\0\0\1\0\0\0", b"\x0b\0\0\0" + bytes(4)
    rig.maps["vm_slots"].update(b"\x0b\0\0\0", wrong + again * 3)
    strays = [key for key in rig.driver.read(SlotRow) if str(key).startswith("vm_slots#")]
    assert strays == ["vm_slots#11/0", "vm_slots#11/2", "vm_slots#11/3"]
    assert rig.driver.apply(SlotRow, (), strays) == []
    assert rig.drift(*WORLD) == []


class TestSlots:
    def test_a_half_written_slot_is_never_live(self, rig: Rig) -> None:
        log = rig.maps["slots"].log
        log.clear()
        rig.put(slot(M3, 3))
        values = [layout.Slot.from_buffer_copy(value or b"") for _, value in log]
        assert [(v.flags & layout.SLOT_LIVE, v.machine_id) for v in values] == [
            (0, int(M3, 16)),
            (layout.SLOT_LIVE, int(M3, 16)),
        ]
        log.clear()
        rig.put(replace(slot(M3, 3), mac="02:bb:00:00:00:09"))
        values = [layout.Slot.from_buffer_copy(value or b"") for _, value in log]
        assert [v.flags & layout.SLOT_LIVE for v in values] == [0, layout.SLOT_LIVE]
        assert values[1].generation == 1, "the same owner goes on"

    def test_stopping_ends_flows_and_starting_does_not_revive_them(self, rig: Rig) -> None:
        rig.put(slot(M1, 1, live=False))
        assert (rig.slot(0).generation, rig.slot(0).flags) == (2, 0)
        rig.put(slot(M1, 1))
        assert (rig.slot(0).generation, rig.slot(0).flags) == (2, layout.SLOT_LIVE)

    def test_unused_slots_first_then_the_longest_free(self) -> None:
        rig = Rig()
        rig.links |= {f"tap{i}": Link(10 + i, bytes(6), True) for i in range(40)}
        names = [f"{i + 1:014x}" for i in range(16)]
        rows = [replace(slot(name, 1), interface=f"tap{i}") for i, name in enumerate(names)]
        rig.put(*rows[:3])
        rig.delete(rows[1])
        rig.delete(rows[0])
        rig.put(*rows[3:])
        assert rig.slot(3).machine_id == 4, "never used before freed"
        others = [f"{i:014x}" for i in (100, 101, 102)]
        new = [replace(slot(n, 1), interface=f"tap{20 + i}") for i, n in enumerate(others)]
        failures = rig.put(*new)
        assert [rig.slot(1).machine_id, rig.slot(0).machine_id] == [100, 101]
        assert rig.slot(1).generation == 3
        (failure,) = failures
        assert failure.key == others[2]
        assert "slots is full" in failure.error
        assert "dataplane.machines" in failure.remedy

    def test_removal_refuses_the_interface_first(self, rig: Rig) -> None:
        order: list[str] = []
        rig.watch(order, "vm_slots", "slots")
        rig.delete(slot(M1, 1))
        assert slots_by_ifindex(rig.maps) == {12: 1}
        assert (rig.slot(0).generation, rig.slot(0).machine_id, rig.slot(0).flags) == (2, 0, 0)
        assert order == ["vm_slots", "slots"]
        assert M1 not in rig.driver.read(SlotRow)

    def test_an_interface_that_goes_takes_delivery_with_it(self, rig: Rig) -> None:
        del rig.links["tap1"]
        assert rig.drift(*WORLD) == [slot(M1, 1)]
        (failure,) = rig.put(slot(M1, 1))
        assert failure.permanent
        assert failure.error == f"interface tap1 of machine {M1} does not exist"
        assert (rig.slot(0).flags, rig.slot(0).ifindex, rig.slot(0).generation) == (0, 0, 2)
        rig.links["tap1"] = Link(77, b"\2\0\0\0\0\x77", True)
        assert rig.put(slot(M1, 1)) == []
        assert rig.slot(0).ifindex == 77
        assert slots_by_ifindex(rig.maps) == {77: 0, 12: 1}

    def test_an_interface_that_another_machine_has_by_now_stays_its(self, rig: Rig) -> None:
        """Puts come before deletes."""
        taker = replace(slot(M3, 3), interface="tap1")
        rig.put(slot(M1, 1, live=False), taker)
        rig.delete(slot(M1, 1))
        assert slots_by_ifindex(rig.maps) == {11: 2, 12: 1}
        assert rig.driver.read(SlotRow)[M3] == rig.driver.fingerprint(taker)

    def test_a_new_ifindex_frees_the_old_one(self, rig: Rig) -> None:
        rig.links["tap1"] = Link(78, b"\2\0\0\0\0\x77", True)
        assert rig.put(slot(M1, 1)) == []
        assert set(slots_by_ifindex(rig.maps)) == {78, 12}

    def test_a_crowded_bucket_is_named_and_the_others_stay(self, rig: Rig) -> None:
        """Interfaces whose indexes differ by a multiple of the buckets."""
        buckets = rig.maps["vm_slots"].spec.max_entries
        rig.links |= {f"far{i}": Link(11 + i * buckets, bytes(6), True) for i in range(1, 5)}
        names = [f"{i + 100:014x}" for i in range(1, 5)]
        rows = [replace(slot(n, 3), interface=f"far{i + 1}") for i, n in enumerate(names)]
        (failure,) = rig.put(*rows)
        assert failure.key == names[3]
        assert failure.permanent
        assert f"interface index {11 + 4 * buckets} in the map vm_slots is full" in failure.error
        assert "Make the interface anew" in failure.remedy
        assert slots_by_ifindex(rig.maps)[11 + 3 * buckets] == rig.driver._slots.index(names[2])
        rig.delete(rows[0])
        assert rig.put(rows[3]) == []
        assert rig.drift(*WORLD, *rows[1:]) == []


class TestTables:
    def test_a_new_table_is_complete_before_it_is_switched_to(self, rig: Rig) -> None:
        order: list[str] = []
        rig.watch(order, "maglev", "tables")
        rig.put(replace(TABLE, backends=(M1,)))
        assert order == ["maglev", "tables"]
        assert rig.table(0) == [0]
        raw = rig.maps["tables"].data[bytes(4)]
        assert layout.Table.from_buffer_copy(raw).start == 7, "beside the old one"

    def test_a_freed_run_rests_before_it_is_used_again(self, rig: Rig) -> None:
        rig.put(replace(TABLE, backends=(M2, M1)))
        rig.put(TABLE)
        assert self.start(rig) == 14
        rig.now += QUARANTINE + 0.1
        rig.put(replace(TABLE, backends=(M2, M1)))
        assert self.start(rig) == 0

    def start(self, rig: Rig) -> int:
        return int(layout.Table.from_buffer_copy(rig.maps["tables"].data[bytes(4)]).start)

    def test_no_backends_and_a_missing_one(self, rig: Rig) -> None:
        assert rig.put(replace(TABLE, backends=())) == []
        assert rig.table(0) == []
        assert rig.put(replace(TABLE, backends=(M1, M3))) == []
        assert rig.table(0) == [0], "new flows go to machines that are there"

    def test_a_machine_without_interface_is_left_out_until_it_has_one(self, rig: Rig) -> None:
        link = rig.links.pop("tap1")
        rig.put(slot(M1, 1))
        assert rig.put(TABLE) == []
        assert rig.table(0) == [1]
        assert rig.drift(*WORLD) == [slot(M1, 1)]
        rig.links["tap1"] = link
        assert rig.drift(*WORLD) == [slot(M1, 1)]
        rig.put(slot(M1, 1))
        assert rig.put(*rig.drift(*WORLD)) == []
        assert rig.table(0) == [0, 1, 0, 1, 0, 1, 0]

    def test_full_maglev_is_reported_and_the_rest_goes_on(self, rig: Rig) -> None:
        rig.driver._tables._size_of = lambda n: 5000
        big, other = TableRow("big", (M1,)), TableRow("other", (M2,))
        failures = rig.put(big, other)
        assert [f.key for f in failures] == ["other"]
        assert "maglev is full" in failures[0].error
        assert "dataplane.maglev_entries" in failures[0].remedy
        rig.delete(big)
        rig.now += QUARANTINE + 1
        assert rig.put(other) == []


class TestServices:
    def test_names_own_ids_until_their_last_row_goes(self, rig: Rig) -> None:
        second = replace(service(), vip="203.0.113.6")
        assert rig.put(second) == []
        assert rig.drift(*WORLD, second) == []
        rig.delete(service(), REPLY)
        assert rig.generation(0) == 0, "the other row still has it"
        rig.delete(second)
        assert rig.generation(0) == 1
        assert rig.driver.service_id("web/tcp/80") is None

    def test_renaming_ends_the_flows_of_the_old_name(self, rig: Rig) -> None:
        assert rig.drift(*WORLD) == []
        new = (replace(REPLY, service="web/new"), service(name="web/new"))
        assert rig.put(*new) == []
        assert rig.generation(0) == 1
        assert rig.driver.service_id("web/new") == 1

    def test_what_has_not_been_counted_is_not_freed(self, rig: Rig) -> None:
        after = rig.reborn()
        after.delete(service())
        assert after.generation(0) == 0, "replies have not been read yet"
        after.delete(REPLY)
        after.driver.read(ServiceRow)
        after.driver.read(ReplyRow)
        after.driver.sweep()
        assert after.generation(0) == 1

    def test_a_reused_id_starts_at_zero(self, rig: Rig) -> None:
        small = SMALL.services
        for port in range(1000, 1000 + small - 1):
            assert rig.put(service(port, name=f"s{port}")) == []
        (failure,) = rig.put(service(5000, name="one-too-many"))
        assert "service_states is full" in failure.error
        rig.delete(service(1000))
        rig.driver.read(ServiceRow)
        rig.driver.read(ReplyRow)
        rig.driver.sweep()
        rig.maps["service_stats"].update(b"\1\0\0\0", b"\7" * 80)
        assert rig.put(service(5000, name="next")) == []
        assert rig.driver.service_id("next") == 1
        assert rig.maps["service_stats"].data[b"\1\0\0\0"] == bytes(80)
        assert rig.generation(1) == 1

    def test_flags(self, rig: Rig) -> None:
        rig.put(replace(service(53), proto=17, reverse=True), replace(service(443), proxy=True))
        udp, proxied = rig.service(5, 53, 17), rig.service(5, 443)
        assert udp is not None
        assert proxied is not None
        assert udp.flags == layout.SERVICE_REVERSE
        assert proxied.flags == layout.SERVICE_PROXY

    def test_a_full_map_names_what_to_raise(self, rig: Rig) -> None:
        rows = [service(port) for port in range(1000, 1000 + SMALL.services)]
        (failure,) = rig.put(*rows)
        assert failure.key == rows[-1].key
        assert failure.error == "the map services is full"
        assert "dataplane.services" in failure.remedy

    def test_an_address_of_no_pool(self, rig: Rig) -> None:
        (failure,) = rig.put(replace(service(), vip="198.51.100.1"))
        assert "198.51.100.1 is in no pool" in failure.error
        assert rig.put(VipRow("198.51.100.1", "web", False))[0].permanent


class TestRanges:
    def lookup(self, rig: Rig, port: int) -> layout.Service | None:
        """What the kernel's LPM trie would find."""
        best: tuple[int, bytes] | None = None
        wanted = bytes(layout.ServiceRangeKey(vip=5, proto=6, port=port))[4:]
        number = int.from_bytes(wanted, "big")
        for raw, value in rig.maps["service_ranges"].data.items():
            bits = int.from_bytes(raw[:4], "little")
            if number >> (64 - bits) == int.from_bytes(raw[4:], "big") >> (64 - bits):
                best = max(best or (0, b""), (bits, value))
        return layout.Service.from_buffer_copy(best[1]) if best else None

    @pytest.mark.parametrize(
        ("first", "last"), [(1, 65535), (1000, 1999), (5, 6), (32768, 65535), (65534, 65535)]
    )
    def test_exactly_the_range(self, rig: Rig, first: int, last: int) -> None:
        rig.put(service(first, last))
        for port in {1, first, last, (first + last) // 2, 65535}:
            assert (self.lookup(rig, port) is not None) == (first <= port <= last), port
        assert self.lookup(rig, first - 1) is None
        assert len(list(RangeKey(5, 6, first, last).prefixes())) <= 30

    def test_growing_leaves_no_hole(self, rig: Rig) -> None:
        small, large = service(1000, 1999), service(1000, 2999)
        rig.put(small)
        rig.put(large)
        rig.delete(small)
        assert all(self.lookup(rig, port) for port in range(1000, 3000, 7))
        assert rig.drift(*WORLD, large) == []
        rig.delete(large)
        assert rig.maps["service_ranges"].data == {}

    def test_neighbours_stay_two(self, rig: Rig) -> None:
        rows = (service(1000, 1999), service(2000, 2999))
        rig.put(*rows)
        assert rig.reborn().drift(*WORLD, *rows) == []

    def test_lost_and_stray_entries(self, rig: Rig) -> None:
        row = service(1000, 1999)
        rig.put(row)
        data = rig.maps["service_ranges"].data
        lost = next(iter(data))
        value = data.pop(lost)
        assert rig.drift(*WORLD, row) == [row]
        rig.put(row)
        stray = next(RangeKey(5, 6, 9, 9).prefixes())
        data[stray] = value
        assert stray in rig.driver.read(ServiceRow)
        rig.driver.apply(ServiceRow, (), [stray])
        assert rig.drift(*WORLD, row) == []


class TestPools:
    def test_pools_that_stay_keep_their_indexes(self, rig: Rig) -> None:
        rig.put(settings("198.51.100.0/24", POOL))
        value = layout.Settings.from_buffer_copy(rig.maps["settings"].data[bytes(4)])
        assert [(p.prefix, p.vip_base) for p in value.pool[: value.pool_count]] == [
            (0xCB007100, 0),
            (0xC6336400, 256),
        ]
        after = rig.reborn()
        assert after.drift(settings(POOL, "198.51.100.0/24"), *WORLD[1:]) == []

    def test_a_new_pool_never_inherits_services(self, rig: Rig) -> None:
        rig.put(settings("198.51.100.0/24"))
        assert rig.service(5, 80) is None
        assert not any(rig.maps["vips"].data[b"\5\0\0\0"])

    def test_a_removed_pools_entries_can_still_be_deleted(self, rig: Rig) -> None:
        rig.put(settings())
        rig.delete(VIP, service(), REPLY)
        assert rig.maps["services"].data == {}
        again = Rig()
        again.put(*WORLD)
        again.put(settings())
        orphan = again.reborn()
        (key,) = orphan.driver.read(ServiceRow)
        assert key == ("vip#5", 6, 80, 80)
        assert orphan.driver.apply(ServiceRow, (), [key]) == []
        assert orphan.maps["services"].data == {}

    def test_ipv6_address_of_a_pool(self, rig: Rig) -> None:
        row = replace(settings(POOL), pools6=(POOL6,))
        assert rig.put(row, VipRow(VIP6, "web", False), SERVICE6, REPLY6) == []
        index = SMALL.pool_addresses + 0x10
        assert rig.service(index, 80) is not None
        assert rig.drift(*WORLD[1:], row, VipRow(VIP6, "web", False), SERVICE6, REPLY6) == []
        after = rig.reborn()
        assert set(after.driver.read(VipRow)) == {"203.0.113.5", VIP6}
        assert (M1, 6, 8080, True) in after.driver.read(ReplyRow)

    def test_ipv6_address_of_no_pool(self, rig: Rig) -> None:
        (failure,) = rig.put(VipRow(VIP6, "web", False))
        assert "is in no pool" in failure.error

    def test_ipv6_pool_that_takes_anothers_place(self, rig: Rig) -> None:
        """Nothing of the old one is the new one's."""
        rig.put(replace(settings(POOL), pools6=(POOL6,)), VipRow(VIP6, "web", False), SERVICE6)
        rig.put(replace(settings(POOL), pools6=("2001:db8:aa::/48",)))
        assert set(rig.driver.read(VipRow)) == {"203.0.113.5"}
        assert len(rig.driver.read(ServiceRow)) == 1

    def test_too_many_ipv6_pools(self, rig: Rig) -> None:
        pools6 = tuple(f"2001:db8:{n:x}::/48" for n in range(9))
        (failure,) = rig.put(replace(settings(POOL), pools6=pools6))
        assert "more than 8 IPv6 pools" in failure.error

    def test_no_room(self, rig: Rig) -> None:
        (failure,) = rig.put(settings("10.0.0.0/20"))
        assert "dataplane.pool_addresses" in failure.remedy


def test_the_applied_mark_survives_the_driver(rig: Rig) -> None:
    assert rig.driver.applied() is None
    image = Image(2**64 - 1, 2**63 - 1)
    rig.driver.set_applied(image)
    after = rig.reborn()
    assert after.driver.applied() == image
    assert after.drift(*WORLD) == []
    after.driver.set_applied(None)
    assert rig.driver.applied() is None


def test_strays_that_found_an_owner_are_kept(rig: Rig) -> None:
    """A full pass reads first, then puts, then deletes what it did not want."""
    after = rig.reborn()
    (digest,) = after.driver.read(TableRow)
    after.put(TABLE)
    assert after.driver.apply(TableRow, (), [digest]) == []
    assert after.driver.apply(SlotRow, (), ["ifindex#11"]) == []
    assert after.driver.apply(ReplyRow, (), [("#0", 6, 8080, False)]) == []
    assert after.driver.apply(ServiceRow, (), [("vip#5", 6, 80, 80)]) == []
    assert after.drift(*WORLD) == []


def test_fill(rig: Rig) -> None:
    assert rig.driver.fill() == {
        "slots": (2, 16),
        "tables": (1, 64),
        "maglev": (7, 8192),
        "service_states": (1, 64),
        "names": (0, 131_072),
    }


def test_counters_are_not_looked_up_before_the_maps_are_open(rig: Rig) -> None:
    """Other threads ask for them; opening is the main thread's."""
    index = rig.driver.service_id("web/tcp/80")
    assert index is not None
    after = rig.reborn()
    assert after.driver.service_id("web/tcp/80") is None
    after.driver.read(ServiceRow)
    assert after.driver.service_id("web/tcp/80") == index


def test_a_slot_that_could_not_be_cleared_is_cleared_later(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(key: bytes, value: bytes) -> None:
        raise KernelError("write the map vm_slots")

    with monkeypatch.context() as patched:
        patched.setattr(rig.maps["vm_slots"], "update", busy)
        with pytest.raises(KernelError):
            rig.driver.apply(SlotRow, (), [M1])
    assert rig.slot(0).ifindex == 11, "as it was"
    rig.driver.apply(SlotRow, (), [M1])
    assert rig.slot(0).ifindex == 0
    assert 11 not in slots_by_ifindex(rig.maps)
