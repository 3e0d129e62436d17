# SPDX-License-Identifier: Apache-2.0
"""vm_tc: IPv6 between machines of a network, and what is kept from it."""

from __future__ import annotations

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    RouterAlert,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Padding, Raw

from flyebpf.bpf.layout import SLOT_LIVE, SLOT_REMOTE
from flyebpf.model.reasons import Count, DropReason
from tests import packets as p
from tests import packets6 as p6
from tests.bpf.expect import row, shot
from tests.bpf.rig import Outcome, Rig, Tc, mac_bytes
from tests.packets6 import behind, with_

R = DropReason
MTU = p6.MESH_MTU
OWN_MSS = ("MSS", 1440)


HOP, OPTIONS = IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt
LAST_TCP = TCP(sport=1, dport=2, flags="S")
EIGHT = PadN(optdata=bytes(12))  # makes an options header of 16 bytes

PASSES = [
    row("a segment", p6.tcp(1)),
    row("a SYN", p6.tcp(1, "S", options=[OWN_MSS])),
    row("a datagram", p6.udp(1)),
    row("a datagram with nothing in it", p6.udp(1, b"")),
    row("a datagram to port 546, not from 547", p6.udp(1, dport=546, sport=548)),
    row("a datagram from port 547, not to 546", p6.udp(1, dport=547, sport=547)),
    row("a ping", p6.ping(1)),
    row("an ICMPv6 error", behind(ICMPv6DestUnreach(), IPv6(), Raw(bytes(8)))),
    row("a packet too big", behind(ICMPv6PacketTooBig(mtu=1280), IPv6(), Raw(bytes(8)))),
    row("from another of its 65,536 addresses", p6.tcp(1, src=p6.address(1, 0xFFFF))),
    row("from the first of its addresses", p6.tcp(1, src=p6.address(1, 0))),
    row("to another address of the machine", p6.tcp(1, dst=p6.address(2, 0x8000))),
    row("with the last hop but one", p6.tcp(1, hlim=2)),
    row("in a padded frame", p6.udp(1, b"") / Padding(bytes(20))),
    row("with any MAC for its gateway", with_(p6.tcp(1), Ether, dst=p.vm_mac(4))),
    row("hop-by-hop options", behind(HOP(options=RouterAlert()), LAST_TCP)),
    row("destination options", behind(OPTIONS(options=EIGHT), LAST_TCP)),
    row("a route that has been gone", behind(IPv6ExtHdrRouting(segleft=0), LAST_TCP)),
    row("six headers", behind(HOP(), *[OPTIONS()] * 5, LAST_TCP)),
    row("an atomic fragment", behind(IPv6ExtHdrFragment(m=0), LAST_TCP)),
    row("a first fragment", behind(IPv6ExtHdrFragment(m=1, id=5), LAST_TCP, Raw(bytes(4)))),
    row("a later fragment", behind(IPv6ExtHdrFragment(offset=2, nh=6, id=5), Raw(bytes(8)))),
    row("a later fragment of no data", behind(IPv6ExtHdrFragment(offset=2, nh=6))),
    row("a later fragment of anything", behind(IPv6ExtHdrFragment(offset=1, nh=99), Raw(b"x"))),
    row(
        "a later fragment of headers",
        behind(IPv6ExtHdrFragment(offset=1, nh=60, m=1), Raw(bytes(8))),
    ),
]


@pytest.mark.parametrize("packet", PASSES)
def test_same_host(rig: Rig, packet: Packet) -> None:
    want = Outcome(Tc.REDIRECT, p6.delivered(packet, 2), counts={Count.SIXPN_LOCAL: 1})
    assert rig.vm(1, packet) == want
    assert rig.vm(1, packet) == want, "the second one as the first"
    back = with_(with_(packet, IPv6, src=p6.address(2), dst=p6.address(1)), Ether, src=p.vm_mac(2))
    assert rig.vm(2, back) == Outcome(
        Tc.REDIRECT, p6.delivered(back, 1), counts={Count.SIXPN_LOCAL: 1}
    )
    assert rig.flows() == []


@pytest.mark.parametrize("packet", PASSES)
def test_to_another_host(rig: Rig, packet: Packet) -> None:
    far = with_(packet, IPv6, dst=p6.remote(9))
    want = p6.in_mesh_form(far)
    counts = {Count.SIXPN_OUT: 1}
    if TCP in far and far[TCP].flags == "S" and far[TCP].options:
        want = p6.in_mesh_form(p6.rebuilt(with_(far, TCP, options=[("MSS", MTU - 60)])))
        counts[Count.MSS] = 1
    for _ in range(2):
        assert rig.vm(1, far) == Outcome(Tc.REDIRECT, want, counts=counts)


