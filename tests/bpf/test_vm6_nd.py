# SPDX-License-Identifier: Apache-2.0
"""vm_tc: what a machine says on its own link. Neighbours, routers, groups, and
the gateway's answers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6MLDone,
    ICMPv6MLQuery,
    ICMPv6MLReport,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    RouterAlert,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Padding, Raw

from flyebpf.model.reasons import Count, DropReason
from tests import packets as p
from tests import packets6 as p6
from tests.bpf.expect import row, shot
from tests.bpf.rig import Outcome, Rig, Tc
from tests.packets6 import with_

R = DropReason
NONCE = Raw(bytes((14, 1, 1, 2, 3, 4, 5, 6)))  # RFC 3971, 5.3.2
DAD = {"src": p6.NOBODY, "mac": None}
GATEWAY, OWN, OTHER = p6.GATEWAY, p6.address(1), p6.address(2)


def resummed(packet: Packet) -> Packet:
    return Ether(p6.rebuilt(packet))


ANSWERED = [
    row("its gateway", GATEWAY, {}),
    row("its gateway, from its link-local address", GATEWAY, {"src": p6.link_local(1)}),
    row("its gateway, from another of its addresses", GATEWAY, {"src": p6.address(1, 0x1234)}),
    row("its gateway, without its MAC", GATEWAY, {"mac": None}),
    row("its gateway, which it knows already", GATEWAY, {"dst": GATEWAY}),
    row("a machine of its network, as if on one link", OTHER, {}),
    row("one that it knows already", OTHER, {"dst": OTHER}),
    row("a machine of another network: it learns nothing", p6.address(4), {}),
    row("a machine that is not there", p6.sixpn(p6.NETWORK, p6.HOST, 99), {}),
    row("the name server", p6.NAMESERVER, {}),
    row("a public address", "2001:db8::1", {}),
]


@pytest.mark.parametrize(("target", "fields"), ANSWERED)
def test_answered(rig: Rig, target: str, fields: dict[str, str]) -> None:
    packet = p6.solicit(1, target, **fields)
    want = Outcome(
        Tc.REDIRECT,
        p6.gateway_advert(1, target, fields.get("src", OWN)),
        counts={Count.ND: 1},
    )
    assert rig.vm(1, packet) == want
    assert rig.vm(1, packet / NONCE if fields.get("mac", "") is None else packet) == want
    assert rig.vm(1, resummed(packet / NONCE)) == want
    assert rig.vm(1, packet / Padding(bytes(30))) == want


def test_the_answer_ends_with_the_frame(rig: Rig) -> None:
    """Nothing of the question is left behind it."""
    packet = resummed(p6.solicit(1, GATEWAY) / NONCE / NONCE) / Padding(b"\xee" * 9)
    assert rig.vm(1, packet).packet == p6.gateway_advert(1, GATEWAY)


HEARD = [
    row("whether somebody has its address", p6.solicit(1, OWN, **DAD)),
    row("the same with a nonce", resummed(p6.solicit(1, OWN, **DAD) / NONCE)),
    row("whether somebody has its link-local address", p6.solicit(1, p6.link_local(1), **DAD)),
    row("whether somebody has another's address", p6.solicit(1, OTHER, **DAD)),
    row("who has its own address", p6.solicit(1, OWN)),
    row("who has another of its own", p6.solicit(1, p6.address(1, 9))),
    row("that it is here", p6.advert(1, OWN)),
    row("that it is here, without its MAC", p6.advert(1, OWN, mac=None)),
    row("that its link-local address is here", p6.advert(1, p6.link_local(1))),
    row("that it is here, to its gateway", p6.advert(1, OWN, dst=GATEWAY)),
    row("where routers are", p6.router_solicit(1)),
    row("where routers are, without an address", p6.router_solicit(1, src="::", mac=None)),
    row("where routers are, from its own address", p6.router_solicit(1, src=OWN)),
    row("which groups it is in", p6.from_vm(1, src=p6.link_local(1), dst="ff02::16", hlim=1)
        / IPv6ExtHdrHopByHop(options=RouterAlert()) / ICMPv6MLReport2()),
    row("the same without an address", p6.from_vm(1, src="::", dst="ff02::16", hlim=1)
        / IPv6ExtHdrHopByHop(options=RouterAlert()) / ICMPv6MLReport2()),
    row("which group it is in", p6.from_vm(1, dst="ff02::fb", hlim=1) / ICMPv6MLReport()),
    row("which group it leaves", p6.from_vm(1, dst="ff02::2", hlim=1) / ICMPv6MLDone()),
]  # fmt: skip


@pytest.mark.parametrize("packet", HEARD)
def test_heard_and_not_answered(rig: Rig, packet: Packet) -> None:
    for _ in range(2):
        assert rig.vm(1, packet) == Outcome(Tc.SHOT, bytes(packet), counts={Count.ND: 1})


NS = p6.solicit(1, GATEWAY)
MLD = p6.from_vm(1, dst="ff02::16", hlim=1)


def nd(body: Packet, **ip: object) -> Packet:
    return p6.from_vm(1, **{"dst": "ff02::1", "hlim": 255, **ip}) / body


def cut(packet: Packet, **fields: int) -> Packet:
    """The upper layer's bytes as they are, the IPv6 header with other fields."""
    return with_(Ether(bytes(packet)), IPv6, **fields)


