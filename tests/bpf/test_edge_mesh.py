# SPDX-License-Identifier: Apache-2.0
"""edge_xdp and machines of other hosts: their clients' packets, whole."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Padding, Raw

from flyebpf.bpf.layout import SLOT_REMOTE
from flyebpf.model.reasons import Count, DropReason
from tests import packets as p
from tests import packets6 as p6
from tests.bpf.expect import dropped, passed, received, row
from tests.bpf.far import (
    FAR,
    FAR_PORT,
    FAR_SLOT,
    FAR_UDP,
    FAR_UDP_PORT,
    ROOM,
    TWIN_PORT,
    TWINS,
    carried,
    hopped,
    via,
)
from tests.bpf.fast import Fast
from tests.bpf.rig import Outcome, Rig, Xdp

R = DropReason
NEW = {Count.FLOW_NEW: 1, Count.MESH_OUT: 1}
OLD = {Count.MESH_OUT: 1}


def sent(packet: Packet, port: int, service: int, *, new: bool = True) -> Outcome:
    """XDP hands it to edge_tc, for OTHER_HOST."""
    return Outcome(
        Xdp.PASS,
        carried(hopped(packet), port=port),
        counts=NEW if new else OLD,
        stats={service: received(packet, new=new)},
        meta=via(p6.OTHER_HOST),
    )


def padded(packet: Packet, size: int) -> Packet:
    return packet / Padding(b"\xa5" * size)


SYN = p.client_tcp(90, "S")
QUERY = p.client_udp(90)
OPTIONS = p.from_uplink(options=[b"\x94\x04\0\0"]) / TCP(sport=p.CLIENT_PORT, dport=90, flags="S")
NO_SUM = p.from_uplink() / UDP(sport=p.CLIENT_PORT, dport=90, chksum=0) / Raw(b"question")
LONGEST = p.client_udp(90, bytes(ROOM - 28))

SENT = [
    row("the first segment of a connection", SYN, FAR_PORT, FAR),
    row("a segment with data", p.client_tcp(90, "PA", b"odd"), FAR_PORT, FAR),
    row("IP options", OPTIONS, FAR_PORT, FAR),
    row("a datagram", QUERY, FAR_UDP_PORT, FAR_UDP),
    row("a datagram without a checksum", NO_SUM, FAR_UDP_PORT, FAR_UDP),
    row("an empty datagram", p.client_udp(90, b""), FAR_UDP_PORT, FAR_UDP),
    row("Ethernet's padding, which is left out", padded(QUERY, 11), FAR_UDP_PORT, FAR_UDP),
    row("padding of more than the mesh takes", padded(QUERY, 1400), FAR_UDP_PORT, FAR_UDP),
    row("the longest packet that fits", LONGEST, FAR_UDP_PORT, FAR_UDP),
    row("a service whose machine has several VIPs", p.client_tcp(92, "S"), TWIN_PORT, TWINS),
]


@pytest.mark.parametrize(("packet", "port", "service"), SENT)
def test_to_the_machines_host(far: Rig, packet: Packet, port: int, service: int) -> None:
    assert far.xdp(packet) == sent(packet, port, service)


def test_flow_goes_on(far: Rig) -> None:
    """The second packet finds the flow, also when the table leads elsewhere."""
    far.xdp(SYN)
    far.table([1], index=far._tables - 1)
    ack = p.client_tcp(90, "A")
    assert far.xdp(ack) == sent(ack, FAR_PORT, FAR, new=False)
    assert [flow.slot for flow in far.flows()] == [FAR_SLOT]


def test_no_reverse_entry_at_the_edge(far: Rig) -> None:
    """Replies are the machine's host's to recognize, so one client port may
    serve two VIPs as far as the edge is concerned."""
    for vip in (p.VIP, p.VIP2):
        packet = p.client_tcp(92, "S", dst=vip)
        assert far.xdp(packet) == sent(packet, TWIN_PORT, TWINS)
    assert far.reverses() == []


@pytest.mark.parametrize("options", [b"", b"\x94\x04\0\0"])
def test_fragments_follow_the_first(far: Rig, options: bytes) -> None:
    whole = p.client_udp(90, bytes(200), options=[options] if options else [])
    first, *later = p.fragments_of(whole)
    assert far.xdp(first) == sent(first, FAR_UDP_PORT, FAR_UDP)
    for part in later:
        assert far.xdp(part) == sent(part, 0, FAR_UDP, new=False)


def test_fragment_of_a_machine_that_has_moved(far: Rig) -> None:
    first, second, *_ = p.fragments_of(p.client_udp(90, bytes(200)))
    far.xdp(first)
    far.change_slot(FAR_SLOT, generation=2)
    assert far.xdp(second) == dropped(second, R.FRAG_NO_FIRST)


def test_errors_follow_the_flow_as_they_are(far: Rig) -> None:
    """The machine's host knows what the machine sent."""
    far.xdp(SYN)
    quoted = IP(src=p.VIP, dst=p.CLIENT) / TCP(sport=90, dport=p.CLIENT_PORT)
    packet = p.icmp_error(quoted)
    assert far.xdp(packet) == sent(packet, 0, FAR, new=False)


def frag_needed(packet: Packet) -> bytes:
    """The VIP tells the sender what fits."""
    ether = Ether(src=packet[Ether].dst, dst=packet[Ether].src)
    ip = IP(src=packet[IP].dst, dst=packet[IP].src, id=0, flags="DF", ttl=64)
    error = ICMP(type=3, code=4, nexthopmtu=ROOM)
    return bytes(ether / ip / error / Raw(bytes(packet)[14 : 14 + 68]))


