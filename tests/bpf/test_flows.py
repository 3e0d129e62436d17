# SPDX-License-Identifier: Apache-2.0
"""The flow table: what stays, what goes, what must never be believed."""

from __future__ import annotations

import random

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether

from flyebpf.bpf import layout
from flyebpf.bpf.layout import FLOW_CONFIRMED, FLOW_REPLIED, FLOW_WAYS
from flyebpf.model.reasons import Count, DropReason
from tests import packets as p
from tests.bpf import world as w
from tests.bpf.arithmetic import Tuple, maglev_index
from tests.bpf.expect import answered, delivered, dropped, shot
from tests.bpf.rig import Outcome, Rig, Xdp

R = DropReason
BIG_TABLE = 2  # index of the table of service BIG
CLIENT_ACK = p.client_tcp(443, "A")


def open_flow(rig: Rig) -> int:
    """A flow of service BIG; returns the machine."""
    rig.xdp(p.client_tcp(443, "S"))
    (flow,) = rig.flows()
    return int(flow.slot)


def test_a_flow_as_it_is_kept(rig: Rig) -> None:
    rig.xdp(p.SYN)
    (flow,) = rig.flows()
    assert bytes(flow.client)[12:] == bytes([192, 0, 2, 10])
    assert bytes(flow.vip)[10:] == b"\xff\xff" + bytes([203, 0, 113, 10])
    assert (flow.client_port, flow.vip_port, flow.internal_port) == (p.CLIENT_PORT, 80, 8080)
    assert (flow.proto, flow.slot, flow.service, flow.state) == (6, 1, w.WEB, 0)
    assert flow.ifindex == rig.ifindex["up0"]


def test_stays_when_the_table_changes(rig: Rig) -> None:
    number = open_flow(rig)
    rig.table([3 - number] * 16, BIG_TABLE)
    assert rig.xdp(CLIENT_ACK) == delivered(CLIENT_ACK, number, 443, w.BIG, new=False)


def test_stays_when_the_table_is_empty(rig: Rig) -> None:
    """Cordoned machines keep their flows."""
    number = open_flow(rig)
    rig.table([], BIG_TABLE)
    assert rig.xdp(CLIENT_ACK) == delivered(CLIENT_ACK, number, 443, w.BIG, new=False)


def test_stays_when_the_service_is_gone(rig: Rig) -> None:
    """An address or port taken away ends no connection: its id does."""
    number = open_flow(rig)
    rig.maps["services"].delete(bytes(layout.ServiceKey(rig.vip_index(p.VIP), 443, 6)))
    assert rig.xdp(CLIENT_ACK) == delivered(CLIENT_ACK, number, 443, w.BIG, new=False)
    rig.service_generation(w.BIG, 2)
    assert rig.xdp(CLIENT_ACK) == dropped(CLIENT_ACK, R.NO_SERVICE)


def test_syn_chooses_anew(rig: Rig) -> None:
    number = open_flow(rig)
    rig.table([3 - number] * 16, BIG_TABLE)
    syn = p.client_tcp(443, "S")
    assert rig.xdp(syn) == delivered(syn, 3 - number, 443, w.BIG)
    assert [flow.slot for flow in rig.flows()] == [3 - number]


def test_syn_ack_chooses_nothing(rig: Rig) -> None:
    """With ACK it is no first packet."""
    number = open_flow(rig)
    packet = p.client_tcp(443, "SA")
    assert rig.xdp(packet) == delivered(packet, number, 443, w.BIG, new=False)


def test_stopped_machine(rig: Rig) -> None:
    """Its flows move to another one, and never come back by themselves."""
    number = open_flow(rig)
    rig.slot(number, flags=0, generation=2)
    rig.table([3 - number] * 16, BIG_TABLE)
    assert rig.xdp(CLIENT_ACK) == delivered(CLIENT_ACK, 3 - number, 443, w.BIG)
    rig.slot(number, generation=2)
    assert rig.xdp(CLIENT_ACK) == delivered(CLIENT_ACK, 3 - number, 443, w.BIG, new=False)


def test_next_owner_of_a_slot_gets_nothing(rig: Rig) -> None:
    number = open_flow(rig)
    rig.slot(number, generation=2)
    rig.table([3 - number] * 16, BIG_TABLE)
    assert rig.xdp(CLIENT_ACK) == delivered(CLIENT_ACK, 3 - number, 443, w.BIG)


def test_next_owner_of_a_slot_without_others(rig: Rig) -> None:
    """No other machine: TCP is reset, UDP dropped."""
    rig.xdp(p.QUERY)
    rig.xdp(p.SYN)
    rig.slot(1, generation=2)
    rig.table([], 0)
    assert rig.xdp(p.QUERY) == dropped(p.QUERY, R.NO_BACKEND)
    assert rig.xdp(p.ACK).verdict == Xdp.TX


