# SPDX-License-Identifier: Apache-2.0
"""edge_xdp: IPv6 clients' packets to machines of this host."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    fragment6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Padding, Raw

from flyebpf.bpf.layout import FLOW_CONFIRMED, FLOW_REPLIED
from flyebpf.model.reasons import Count, DropReason
from tests import packets as p
from tests import packets6 as p6
from tests.bpf import world6 as w
from tests.bpf.expect import NEW, dropped, passed, row
from tests.bpf.rig import Outcome, Rig, Xdp

R = DropReason


def delivered(packet: Packet, number: int, port: int, service: int, *, new: bool) -> Outcome:
    return Outcome(
        Xdp.REDIRECT,
        w.to_vm(packet, number, port),
        counts=NEW if new else {},
        stats={service: w.received(packet, new=new)},
    )


def behind(*headers: Packet, **ip: object) -> Packet:
    packet = w.from_uplink(**ip)
    for header in headers:
        packet = packet / header
    return packet


TCP_SYN = TCP(sport=p.CLIENT_PORT, dport=80, flags="S", seq=9)
UDP_53 = UDP(sport=p.CLIENT_PORT, dport=53) / Raw(b"question")
DELIVERED = [
    row("the first segment of a connection", w.SYN, 8080, w.WEB),
    row("with TCP options", w.client_tcp(flags="S", options=[("MSS", 1440)]), 8080, w.WEB),
    row("with data, an odd number of bytes", w.client_tcp(80, "PA", b"odd"), 8080, w.WEB),
    row("a datagram", w.QUERY, 5353, w.DNS),
    row("an empty datagram", w.client_udp(payload=b""), 5353, w.DNS),
    row("the last hop", w.client_tcp(flags="S", hlim=2), 8080, w.WEB),
    row("padding stays", w.client_udp() / Padding(b"\xa5" * 7), 5353, w.DNS),
    row("behind options", behind(IPv6ExtHdrDestOpt(), TCP_SYN), 8080, w.WEB),
    row("behind hop-by-hop options", behind(IPv6ExtHdrHopByHop(), UDP_53), 5353, w.DNS),
    row("a route without hops to go", behind(IPv6ExtHdrRouting(), TCP_SYN), 8080, w.WEB),
    row(
        "six headers",
        behind(IPv6ExtHdrHopByHop(), *[IPv6ExtHdrDestOpt()] * 5, TCP_SYN), 8080, w.WEB,
    ),
    row("a whole packet as a fragment", behind(IPv6ExtHdrFragment(id=7), UDP_53), 5353, w.DNS),
    row("one VIP of several", w.client_tcp(22, "S", dst=p6.VIP2), 2222, w.SSH),
]  # fmt: skip


@pytest.mark.parametrize(("packet", "port", "service"), DELIVERED)
def test_to_the_machine(six: Rig, packet: Packet, port: int, service: int) -> None:
    """The first packet makes a flow, the next one is in it."""
    assert six.xdp(packet) == delivered(packet, 1, port, service, new=True)
    (flow,) = six.flows()
    assert (flow.slot, flow.service, flow.internal_port) == (1, service, port)
    assert bytes(flow.vip) == bytes(packet)[38:54]
    (entry,) = six.reverses()
    assert (entry.slot, entry.internal_port, entry.vip_port) == (1, port, flow.vip_port)
    if TCP not in packet:
        assert six.xdp(packet) == delivered(packet, 1, port, service, new=False)


def test_range_of_ports(six: Rig) -> None:
    packet = w.client_udp(5002)
    assert six.xdp(packet) == delivered(packet, 2, 6000, w.GAME, new=True)


def test_flow_is_confirmed_by_the_client(six: Rig) -> None:
    six.xdp(w.SYN)
    six.change_flows(state=FLOW_REPLIED)
    assert six.xdp(w.ACK) == delivered(w.ACK, 1, 8080, w.WEB, new=False)
    assert six.flows()[0].state == FLOW_REPLIED | FLOW_CONFIRMED


def test_flow_stays_when_the_table_changes(six: Rig) -> None:
    six.xdp(w.client_tcp(443, "S"))
    number = six.flows()[0].slot
    for index in range(16):
        six.maps["tables"].update(index.to_bytes(4, "little"), bytes(8))
    packet = w.client_tcp(443)
    assert six.xdp(packet) == delivered(packet, number, 443, w.BIG, new=False)


def test_same_tables_as_ipv4_choose_both_machines(six: Rig) -> None:
    for port in range(2000, 2040):
        six.xdp(w.client_tcp(443, "S", sport=port))
    assert {flow.slot for flow in six.flows()} == {1, 2}


def test_by_tc_where_the_interface_takes_no_redirect(six: Rig) -> None:
    packet = w.client_udp(82)
    outcome = six.xdp(packet)
    assert (outcome.verdict, outcome.packet) == (Xdp.PASS, w.to_vm(packet, 3, 82))
    assert outcome.counts == {**NEW, Count.VIA_TC: 1}
    assert outcome.meta[-4:] == six.ifindex["vm3"].to_bytes(4, "little")


@pytest.mark.parametrize("word", range(0, 0x10000, 0x1111))
def test_checksums(six: Rig, word: int) -> None:
    packet = w.client_udp(53, word.to_bytes(2, "big"), sport=word or 1)
    assert six.xdp(packet).packet == w.to_vm(packet, 1, 5353)


def test_udp_checksum_that_becomes_zero_is_ffff(six: Rig) -> None:
    """0 would say that there is none."""
    probe = Ether(w.to_vm(w.client_udp(53, b"\0\0"), 1, 5353))
    packet = w.client_udp(53, int(probe[UDP].chksum).to_bytes(2, "big"))
    outcome = six.xdp(packet)
    assert Ether(outcome.packet)[UDP].chksum == 0xFFFF
    assert outcome.packet == w.to_vm(packet, 1, 5353)


def whole(size: int = 300) -> Packet:
    fragment = IPv6ExtHdrFragment(id=77)
    return w.from_uplink() / fragment / UDP(sport=p.CLIENT_PORT, dport=53) / Raw(bytes(size))


def parts(packet: Packet) -> list[Packet]:
    """Its fragments, their checksum that of the whole."""
    return [
        Ether(bytes(Ether(src=p.ROUTER_MAC, dst=p.HOST_MAC) / part))
        for part in fragment6(IPv6(bytes(packet[IPv6])), 1280 - 1100)
    ]


def test_fragments_follow_the_first(six: Rig) -> None:
    sent = whole()
    fragments = parts(sent)
    assert len(fragments) > 2
    want = parts(Ether(w.to_vm(sent, 1, 5353)))
    for number, (part, wanted) in enumerate(zip(fragments, want, strict=True)):
        outcome = six.xdp(part)
        frame = bytes.fromhex((p.vm_mac(1) + p.gateway_mac(1)).replace(":", ""))
        assert outcome.packet == frame + bytes(wanted)[12:]
        assert outcome.verdict == Xdp.REDIRECT
        assert outcome.counts == (NEW if number == 0 else {})
        assert outcome.stats == {w.DNS: w.received(part, new=number == 0)}


def test_fragment_of_the_slots_last_owner(six: Rig) -> None:
    first, second, *_ = parts(whole())
    six.xdp(first)
    six.slot(1, generation=2)
    assert six.xdp(second) == dropped(second, R.FRAG_NO_FIRST)


def test_fragment_for_the_last_owner_of_the_vip(six: Rig) -> None:
    first, second, *_ = parts(whole())
    six.xdp(first)
    six.service_generation(w.DNS, 2)
    assert six.xdp(second) == dropped(second, R.FRAG_NO_FIRST)


def test_fragment_of_another_datagram(six: Rig) -> None:
    first, second, *_ = parts(whole())
    six.xdp(first)
    second[IPv6ExtHdrFragment].id = 78
    assert six.xdp(second) == dropped(second, R.FRAG_NO_FIRST)


def cut(packet: Packet, size: int) -> bytes:
    """The frame's end is missing, its header says nothing of that."""
    return bytes(packet)[:size]