@pytest.mark.parametrize("packet", PASSES)
def test_to_a_users_peer(rig: Rig, packet: Packet) -> None:
    far = with_(packet, IPv6, dst=p6.peer())
    frame = bytearray(bytes(far))
    frame[21] -= 1
    rig.settings.peers = rig.ifindex["lan0"]
    rig.write_settings()
    assert rig.vm(1, far) == Outcome(Tc.REDIRECT, bytes(frame), counts={Count.PEER_OUT: 1})


@pytest.mark.parametrize("packet", PASSES)
def test_not_to_another_network(rig: Rig, packet: Packet) -> None:
    """Whatever reaches its own network reaches no other, from either side."""
    foreign = with_(packet, IPv6, dst=p6.address(4))
    assert rig.vm(1, foreign) == shot(foreign, R.SIXPN_NETWORK)
    foreign = with_(packet, IPv6, dst=p6.remote(9, network=p6.OTHER_NETWORK))
    assert rig.vm(1, foreign) == shot(foreign, R.SIXPN_NETWORK)
    foreign = with_(packet, IPv6, dst=p6.peer(network=p6.OTHER_NETWORK))
    assert rig.vm(1, foreign) == shot(foreign, R.SIXPN_NETWORK)
    spoofed = with_(packet, IPv6, src=p6.address(3))
    assert rig.vm(1, spoofed) == shot(spoofed, R.SPOOFED_IP)
    other = with_(packet, Ether, src=p.vm_mac(3))
    assert rig.vm(1, other) == shot(other, R.SPOOFED_MAC)


@pytest.mark.parametrize("packet", PASSES)
def test_not_to_what_is_on_the_link(rig: Rig, packet: Packet) -> None:
    for dst, reason in (
        ("fe80::2", R.LINK_LOCAL),
        (p6.link_local(2), R.LINK_LOCAL),
        ("febf::1", R.LINK_LOCAL),
        ("ff02::1", R.VM_MULTICAST),
        ("ff02::1:2", R.VM_MULTICAST),
        ("ff0e::1", R.VM_MULTICAST),
    ):
        away = with_(packet, IPv6, dst=dst)
        assert rig.vm(1, away) == shot(away, reason), dst


NEXT = 0xFFFFFFFF
OWN = p6.tcp(1)
FORM = p6.sixpn