def test_next_owner_of_a_slot_does_not_answer_for_the_old(rig: Rig) -> None:
    """A REVERSE service's reply is found by the flow: of the old owner, no more."""
    rig.xdp(p.client_tcp(22, "S"))
    rig.slot(1, generation=2)
    answer = p.vm_tcp(1, 2222)
    assert rig.vm(1, answer) == shot(answer, R.REPLY_AMBIGUOUS)


def test_next_owner_of_a_service_id(rig: Rig) -> None:
    """The id now counts another app's packets."""
    rig.xdp(p.QUERY)
    rig.service_generation(w.DNS, 2)
    assert rig.xdp(p.QUERY) == delivered(p.QUERY, 1, 5353, w.DNS, new=True)


FIELDS = {
    "slot": 2,
    "service": w.BIG,
    "internal_port": 2222,
    "seal": 0x1234567,
    "client_port": 1,
    "vip_port": 1,
    "proto": 17,
}


@pytest.mark.parametrize("field", FIELDS)
def test_torn_entry_is_a_miss(rig: Rig, field: str) -> None:
    """Two writers met: no part of what they left is believed."""
    rig.xdp(p.SYN)
    assert rig.change_flows(**{field: FIELDS[field]}) == 1
    assert rig.xdp(p.ACK) == delivered(p.ACK, 1, 8080, w.WEB, new=True)


REVERSE_FIELDS = {
    "service": w.BIG,
    "ifindex": 1,
    "vip_port": 23,
    "seal": 0x1234567,
    "internal_port": 1,
    "client_port": 1,
    "slot": 2,
    "proto": 17,
    "state": layout.FLOW_OWN,
}


@pytest.mark.parametrize("field", REVERSE_FIELDS)
def test_torn_reverse_entry_is_a_miss(rig: Rig, field: str) -> None:
    rig.xdp(p.client_tcp(22, "S"))
    assert rig.change_reverses(**{field: REVERSE_FIELDS[field]}) == 1
    answer = p.vm_tcp(1, 2222)
    assert rig.vm(1, answer) == shot(answer, R.REPLY_AMBIGUOUS)


def test_torn_at_any_byte(rig: Rig) -> None:
    """Whatever byte of an entry changes: either it is a miss, or the byte is
    one of `state`, `seen` and `ifindex`, which do not say where packets go."""
    rig.xdp(p.SYN)
    ((key, bucket),) = [(key, value) for key, value in rig.maps["flows"].items() if any(value)]
    at = next(i for i in range(FLOW_WAYS) if any(bucket[i * 64 + 8 : i * 64 + 64])) * 64
    free = {layout.Flow.state.offset}
    for loose in (layout.Flow.seen, layout.Flow.ifindex):
        free |= set(range(loose.offset, loose.offset + loose.size))
    for offset in range(64):
        torn = bytearray(bucket)
        torn[at + offset] ^= 0x5A
        rig.maps["flows"].update(key, bytes(torn))
        outcome = rig.xdp(p.ACK)
        new = offset not in free
        assert outcome == delivered(p.ACK, 1, 8080, w.WEB, new=new), f"byte {offset}"
        rig.maps["flows"].update(key, bucket)


def crowd(rig: Rig, number: int, *, prefix: str = "192.0.3.") -> list[int]:
    """So many clients open connections; returns the count of each event."""
    for i in range(number):
        rig.xdp(p.client_tcp(80, "S", src=f"{prefix}{i % 250 + 1}", sport=10000 + i))
    return [flow.state for flow in rig.flows()]


@pytest.fixture
def tight(rig: Rig) -> Rig:
    """A flow table of one bucket: every tuple has the same eight places, or
    rather four, since both of its buckets are the same."""
    rig.settings.flow_buckets = 1
    rig.write_settings()
    return rig


def test_unconfirmed_flows_give_way(tight: Rig) -> None:
    """The oldest of them first."""
    crowd(tight, FLOW_WAYS)
    oldest = tight.flows()[2]
    bucket = layout.FlowBucket.from_buffer_copy(tight.maps["flows"].lookup(bytes(4)) or b"")
    for way in bucket.way:  # a slow machine takes more than a tick for each
        way.seen = bucket.way[0].seen
    bucket.way[2].seen -= 3
    tight.maps["flows"].update(bytes(4), bytes(bucket))
    assert tight.xdp(p.SYN) == Outcome(
        Xdp.REDIRECT,
        p.to_vm(p.SYN, 1, 8080),
        counts={Count.FLOW_NEW: 1, Count.FLOW_EVICTED: 1},
        stats=delivered(p.SYN, 1, 8080, w.WEB).stats,
    )
    clients = [bytes(flow.client) for flow in tight.flows()]
    assert len(clients) == FLOW_WAYS
    assert bytes(oldest.client) not in clients


def confirm(rig: Rig, sport: int) -> None:
    """A connection that gets as far as the client's second packet."""
    rig.xdp(p.client_tcp(80, "S", sport=sport))
    rig.vm(1, p.vm_tcp(1, flags="SA", dport=sport))
    rig.xdp(p.client_tcp(80, "A", sport=sport))