DROPPED = [
    row("from another's address", p6.solicit(1, GATEWAY, src=OTHER), R.SPOOFED_IP),
    row("from its gateway's address", p6.solicit(1, OTHER, src=GATEWAY), R.SPOOFED_IP),
    row("with another's MAC in the frame", with_(NS, Ether, src=p.vm_mac(2)), R.SPOOFED_MAC),
    row("with another's MAC in it", p6.solicit(1, GATEWAY, mac=p.vm_mac(2)), R.SPOOFED_ND),
    row("with its gateway's MAC in it", p6.solicit(1, GATEWAY, mac=p.gateway_mac(1)),
        R.SPOOFED_ND),
    row("another's MAC in the second option",
        resummed(NS / ICMPv6NDOptSrcLLAddr(lladdr=p.vm_mac(2))), R.SPOOFED_ND),
    row("another's MAC behind a nonce",
        resummed(p6.solicit(1, GATEWAY, mac=None) / NONCE
                 / ICMPv6NDOptSrcLLAddr(lladdr=p.vm_mac(2))), R.SPOOFED_ND),
    row("a MAC of 14 bytes",
        resummed(p6.solicit(1, GATEWAY, mac=None)
                 / Raw(bytes((1, 2)) + bytes.fromhex("02fe00000001") + bytes(8))), R.SPOOFED_ND),
    row("to another group", p6.solicit(1, GATEWAY, dst=p6.group_of(OTHER)), R.SPOOFED_ND),
    row("to all nodes", p6.solicit(1, GATEWAY, dst="ff02::1"), R.SPOOFED_ND),
    row("to another machine", p6.solicit(1, GATEWAY, dst=OTHER), R.SPOOFED_ND),
    row("about another machine, to its gateway", p6.solicit(1, OTHER, dst=GATEWAY), R.SPOOFED_ND),
    row("whether its gateway has its address", p6.solicit(1, OWN, dst=OWN, **DAD), R.SPOOFED_ND),
    row("about another's link-local address", p6.solicit(1, p6.link_local(2)), R.LINK_LOCAL),
    row("about its own link-local address", p6.solicit(1, p6.link_local(1)), R.LINK_LOCAL),
    row("about a link-local address beyond fe80::/64", p6.solicit(1, "fe80:0:0:1::1"),
        R.LINK_LOCAL),
    row("about a group", p6.solicit(1, "ff02::1", dst=p6.group_of("ff02::1")), R.BAD_L4_HEADER),
    row("about nobody", p6.solicit(1, "::", dst=p6.group_of("::")), R.BAD_L4_HEADER),
    row("from further away", p6.solicit(1, GATEWAY, hlim=254), R.BAD_L4_HEADER),
    row("with a code", resummed(with_(NS, ICMPv6ND_NS, code=1)), R.BAD_L4_HEADER),
    row("with a wrong checksum", with_(NS, ICMPv6ND_NS, cksum=1), R.BAD_L4_HEADER),
    row("with no checksum", with_(NS, ICMPv6ND_NS, cksum=0), R.BAD_L4_HEADER),
    row("an option of no length",
        resummed(p6.solicit(1, GATEWAY, mac=None) / Raw(bytes((14, 0)) + bytes(6))),
        R.BAD_L4_HEADER),
    row("an option longer than the message",
        resummed(p6.solicit(1, GATEWAY, mac=None) / Raw(bytes((14, 2)) + bytes(6))),
        R.BAD_L4_HEADER),
    row("too many options", resummed(NS / NONCE / NONCE / NONCE), R.BAD_L4_HEADER),
    row("an option cut off", cut(NS, plen=31), R.BAD_L4_HEADER),
    row("a target cut off", cut(NS, plen=16), R.BAD_L4_HEADER),
    row("nothing but its type", cut(NS, plen=4), R.BAD_L4_HEADER),
    row("behind options", nd(IPv6ExtHdrDestOpt() / ICMPv6ND_NS(tgt=GATEWAY),
                             dst=p6.group_of(GATEWAY)), R.ND_TYPE),
    row("in a fragment", nd(IPv6ExtHdrFragment(m=0) / ICMPv6ND_NS(tgt=GATEWAY),
                            dst=p6.group_of(GATEWAY)), R.ND_TYPE),
    row("that it has another's address", p6.advert(1, OTHER), R.SPOOFED_ND),
    row("that it has its gateway's address", p6.advert(1, GATEWAY), R.SPOOFED_ND),
    row("that it has a public address", p6.advert(1, "2001:db8::1"), R.SPOOFED_ND),
    row("that it has the name server's", p6.advert(1, p6.NAMESERVER), R.SPOOFED_ND),
    row("that it is at another's MAC", p6.advert(1, OWN, mac=p.vm_mac(2)), R.SPOOFED_ND),
    row("that another is here, to that one", p6.advert(1, OTHER, dst=OTHER, src=OWN),
        R.SPOOFED_ND),
    row("an advertisement behind options", nd(IPv6ExtHdrHopByHop() / ICMPv6ND_NA(tgt=OWN)),
        R.ND_TYPE),
    row("a router solicitation with another's MAC", p6.router_solicit(1, mac=p.vm_mac(2)),
        R.SPOOFED_ND),
    row("a router solicitation from further away", p6.router_solicit(1, hlim=64),
        R.BAD_L4_HEADER),
    row("a router solicitation behind options", nd(IPv6ExtHdrHopByHop() / ICMPv6ND_RS()),
        R.ND_TYPE),
    row("that it is a router", nd(ICMPv6ND_RA() / ICMPv6NDOptPrefixInfo(prefix="fdaa::")),
        R.ND_TYPE),
    row("the same from its link-local address", nd(ICMPv6ND_RA(), src=p6.link_local(1)),
        R.ND_TYPE),
    row("the same to a machine", nd(ICMPv6ND_RA(), dst=OTHER), R.ND_TYPE),
    row("the same in a fragment", nd(IPv6ExtHdrFragment(m=1) / ICMPv6ND_RA()), R.ND_TYPE),
    row("the same in an atomic fragment", nd(IPv6ExtHdrFragment(m=0) / ICMPv6ND_RA()), R.ND_TYPE),
    row("the same behind options", nd(IPv6ExtHdrDestOpt() / ICMPv6ND_RA()), R.ND_TYPE),
    row("the same in a later fragment", nd(IPv6ExtHdrFragment(offset=1, nh=58) / Raw(bytes(16))),
        R.VM_MULTICAST),
    row("another way", nd(ICMPv6ND_Redirect(tgt=OWN, dst="2001:db8::1")), R.ND_TYPE),
    row("another way, to a machine", nd(ICMPv6ND_Redirect(tgt=OWN), dst=OTHER), R.ND_TYPE),
    row("who listens to groups", MLD / ICMPv6MLQuery(), R.ND_TYPE),
    row("groups in a fragment", MLD / IPv6ExtHdrFragment(m=0) / ICMPv6MLReport2(),
        R.VM_MULTICAST),
    row("a ping to all nodes", nd(ICMPv6EchoRequest()), R.VM_MULTICAST),
    row("mDNS", p6.udp(1, dst="ff02::fb", dport=5353), R.VM_MULTICAST),
    row("a DHCPv6 request", p6.udp(1, src=p6.link_local(1), dst="ff02::1:2", sport=546, dport=547),
        R.VM_MULTICAST),
    row("a DHCPv6 answer to its gateway", p6.udp(1, dst=GATEWAY, sport=547, dport=546),
        R.LINK_LOCAL),
    row("a group from another's address", p6.udp(1, src=OTHER, dst="ff02::fb"), R.SPOOFED_IP),
    row("a group of everybody", p6.udp(1, dst="ff0e::101"), R.VM_MULTICAST),
]  # fmt: skip


