# SPDX-License-Identifier: Apache-2.0
"""vm_out: nothing is delivered to a machine but what is for it."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from flyebpf.model.reasons import DropReason
from tests import packets as p
from tests import packets6 as p6
from tests.bpf.expect import row, shot
from tests.bpf.rig import Outcome, Rig, Tc

R = DropReason
TO_ONE = Ether(src=p.gateway_mac(1), dst=p.vm_mac(1))


def v4(dst: str, **ip: object) -> Packet:
    return TO_ONE / IP(src=p.CLIENT, dst=dst, **ip) / TCP(dport=8080)


def v6(src: str, dst: str = "", body: Packet | None = None) -> Packet:
    return TO_ONE / IPv6(src=src, dst=dst or p6.address(1)) / (body or UDP(dport=9) / b"hello")


def out(rig: Rig, packet: Packet | bytes, device: str = "vm1") -> Outcome:
    return rig.tc(packet, device, program="vm_out")


PASSED = [
    row("IPv4 to its private address", v4(p.private_ip(1))),
    row("IPv4 to fly-global-services", v4(p.services_ip(1))),
    row("a later fragment", v4(p.private_ip(1), frag=9)),
    row("IPv4 with options", v4(p.private_ip(1), options=[b"\x94\x04\0\0"])),
    row("IPv4 with few hops left", v4(p.private_ip(1), ttl=1)),
    row("ARP", TO_ONE / ARP(psrc="172.16.0.1", pdst=p.private_ip(1))),
    row("from a machine of its network", v6(p6.address(2))),
    row("from itself", v6(p6.address(1, 3))),
    row("to another of its addresses", v6(p6.address(2), p6.address(1, 0xFFFF))),
    row("from a machine of another host", v6(p6.remote(9))),
    row("from a user's peer", v6(p6.peer())),
    row("from a user's peer of another host", v6(p6.sixpn(p6.NETWORK, p6.OTHER_HOST, 10, 258))),
    row("from a Flycast address of its network", v6(p6.flycast())),
    row("from the name server", v6(p6.NAMESERVER)),
    row("from its gateway", v6(p6.GATEWAY, body=ICMPv6PacketTooBig(mtu=1280) / Raw(bytes(48)))),
    row("from a public address", v6("2001:db8::1")),
    row("with extension headers", v6(p6.address(2), body=IPv6ExtHdrDestOpt() / UDP())),
    row("the gateway's answer", v6(p6.GATEWAY, body=ICMPv6ND_NA(tgt=p6.GATEWAY))),
    row("the gateway's answer to its link-local address",
        v6(p6.GATEWAY, p6.link_local(1), ICMPv6ND_NA(tgt=p6.GATEWAY))),
    row("the gateway's pong to its link-local address",
        v6(p6.GATEWAY, p6.link_local(1), ICMPv6EchoReply())),
    row("the host asks", v6("fe80::77", p6.group_of(p6.address(1)),
                            ICMPv6ND_NS(tgt=p6.address(1)))),
    row("the host asks again", v6("fe80::77", p6.address(1), ICMPv6ND_NS(tgt=p6.address(1)))),
    row("the host says where it is", v6("fe80::77", "ff02::1", ICMPv6ND_NA(tgt="fe80::77"))),
]  # fmt: skip


@pytest.mark.parametrize("packet", PASSED)
def test_passed(rig: Rig, packet: Packet) -> None:
    for _ in range(2):
        assert out(rig, packet) == Outcome(Tc.UNSPEC, bytes(packet))


@pytest.mark.parametrize("packet", PASSED)
def test_not_to_another_machine(rig: Rig, packet: Packet) -> None:
    """All of it is for nobody else, but what has no addressee."""
    everybodys = ARP in packet or (IPv6 in packet and packet[IPv6].dst.startswith(("ff", "fe")))
    want = Outcome(Tc.UNSPEC, bytes(packet)) if everybodys else shot(packet, R.NOT_FOR_VM)
    assert out(rig, packet, "vm2") == want
    assert out(rig, packet, "vm4") == want
    assert out(rig, packet, "lan0") == shot(packet, R.NOT_FOR_VM), "an interface of no machine"


DROPPED = [
    row("IPv4 to another machine", v4(p.private_ip(2))),
    row("IPv4 to its alias", v4(p.alias_ip(1))),
    row("IPv4 to a VIP", v4(p.VIP)),
    row("IPv4 to everybody", v4("255.255.255.255")),
    row("IPv4 to a group", v4("224.0.0.1")),
    row("IPv4 to nobody", v4("0.0.0.0")),
    row("IPv4 in a VLAN",
        Ether(src=p.gateway_mac(1), dst=p.vm_mac(1)) / Dot1Q(vlan=3) / v4(p.private_ip(1))[IP]),
    row("LLDP", Ether(src=p.gateway_mac(1), dst="01:80:c2:00:00:0e", type=0x88CC) / Raw(bytes(46))),
    row("to another machine of its network", v6(p6.address(3), p6.address(2))),
    row("to the /112 behind its own",
        v6(p6.address(2), p6.sixpn(p6.NETWORK, p6.HOST, p6.machine_of(1) + 1))),
    row("to it on another host", v6(p6.address(2), p6.remote(p6.machine_of(1)))),
    row("to it in mesh form",
        v6(p6.address(2), p6.sixpn(p6.HOST, p6.NETWORK, p6.machine_of(1)))),
    row("to its link-local address", v6(p6.address(2), p6.link_local(1))),
    row("to a group", v6(p6.address(2), "ff02::1")),
    row("to a public address", v6(p6.address(2), "2001:db8::1")),
    row("from another network", v6(p6.address(4))),
    row("from another network on another host", v6(p6.remote(9, network=p6.OTHER_NETWORK))),
    row("from another network's peer", v6(p6.peer(network=p6.OTHER_NETWORK))),
    row("from another network's Flycast address", v6(p6.flycast(p6.OTHER_NETWORK))),
    row("from its network in mesh form", v6(p6.sixpn(p6.OTHER_HOST, p6.NETWORK, 9))),
    row("from a host", v6(p6.sixpn(p6.OTHER_HOST, 0, 0, 1))),
    row("from its own host", v6(p6.sixpn(p6.HOST, 0, 0, 1))),
    row("from machine 0", v6(p6.sixpn(p6.NETWORK, p6.HOST, 0))),
    row("from a host field without the top bit", v6(p6.sixpn(p6.NETWORK, 2, 9))),
    row("from what is beside the name server", v6("fdaa::4")),
    row("from nobody", v6("::")),
    row("from loopback", v6("::1")),
    row("from a mapped IPv4 address", v6("::ffff:192.0.2.10")),
    row("from a group", v6("ff02::1")),
    row("from another link-local address", v6("fe80::77")),
    row("from another machine's gateway's neighbour", v6("fe80:0:0:1::1")),
    row("a ping of the host's own", v6("fe80::77", p6.link_local(1), ICMPv6EchoRequest())),
    row("a router", v6("fe80::77", "ff02::1", ICMPv6ND_RA())),
    row("a redirect", v6("fe80::77", p6.address(1), ICMPv6ND_Redirect())),
    row("reports of groups", v6("fe80::77", "ff02::16", ICMPv6MLReport2())),
    row("a datagram to its link-local address", v6(p6.GATEWAY, p6.link_local(1))),
    row("neighbours, from a machine", v6(p6.address(2), "ff02::1", ICMPv6ND_NA())),
]  # fmt: skip


@pytest.mark.parametrize("packet", DROPPED)
def test_dropped(rig: Rig, packet: Packet) -> None:
    for _ in range(2):
        assert out(rig, packet) == shot(packet, R.NOT_FOR_VM)


def test_every_length(rig: Rig) -> None:
    """What is cut off is for nobody. (A test run's kernel wants whole IP headers.)"""
    whole = bytes(v6(p6.address(2)))
    for length in range(54, len(whole)):
        assert out(rig, whole[:length]).verdict == Tc.UNSPEC, "the header says enough"


def test_every_bit_of_the_destination(rig: Rig) -> None:
    for bit in range(128):
        frame = bytearray(bytes(v6(p6.address(2))))
        frame[38 + bit // 8] ^= 0x80 >> bit % 8
        assert (out(rig, bytes(frame)).verdict == Tc.UNSPEC) == (bit >= 112), bit
    for bit in range(32):
        frame = bytearray(bytes(v4(p.private_ip(1))))
        frame[30 + bit // 8] ^= 0x80 >> bit % 8
        assert (out(rig, bytes(frame)).verdict == Tc.UNSPEC) == (bit == 31), "its second address"


def test_every_bit_of_the_network(rig: Rig) -> None:
    for bit in range(16, 48):
        frame = bytearray(bytes(v6(p6.address(2))))
        frame[22 + bit // 8] ^= 0x80 >> bit % 8
        assert out(rig, bytes(frame)) == shot(bytes(frame), R.NOT_FOR_VM), bit


def test_what_vm_tc_sends_is_delivered(rig: Rig) -> None:
    """Both checks agree on what machines of one host say to each other, and on
    what their gateway answers."""
    for packet, device in (
        (p6.tcp(1), "vm2"),
        (p6.udp(1, dst=p6.address(3, 9)), "vm3"),
        (p6.ping(1, dst=p6.GATEWAY), "vm1"),
        (p6.ping(1, dst=p6.GATEWAY, src=p6.link_local(1)), "vm1"),
        (p6.solicit(1, p6.GATEWAY), "vm1"),
        (p6.solicit(1, p6.address(4), src=p6.link_local(1)), "vm1"),
        (p6.udp(1, bytes(1400), dst=p6.remote(9)), "vm1"),
        (p.vm_arp(1, p.VIP), "vm1"),
        (p.vm_tcp(4, 50000, "S", dst=p.VIP, dport=80), "vm1"),
    ):
        number = 4 if p.vm_mac(4) == packet.src else 1
        sent = rig.vm(number, packet)
        assert sent.verdict == Tc.REDIRECT
        assert out(rig, sent.packet, device).verdict == Tc.UNSPEC, packet.summary()


def test_a_machine_without_a_network(rig: Rig) -> None:
    rig.change_slot(1, network=0, host=0, machine=0)
    for dst in (p6.address(1), "fdaa::2", "fdaa::", "::"):
        packet = v6("2001:db8::1", dst)
        assert out(rig, packet) == shot(packet, R.NOT_FOR_VM)


def test_a_slot_without_addresses(rig: Rig) -> None:
    rig.change_slot(1, private_ip=0, services_ip=0)
    assert out(rig, v4("0.0.0.0")) == shot(v4("0.0.0.0"), R.NOT_FOR_VM)


def test_an_interface_that_its_slot_does_not_know(rig: Rig) -> None:
    rig.vm_slot(rig.ifindex["lan0"], 1)
    packet = v4(p.private_ip(1))
    assert out(rig, packet, "lan0") == shot(packet, R.NOT_FOR_VM)