def test_confirmed_flows_stay_in_a_flood(tight: Rig) -> None:
    """Three confirmed ones and a flood of SYNs, which has one place."""
    for sport in (1001, 1002, 1003):
        confirm(tight, sport)
    crowd(tight, 100)
    confirmed = [flow.client_port for flow in tight.flows() if flow.state & FLOW_CONFIRMED]
    assert sorted(confirmed) == [1001, 1002, 1003]


def test_answered_is_not_confirmed(tight: Rig) -> None:
    """The machine answers forged SYNs too."""
    for sport in (1001, 1002, 1003, 1004):
        tight.xdp(p.client_tcp(80, "S", sport=sport))
        tight.vm(1, p.vm_tcp(1, flags="SA", dport=sport))
    assert {flow.state for flow in tight.flows()} == {FLOW_REPLIED}
    confirm(tight, 2001)
    assert 2001 in [flow.client_port for flow in tight.flows()]


def test_full_of_confirmed_flows(tight: Rig) -> None:
    """A new flow is not kept, but served where the table says."""
    for sport in (1001, 1002, 1003, 1004):
        confirm(tight, sport)
    for packet in (p.SYN, p.ACK):
        assert tight.xdp(packet) == Outcome(
            Xdp.REDIRECT,
            p.to_vm(packet, 1, 8080),
            counts={Count.FLOW_NEW: 1, Count.FLOW_REJECTED: 1},
            stats=delivered(packet, 1, 8080, w.WEB).stats,
        )
    assert tight.vm(1, p.SYN_ACK) == answered(p.SYN_ACK, p.VIP, 80, w.WEB)


def test_idle_confirmed_flow_gives_way(tight: Rig) -> None:
    for sport in (1001, 1002, 1003, 1004):
        confirm(tight, sport)
    bucket = layout.FlowBucket.from_buffer_copy(tight.maps["flows"].lookup(bytes(4)) or b"")
    idle = bucket.way[1].client_port
    bucket.way[1].seen -= 5000
    tight.maps["flows"].update(bytes(4), bytes(bucket))
    tight.xdp(p.SYN)
    ports = {flow.client_port for flow in tight.flows()}
    assert ports == {1001, 1002, 1003, 1004, p.CLIENT_PORT} - {idle}


def test_clock_of_another_cpu(tight: Rig) -> None:
    """An entry touched in the next tick is new, not four billion ticks old."""
    for sport in (1001, 1002, 1003, 1004):
        confirm(tight, sport)
    tight.change_flows(seen=tight.flows()[0].seen + 5)
    tight.xdp(p.SYN)
    assert p.CLIENT_PORT not in [flow.client_port for flow in tight.flows()]


def test_closing_flow_goes_before_an_open_one(tight: Rig) -> None:
    """Among the confirmed, one that said goodbye is given up first."""
    for sport in (1001, 1002, 1003, 1004):
        confirm(tight, sport)
    tight.xdp(p.client_tcp(80, "FA", sport=1003))
    tight.xdp(p.SYN)
    assert 1003 not in [flow.client_port for flow in tight.flows()]


def test_same_tuple_takes_its_own_place(tight: Rig) -> None:
    for _ in range(3):
        tight.xdp(p.SYN)
    assert len(tight.flows()) == 1
    tight.service_generation(w.WEB, 2)
    tight.xdp(p.ACK)
    assert len(tight.flows()) == 1


def test_second_bucket_is_used(rig: Rig) -> None:
    """256 entries hold nearly all of 150 flows, although first buckets fill up."""
    for sport in random.Random(7).sample(range(1024, 65536), 150):
        rig.xdp(p.client_tcp(80, "S", sport=sport))
    assert len(rig.flows()) >= 148


@pytest.mark.parametrize("fields", [{"seen": 0}, {"state": 0xFF}], ids=["idle", "every state"])
def test_bookkeeping_decides_nothing(rig: Rig, fields: dict[str, int]) -> None:
    """`seen` and `state` of a flow say nothing about where its packets go."""
    rig.xdp(p.SYN)
    rig.change_flows(**fields)
    assert rig.xdp(p.ACK) == delivered(p.ACK, 1, 8080, w.WEB, new=False)


def test_flows_of_vms_are_flows(rig: Rig) -> None:
    """A VM that dials a VIP is a client under its alias."""
    rig.vm(4, p.vm_tcp(4, 50000, "S", dst=p.VIP, dport=80))
    (flow,) = rig.flows()
    assert bytes(flow.client)[12:] == bytes([100, 64, 0, 8])
    assert flow.ifindex == rig.ifindex["vm4"]


def test_maglev_entry_of_a_tuple(rig: Rig) -> None:
    """The choice is the hash's: the same on every host with the same seed."""
    table = [1 if i % 3 else 2 for i in range(16)]
    rig.table(table, BIG_TABLE)
    for sport in range(40000, 40100):
        packet = p.client_tcp(443, "S", sport=sport)
        index = maglev_index(Tuple(p.CLIENT, p.VIP, sport, 443, 6), rig.settings.seed, len(table))
        got = Ether(rig.xdp(packet).packet)[IP].dst
        assert got == p.private_ip(table[index])