DROPPED = [
    row("to the gateway itself", with_(OWN, IPv6, dst=p6.GATEWAY), R.LINK_LOCAL),
    row("to the name server", with_(OWN, IPv6, dst=p6.NAMESERVER), R.VM_TO_HOST),
    row("to what is beside the name server", with_(OWN, IPv6, dst="fdaa::4"), R.SIXPN_ADDRESS),
    row("to network 0", with_(OWN, IPv6, dst=FORM(0, p6.HOST, 9)), R.SIXPN_ADDRESS),
    row("to the peers' name server", with_(OWN, IPv6, dst=FORM(p6.NETWORK, 0, 0, 3)),
        R.SIXPN_ADDRESS),
    row("to a Flycast address", with_(OWN, IPv6, dst=p6.flycast()), R.NEEDS_PROXY),
    row("to another network's Flycast address",
        with_(OWN, IPv6, dst=p6.flycast(p6.OTHER_NETWORK)), R.SIXPN_NETWORK),
    row("to a host field without the top bit", with_(OWN, IPv6, dst=FORM(p6.NETWORK, 2, 1)),
        R.SIXPN_ADDRESS),
    row("to machine 0", with_(OWN, IPv6, dst=FORM(p6.NETWORK, p6.HOST, 0)), R.SIXPN_ADDRESS),
    row("to machine 0 of another host", with_(OWN, IPv6, dst=FORM(p6.NETWORK, p6.OTHER_HOST, 0)),
        R.SIXPN_ADDRESS),
    row("to a machine that is not there", with_(OWN, IPv6, dst=FORM(p6.NETWORK, p6.HOST, 99)),
        R.SIXPN_MACHINE),
    row("to the machine of another network under its own network",
        with_(OWN, IPv6, dst=FORM(p6.NETWORK, p6.HOST, p6.machine_of(4))), R.SIXPN_MACHINE),
    row("to the last machine", with_(OWN, IPv6, dst=FORM(p6.NETWORK, p6.HOST, NEXT)),
        R.SIXPN_MACHINE),
    row("to a peer, and there are none", with_(OWN, IPv6, dst=p6.peer()), R.SIXPN_MACHINE),
    row("to a host that is not in the mesh", with_(OWN, IPv6, dst=p6.remote(9, p6.NO_HOST)),
        R.SIXPN_HOST),
    row("in mesh form", p6.in_mesh_form(OWN), R.SPOOFED_IP),
    row("to an address in mesh form",
        with_(OWN, IPv6, dst=FORM(p6.HOST, p6.NETWORK, p6.machine_of(2))), R.SIXPN_ADDRESS),
    row("to a host's own address", with_(OWN, IPv6, dst=FORM(p6.OTHER_HOST, 0, 0, 1)),
        R.SIXPN_ADDRESS),
    row("to its own host's address", with_(OWN, IPv6, dst=FORM(p6.HOST, 0, 0, 1)),
        R.SIXPN_ADDRESS),
    row("to another network", with_(OWN, IPv6, dst=p6.address(4)), R.SIXPN_NETWORK),
    row("to a network that differs in its first bit",
        with_(OWN, IPv6, dst=FORM(p6.NETWORK | 1 << 30, p6.HOST, p6.machine_of(2))),
        R.SIXPN_NETWORK),
    row("to a public address", with_(OWN, IPv6, dst="2001:db8::1"), R.IPV6),
    row("to the prefix before", with_(OWN, IPv6, dst="fda9::1"), R.IPV6),
    row("to the prefix behind", with_(OWN, IPv6, dst="fdab::1"), R.IPV6),
    row("to nobody", with_(OWN, IPv6, dst="::"), R.IPV6),
    row("to itself (loopback)", with_(OWN, IPv6, dst="::1"), R.IPV6),
    row("to a mapped IPv4 address", with_(OWN, IPv6, dst="::ffff:203.0.113.10"), R.IPV6),
    row("to site-local addresses of old", with_(OWN, IPv6, dst="fec0::1"), R.IPV6),
    row("as another machine", with_(OWN, IPv6, src=p6.address(2)), R.SPOOFED_IP),
    row("as a machine of another host", with_(OWN, IPv6, src=p6.remote(1)), R.SPOOFED_IP),
    row("as itself in another network",
        with_(OWN, IPv6, src=FORM(p6.OTHER_NETWORK, p6.HOST, p6.machine_of(1))), R.SPOOFED_IP),
    row("as the /112 behind its own",
        with_(OWN, IPv6, src=FORM(p6.NETWORK, p6.HOST, p6.machine_of(1) + 1, 0)), R.SPOOFED_IP),
    row("as the /112 before its own",
        with_(OWN, IPv6, src=FORM(p6.NETWORK, p6.HOST, p6.machine_of(1) - 1, 0xFFFF)),
        R.SPOOFED_IP),
    row("as a Flycast address", with_(OWN, IPv6, src=p6.flycast()), R.SPOOFED_IP),
    row("as the name server", with_(OWN, IPv6, src=p6.NAMESERVER), R.SPOOFED_IP),
    row("as its gateway", with_(OWN, IPv6, src=p6.GATEWAY), R.SPOOFED_IP),
    row("as a public address", with_(OWN, IPv6, src="2001:db8::1"), R.SPOOFED_IP),
    row("as loopback", with_(OWN, IPv6, src="::1"), R.SPOOFED_IP),
    row("as a group", with_(OWN, IPv6, src="ff02::1"), R.SPOOFED_IP),
    row("from its link-local address", with_(OWN, IPv6, src=p6.link_local(1)), R.SPOOFED_IP),
    row("from link-local beyond fe80::/64", with_(OWN, IPv6, src="fe80:0:0:1::2"), R.SPOOFED_IP),
    row("from nobody", with_(OWN, IPv6, src="::"), R.SPOOFED_IP),
    row("with another's MAC", with_(OWN, Ether, src=p.vm_mac(2)), R.SPOOFED_MAC),
    row("with its gateway's MAC", with_(OWN, Ether, src=p.gateway_mac(1)), R.SPOOFED_MAC),
    row("to a group's MAC", with_(OWN, Ether, dst="33:33:00:00:00:01"), R.VM_MULTICAST),
    row("to the broadcast MAC", with_(OWN, Ether, dst="ff:ff:ff:ff:ff:ff"), R.VM_MULTICAST),
    row("with a VLAN tag", Ether(src=p.vm_mac(1), dst=p.gateway_mac(1)) / Dot1Q(vlan=1) / OWN[IPv6],
        R.ETHERTYPE),
    row("version 4", with_(OWN, IPv6, version=4), R.IPV6_HEADER),
    row("version 7", with_(OWN, IPv6, version=7), R.IPV6_HEADER),
    row("version 14", with_(OWN, IPv6, version=14), R.IPV6_HEADER),
    row("a length beyond the frame", with_(OWN, IPv6, plen=21), R.TRUNCATED),
    row("a length of 65,535", with_(OWN, IPv6, plen=65535), R.TRUNCATED),
    row("the last hop", with_(OWN, IPv6, hlim=1), R.TTL),
    row("no hop left", with_(OWN, IPv6, hlim=0), R.TTL),
    row("TCP of 19 bytes", with_(OWN, IPv6, plen=19), R.BAD_L4_HEADER),
    row("UDP of 7 bytes", with_(p6.udp(1), IPv6, plen=7), R.BAD_L4_HEADER),
    row("ICMPv6 of 7 bytes", with_(p6.ping(1), IPv6, plen=7), R.BAD_L4_HEADER),
    row("nothing where TCP should be", with_(OWN, IPv6, plen=0), R.BAD_L4_HEADER),
    row("a DHCPv6 server's answer", p6.udp(1, sport=547, dport=546), R.ND_TYPE),
    row("the same behind options", behind(OPTIONS(), UDP(sport=547, dport=546)), R.ND_TYPE),
    row("the same as a first fragment",
        behind(IPv6ExtHdrFragment(m=1), UDP(sport=547, dport=546), Raw(bytes(8))), R.ND_TYPE),
    row("a router advertisement", behind(ICMPv6ND_RA(), hlim=255), R.ND_TYPE),
    row("a router advertisement behind options", behind(OPTIONS(), ICMPv6ND_RA(), hlim=255),
        R.ND_TYPE),
    row("a router advertisement in a fragment",
        behind(IPv6ExtHdrFragment(m=1), ICMPv6ND_RA(), hlim=255), R.ND_TYPE),
    row("a redirect", behind(ICMPv6ND_Redirect(), hlim=255), R.ND_TYPE),
    row("a solicitation behind options", behind(HOP(), ICMPv6ND_NS(), hlim=255), R.ND_TYPE),
    row("an advertisement behind options", behind(HOP(), ICMPv6ND_NA(), hlim=255), R.ND_TYPE),
    row("a report of groups, to a machine", behind(HOP(), ICMPv6MLReport2()), R.ND_TYPE),
    row("an extended echo", behind(Raw(bytes((160, 0)) + bytes(8)), nh=58), R.ND_TYPE),
    row("a tunnel", behind(IPv6(), LAST_TCP), R.PROTO),
    row("IPv4 in it", behind(Raw(bytes(p.SYN[p.IP])), nh=4), R.PROTO),
    row("GRE", behind(Raw(bytes(8)), nh=47), R.PROTO),
    row("ESP", behind(Raw(bytes(16)), nh=50), R.PROTO),
    row("an authentication header", behind(AH(), LAST_TCP), R.PROTO),
    row("no next header", behind(Raw(bytes(8)), nh=59), R.PROTO),
    row("SCTP", behind(Raw(bytes(16)), nh=132), R.PROTO),
    row("a tunnel behind options", behind(OPTIONS(), IPv6(), LAST_TCP), R.PROTO),
    row("seven headers", behind(HOP(), *[OPTIONS()] * 6, LAST_TCP), R.IPV6_HEADER),
    row("hop-by-hop options that are not first", behind(OPTIONS(), HOP(), LAST_TCP),
        R.IPV6_HEADER),
    row("hop-by-hop options twice", behind(HOP(), HOP(), LAST_TCP), R.IPV6_HEADER),
    row("a route still to go", behind(IPv6ExtHdrRouting(segleft=1, addresses=["::"]), LAST_TCP),
        R.IPV6_HEADER),
    row("a fragment in a fragment",
        behind(IPv6ExtHdrFragment(), IPv6ExtHdrFragment(), LAST_TCP), R.IPV6_HEADER),
    row("options longer than the packet", behind(OPTIONS(len=2), LAST_TCP), R.BAD_L4_HEADER),
    row("options of 2 kB", behind(OPTIONS(len=255), LAST_TCP), R.IPV6_HEADER),
    row("options beyond the packet, in padding",
        with_(behind(OPTIONS(nh=6), Raw(bytes(60))), IPv6, plen=4), R.IPV6_HEADER),
    row("options that are cut off", behind(Raw(bytes(6)), nh=60), R.IPV6_HEADER),
    row("options, and nothing", behind(nh=60), R.IPV6_HEADER),
    row("a fragment header that is cut off", behind(Raw(bytes(7)), nh=44), R.IPV6_HEADER),
    row("a first fragment of 8 bytes of TCP",
        behind(IPv6ExtHdrFragment(m=1, nh=6), Raw(bytes(8))), R.FRAG_TINY),
    row("a first fragment of no data", behind(IPv6ExtHdrFragment(m=1, nh=17)), R.FRAG_TINY),
    row("an atomic fragment of 7 bytes",
        behind(IPv6ExtHdrFragment(m=0, nh=58), Raw(bytes(7))), R.FRAG_TINY),
]  # fmt: skip