def short(proto: int, size: int, **ip: object) -> Packet:
    return w.from_uplink(nh=proto, **ip) / Raw((b"\0\1" * 20)[:size])


FIRST = IPv6ExtHdrFragment(id=1, m=1)
DROPPED = [
    row("version 4", w.client_tcp(version=4), R.IPV6_HEADER),
    row("version 7", w.client_tcp(version=7), R.IPV6_HEADER),
    row("longer than its frame", w.client_tcp(plen=21), R.TRUNCATED),
    row("cut off", cut(w.SYN, 70), R.TRUNCATED),
    row("to many", p6.with_(w.SYN, Ether, dst="33:33:00:00:00:01"), R.GROUP_MAC),
    row("from many", p6.with_(w.SYN, Ether, src="33:33:00:00:00:01"), R.GROUP_MAC),
    row("from nobody", w.client_tcp(src="::"), R.BAD_SOURCE),
    row("from loopback", w.client_tcp(src="::1"), R.BAD_SOURCE),
    row("from a mapped IPv4 address", w.client_tcp(src="::ffff:192.0.2.10"), R.BAD_SOURCE),
    row("from a link-local address", w.client_tcp(src="fe80::2"), R.BAD_SOURCE),
    row("from the last link-local address", w.client_tcp(src="febf::2"), R.BAD_SOURCE),
    row("from a group", w.client_tcp(src="ff02::1"), R.BAD_SOURCE),
    row("from a VIP", w.client_tcp(src=p6.VIP2), R.BAD_SOURCE),
    row("from the rest of the pool", w.client_tcp(src=p6.REST), R.BAD_SOURCE),
    row("from a private network", w.client_tcp(src=p6.address(1)), R.MESH_OUTSIDE),
    row("to a private network", w.client_tcp(dst=p6.address(1)), R.MESH_OUTSIDE),
    row("hop limit 1", w.client_tcp(hlim=1), R.TTL),
    row("hop limit 0", w.client_tcp(hlim=0), R.TTL),
    row("to an address that nobody owns", w.client_tcp(dst=p6.FREE_VIP), R.VIP_UNALLOCATED),
    row("to one that nobody can get", w.client_tcp(dst=p6.REST), R.VIP_UNALLOCATED),
    row("the same offset in another /112", w.client_tcp(dst="2001:db8:f::1:10"), R.VIP_UNALLOCATED),
    row("the first behind the part", w.client_tcp(dst="2001:db8:f::20"), R.VIP_UNALLOCATED),
    row("to a port without service", w.client_tcp(9), R.NO_SERVICE),
    row("to a service of UDP by TCP", w.client_tcp(53), R.NO_SERVICE),
    row("a service that is the proxy's", w.client_tcp(8443, "S"), R.NEEDS_PROXY),
    row("UDP without a machine", w.client_udp(81), R.NO_BACKEND),
    row("a reset without a machine", w.client_tcp(81, "R"), R.NO_BACKEND),
    row("IPv4 inside", w.from_uplink() / IP(), R.PROTO),
    row("no next header", w.from_uplink(nh=59), R.PROTO),
    row("19 bytes of TCP", short(6, 19), R.BAD_L4_HEADER),
    row("7 bytes of UDP", short(17, 7), R.BAD_L4_HEADER),
    row("nothing of UDP", short(17, 0), R.BAD_L4_HEADER),
    row("UDP without a checksum", p6.with_(w.QUERY, UDP, chksum=0), R.BAD_L4_HEADER),
    row("UDP longer than its packet", p6.with_(w.QUERY, UDP, len=17), R.BAD_L4_HEADER),
    row("UDP of 7 bytes", p6.with_(w.QUERY, UDP, len=7), R.BAD_L4_HEADER),
    row("TCP from port 0", w.client_tcp(sport=0), R.BAD_L4_HEADER),
    row("UDP to port 0", w.client_udp(0), R.BAD_L4_HEADER),
    row("TCP with a header of 4 words", p6.with_(w.SYN, TCP, dataofs=4), R.BAD_L4_HEADER),
    row("TCP with a header behind its end", p6.with_(w.SYN, TCP, dataofs=6), R.BAD_L4_HEADER),
    row("SYN and FIN", w.client_tcp(flags="SF"), R.BAD_L4_HEADER),
    row("seven headers", behind(*[IPv6ExtHdrDestOpt()] * 7, TCP_SYN), R.IPV6_HEADER),
    row(
        "hop-by-hop options that are not first",
        behind(IPv6ExtHdrDestOpt(), IPv6ExtHdrHopByHop(), TCP_SYN), R.IPV6_HEADER,
    ),
    row(
        "a route with hops to go",
        behind(IPv6ExtHdrRouting(segleft=1, addresses=["2001:db8::1"]), TCP_SYN), R.IPV6_HEADER,
    ),
    row("a fragment in a fragment", behind(FIRST, FIRST, TCP_SYN), R.IPV6_HEADER),
    row("options that are cut off", w.from_uplink(nh=60) / Raw(bytes(6)), R.IPV6_HEADER),
    row("options behind the end", behind(IPv6ExtHdrDestOpt(len=9), TCP_SYN), R.IPV6_HEADER),
    row("a fragment without the first", behind(IPv6ExtHdrFragment(offset=9), UDP_53),
        R.FRAG_NO_FIRST),
    row("a first fragment of 7 bytes of UDP",
        behind(IPv6ExtHdrFragment(nh=17, m=1), Raw(bytes(7))), R.FRAG_TINY),
    row("a first fragment of 19 bytes of TCP",
        behind(IPv6ExtHdrFragment(nh=6, m=1), Raw(bytes(19))), R.FRAG_TINY),
    row("the first fragment of a ping", behind(IPv6ExtHdrFragment(m=1), ICMPv6EchoRequest()),
        R.ICMP_FRAGMENT),
]  # fmt: skip