def told(packet: Packet, counts: dict[Count, int] | None = None) -> Outcome:
    length = len(bytes(packet))
    counted = {Count.TOO_BIG: 1, **(counts or {})}
    return Outcome(Xdp.TX, frag_needed(packet), {R.TOO_BIG: (1, length)}, counted)


TOO_LONG = p.client_udp(90, bytes(ROOM - 27))
TOO_LONG_OPTIONS = (
    p.from_uplink(options=[b"\x01" * 40], flags="DF")
    / UDP(sport=p.CLIENT_PORT, dport=90)
    / Raw(bytes(ROOM))
)


@pytest.mark.parametrize(
    "packet",
    [
        row("one byte more", TOO_LONG),
        row("fragments forbidden", p.client_udp(90, bytes(1400), flags="DF")),
        row("a segment", p.client_tcp(90, "PA", bytes(1400))),
        row("the most IP options, all of which are quoted", TOO_LONG_OPTIONS),
    ],
)
def test_too_long_is_told(far: Rig, packet: Packet) -> None:
    assert far.xdp(packet) == told(packet, {Count.FLOW_NEW: 1})


def test_first_fragment_too_long_is_told(far: Rig) -> None:
    first, second = p.fragments_of(p.client_udp(90, bytes(2800)), ROOM + 12)[:2]
    assert far.xdp(first) == told(first, {Count.FLOW_NEW: 1})
    assert far.xdp(second) == dropped(second, R.TOO_BIG)


def test_errors_are_not_answered_by_errors(far: Rig) -> None:
    far.xdp(SYN)
    quoted = IP(src=p.VIP, dst=p.CLIENT) / TCP(sport=90, dport=p.CLIENT_PORT) / bytes(1400)
    packet = p.icmp_error(quoted)
    assert far.xdp(packet) == dropped(packet, R.TOO_BIG)


def test_a_flood_is_answered_in_part(far: Rig) -> None:
    fast, frame = Fast.xdp(far), bytes(TOO_LONG)
    verdicts = [fast.run(frame)[0] for _ in range(500)]
    told, limited = (verdicts.count(verdict) for verdict in (Xdp.TX, Xdp.DROP))
    assert min(told, limited) > 0
    assert told + limited == 500
    assert far.count(Count.TOO_BIG) == told
    assert far.count(Count.ICMP_LIMITED) == limited
    assert far.drops(R.TOO_BIG) == 500


def test_without_a_mesh(far: Rig) -> None:
    far.settings.mesh_mtu = 0
    far.write_settings()
    assert far.xdp(QUERY) == dropped(QUERY, R.NO_HOST, {Count.FLOW_NEW: 1})


def test_machine_that_is_not_usable(far: Rig) -> None:
    far.change_slot(FAR_SLOT, flags=SLOT_REMOTE)
    assert far.xdp(QUERY) == dropped(QUERY, R.NO_BACKEND)


def v6(src: str, dst: str) -> Packet:
    return Ether(src=p.ROUTER_MAC, dst=p.HOST_MAC) / IPv6(src=src, dst=dst) / UDP(dport=53)


OUTSIDE = "2001:db8::1"


@pytest.mark.parametrize(
    "packet",
    [
        row("from a machine, to outside", v6(p6.address(1), OUTSIDE)),
        row("to a machine", v6(OUTSIDE, p6.address(1))),
        row("as a host sends", v6(p6.sixpn(p6.OTHER_HOST, 0, 0, 1), p6.sixpn(p6.HOST, 0, 16, 80))),
        row("to the name server", v6(OUTSIDE, "fdaa::3")),
        row("the last one of the prefix", v6(OUTSIDE, "fdaa:" + ":".join(["ffff"] * 7))),
    ],
)
def test_private_networks_are_not_outside(far: Rig, packet: Packet) -> None:
    assert far.xdp(packet) == dropped(packet, R.MESH_OUTSIDE)


@pytest.mark.parametrize(
    "packet",
    [
        row("public addresses", v6(OUTSIDE, "2001:db8::2")),
        row("the prefix before", v6(OUTSIDE, "fda9:ffff::1")),
        row("the prefix after", v6("fdab::1", OUTSIDE)),
        row("no whole header", bytes(v6(p6.address(1), p6.address(2)))[:53]),
    ],
)
def test_other_ipv6_is_the_hosts(far: Rig, packet: Packet) -> None:
    assert far.xdp(packet) == passed(packet)


def test_guard_before_settings_are_written(far: Rig) -> None:
    far.settings.flow_buckets = 0
    far.write_settings()
    packet = v6(OUTSIDE, p6.address(1))
    assert far.xdp(packet) == dropped(packet, R.MESH_OUTSIDE)
    far.settings.flow_buckets = 64
    far.write_settings()


def test_slots_fields_reach_the_header(far: Rig) -> None:
    """Machine and host fields with every bit at work."""
    for host, machine in ((0xFFFFFFFF, 0xFFFFFFFF), (0x80000001, 0x10), (0xAAAA5555, 0x5555AAAA)):
        far.change_slot(FAR_SLOT, host=host, machine=machine)
        outcome = far.xdp(QUERY)
        assert outcome.packet == carried(
            hopped(QUERY), machine=machine, port=FAR_UDP_PORT, dst=host
        )
        assert outcome.meta == via(host)