@pytest.mark.parametrize(("packet", "reason"), DROPPED)
def test_dropped(rig: Rig, packet: Packet, reason: DropReason) -> None:
    for _ in range(2):
        assert rig.vm(1, packet) == shot(packet, reason)


def test_every_length(rig: Rig) -> None:
    """A packet cut anywhere goes nowhere."""
    for packet in (p6.tcp(1), p6.udp(1), p6.ping(1), behind(HOP(), LAST_TCP)):
        frame = bytes(packet)
        for length in range(54, len(frame)):
            assert rig.vm(1, frame[:length]) == shot(frame[:length], R.TRUNCATED), length


def test_every_bit_of_the_source(rig: Rig) -> None:
    """Of the first 112 none may differ; the last 16 are the machine's."""
    for bit in range(128):
        frame = bytearray(bytes(OWN))
        frame[22 + bit // 8] ^= 0x80 >> bit % 8
        got = rig.vm(1, bytes(frame))
        if bit < 112:
            assert got == shot(bytes(frame), R.SPOOFED_IP), bit
        else:
            assert got.verdict == Tc.REDIRECT, bit


def test_every_bit_of_the_destination(rig: Rig) -> None:
    """Every bit says something, but the last 16."""
    for bit in range(128):
        frame = bytearray(bytes(OWN))
        frame[38 + bit // 8] ^= 0x80 >> bit % 8
        got = rig.vm(1, bytes(frame))
        assert (got.verdict == Tc.REDIRECT) == (bit >= 111), bit
        if bit == 111:
            assert got.packet[:6] == mac_bytes(p.vm_mac(3)), "the next machine"


def test_to_itself(rig: Rig) -> None:
    packet = p6.tcp(1, dst=p6.address(1, 9))
    assert rig.vm(1, packet).packet == p6.delivered(packet, 1)


def test_a_machine_of_another_network(rig: Rig) -> None:
    """Machine 4 is alone on its network."""
    for dst in (p6.address(1), p6.address(2), p6.remote(9), p6.peer(), p6.flycast()):
        packet = p6.tcp(4, dst=dst)
        assert rig.vm(4, packet) == shot(packet, R.SIXPN_NETWORK)
    assert rig.vm(4, p6.tcp(4, dst=p6.address(4))).verdict == Tc.REDIRECT


def test_a_machine_that_is_stopped(rig: Rig) -> None:
    rig.slot(2, flags=0)
    assert rig.vm(1, OWN) == shot(OWN, R.SIXPN_MACHINE)


def test_a_slot_that_is_somebody_elses_now(rig: Rig) -> None:
    """An entry of sixpn that is out of date leads nowhere."""
    rig.sixpn(p6.NETWORK, p6.machine_of(2), 4)
    assert rig.vm(1, OWN) == shot(OWN, R.SIXPN_MACHINE)
    rig.sixpn(p6.NETWORK, p6.machine_of(2), 3)
    assert rig.vm(1, OWN) == shot(OWN, R.SIXPN_MACHINE)
    rig.sixpn(p6.NETWORK, p6.machine_of(2), 9999)
    assert rig.vm(1, OWN) == shot(OWN, R.SIXPN_MACHINE)
    rig.slot(2, flags=SLOT_LIVE | SLOT_REMOTE)
    assert rig.vm(1, OWN) == shot(OWN, R.SIXPN_MACHINE)


def test_a_machine_without_a_network(rig: Rig) -> None:
    """No source is that of a slot whose fields are all zero."""
    rig.change_slot(1, network=0, host=0, machine=0)
    for src in (p6.address(1), "fdaa::2", "fdaa::", "::1"):
        packet = p6.tcp(1, src=src)
        assert rig.vm(1, packet) == shot(packet, R.SPOOFED_IP), src