@pytest.mark.parametrize(("packet", "reason"), DROPPED)
def test_dropped(rig: Rig, packet: Packet, reason: DropReason) -> None:
    for _ in range(2):
        assert rig.vm(1, packet) == shot(packet, reason)


def test_every_length(rig: Rig) -> None:
    """A message cut anywhere is no message, whatever its header then says."""
    whole = bytes(p6.solicit(1, GATEWAY))
    for length in range(54, len(whole)):
        frame = bytearray(whole[:length])
        assert rig.vm(1, bytes(frame)) == shot(bytes(frame), R.TRUNCATED)
        frame[18:20] = (length - 54).to_bytes(2, "big")
        assert rig.vm(1, bytes(frame)) == shot(bytes(frame), R.BAD_L4_HEADER)


@pytest.mark.parametrize("make", [p6.solicit, p6.advert])
def test_every_bit(rig: Rig, make: Callable[..., Packet]) -> None:
    """None may be wrong: the checksum sees to that, or a check before it. (Of
    the type it would only be another message of no consequence.)"""
    whole = bytes(make(1, OWN))
    for bit in range(55 * 8, len(whole) * 8):
        frame = bytearray(whole)
        frame[bit // 8] ^= 0x80 >> bit % 8
        got = rig.vm(1, bytes(frame))
        assert (got.verdict, bool(got.drops)) == (Tc.SHOT, True), bit


PONGS = [
    row("from its address", p6.ping(1, dst=GATEWAY)),
    row("from its link-local address", p6.ping(1, dst=GATEWAY, src=p6.link_local(1))),
    row("from another of its addresses", p6.ping(1, dst=GATEWAY, src=p6.address(1, 3))),
    row("with nothing in it", p6.ping(1, b"", dst=GATEWAY)),
    row("of an odd length", p6.ping(1, b"odd", dst=GATEWAY)),
    row("with the last hop", p6.ping(1, dst=GATEWAY, hlim=1)),
    row("of 1,400 bytes", p6.ping(1, bytes(1400), dst=GATEWAY)),
    row("of a class", p6.ping(1, dst=GATEWAY, tc=0xB8)),
]


@pytest.mark.parametrize("packet", PONGS)
def test_the_gateway_answers_a_ping(rig: Rig, packet: Packet) -> None:
    for _ in range(2):
        assert rig.vm(1, packet) == Outcome(
            Tc.REDIRECT, p6.gateway_pong(packet), counts={Count.ECHO: 1}
        )


PING = p6.ping(1, dst=GATEWAY)
NO_PONGS = [
    row("from nobody", with_(PING, IPv6, src="::"), R.SPOOFED_IP),
    row("from another", with_(PING, IPv6, src=OTHER), R.SPOOFED_IP),
    row("to a neighbour of the gateway", with_(PING, IPv6, dst="fe80::2"), R.LINK_LOCAL),
    row("to the gateway of another link", with_(PING, IPv6, dst="fe80:0:0:1::1"), R.LINK_LOCAL),
    row("with a code", resummed(with_(PING, ICMPv6EchoRequest, code=1)), R.LINK_LOCAL),
    row("an answer", p6.from_vm(1, dst=GATEWAY) / ICMPv6EchoReply(), R.LINK_LOCAL),
    row("behind options",
        p6.from_vm(1, dst=GATEWAY) / IPv6ExtHdrDestOpt() / ICMPv6EchoRequest(), R.LINK_LOCAL),
    row("in a fragment",
        p6.from_vm(1, dst=GATEWAY) / IPv6ExtHdrFragment(m=1) / ICMPv6EchoRequest(data=bytes(8)),
        R.LINK_LOCAL),
    row("in a later fragment",
        p6.from_vm(1, dst=GATEWAY) / IPv6ExtHdrFragment(offset=1, nh=58) / Raw(bytes(8)),
        R.LINK_LOCAL),
    row("a datagram", p6.from_vm(1, dst=GATEWAY) / UDP(), R.LINK_LOCAL),
    row("to a group's MAC", with_(PING, Ether, dst="33:33:00:00:00:01"), R.VM_MULTICAST),
]  # fmt: skip


@pytest.mark.parametrize(("packet", "reason"), NO_PONGS)
def test_the_gateway_is_nothing_more(rig: Rig, packet: Packet, reason: DropReason) -> None:
    assert rig.vm(1, packet) == shot(packet, reason)


def test_a_wrong_checksum_stays_wrong(rig: Rig) -> None:
    """The answer is right if the question was: nobody else sees it."""
    packet = with_(PING, ICMPv6EchoRequest, cksum=1)
    got = rig.vm(1, packet)
    assert got.verdict == Tc.REDIRECT
    assert got.packet[56:58] != p6.gateway_pong(packet)[56:58]