@pytest.mark.parametrize(("packet", "reason"), DROPPED)
def test_dropped(six: Rig, packet: Packet | bytes, reason: DropReason) -> None:
    assert six.xdp(packet) == dropped(packet, reason)
    assert six.flows() == []
    assert six.reverses() == []


def test_two_vips_one_client_tuple(six: Rig) -> None:
    six.xdp(w.client_tcp(22, "S"))
    six.change_flows(state=FLOW_CONFIRMED)
    packet = w.client_tcp(22, "A", dst=p6.VIP2)
    assert six.xdp(packet) == dropped(packet, R.FLOW_CONFLICT)


PASSED = [
    row("to the host itself", w.client_tcp(dst="2001:db8:2::1")),
    row("to the prefix before", w.client_tcp(dst="2001:db8:e:ffff::10")),
    row("to the prefix behind", w.client_tcp(dst="2001:db8:10::10")),
    row("a neighbour's question", w.client_tcp(dst="ff02::1:ff00:10")),
    row("too short for a header", bytes(w.SYN)[:53]),
]


@pytest.mark.parametrize("packet", PASSED)
def test_passed(six: Rig, packet: Packet | bytes) -> None:
    assert six.xdp(packet) == passed(packet)


def test_nothing_is_ours_before_there_are_settings(six: Rig) -> None:
    six.settings.flow_buckets = 0
    six.write_settings()
    assert six.xdp(w.SYN) == passed(w.SYN)


def test_machine_without_a_network(six: Rig) -> None:
    """It has no address to deliver to."""
    six.change_slot(1, network=0)
    assert six.xdp(w.QUERY) == dropped(w.QUERY, R.NO_BACKEND, NEW)


def test_reset_where_there_is_no_machine(six: Rig) -> None:
    packet = w.client_tcp(81, "S", b"hello")
    answer = (
        Ether(src=p.HOST_MAC, dst=p.ROUTER_MAC)
        / IPv6(src=p6.VIP, dst=p6.CLIENT, hlim=64)
        / TCP(sport=81, dport=p.CLIENT_PORT, flags="RA", seq=0, ack=1006, window=0)
    )
    want = {R.NO_BACKEND: (1, len(packet))}
    assert six.xdp(packet) == Outcome(Xdp.TX, bytes(answer), want, {Count.RST: 1})
    packet = w.client_tcp(81, "A")
    answer[TCP].flags, answer[TCP].seq, answer[TCP].ack = "R", 2000, 0
    assert six.xdp(packet).packet == bytes(answer)
