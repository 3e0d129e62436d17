# SPDX-License-Identifier: Apache-2.0
"""mesh_tc: 6PN from other hosts, and what is none of the programs'."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import UDP as UDP6
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from flyebpf.model.reasons import Count, DropReason
from tests import packets as p
from tests import packets6 as p6
from tests.bpf.expect import row, shot
from tests.bpf.far import mesh
from tests.bpf.rig import Outcome, Rig, Tc

R = DropReason


def sixpn_here(packet: Packet) -> bytes:
    """As OTHER_HOST sends it, one hop less."""
    return p6.in_mesh_form(packet)


def to_machine(packet: Packet, number: int) -> bytes:
    frame = bytearray(p6.delivered(packet, number))
    return bytes(frame)


SIXPN = [
    row("TCP", p6.tcp(9, "S", src=p6.remote(9), dst=p6.address(2)), 2),
    row("UDP", p6.udp(9, src=p6.remote(9), dst=p6.address(1)), 1),
    row("a ping", p6.ping(9, src=p6.remote(9), dst=p6.address(3)), 3),
    row(
        "to another address of its /112", p6.udp(9, src=p6.remote(9), dst=p6.address(2, 0xFFFF)), 2
    ),
    row(
        "in the other network",
        p6.udp(9, src=p6.remote(9, network=p6.OTHER_NETWORK), dst=p6.address(4)),
        4,
    ),
    row(
        "from a user's peer there",
        p6.udp(9, src=p6.sixpn(p6.NETWORK, p6.OTHER_HOST, p6.PEER, 0x702), dst=p6.address(2)),
        2,
    ),
]


@pytest.mark.parametrize(("packet", "number"), SIXPN)
def test_between_machines(far: Rig, packet: Packet, number: int) -> None:
    want = Outcome(Tc.REDIRECT, to_machine(packet, number), counts={Count.SIXPN_IN: 1})
    assert mesh(far, sixpn_here(packet)) == want


def test_to_a_users_peer(far: Rig) -> None:
    far.settings.peers = far.ifindex["up1"]
    far.write_settings()
    packet = p6.udp(9, src=p6.remote(9), dst=p6.peer())
    want = bytearray(bytes(packet))
    want[21] -= 1
    assert mesh(far, sixpn_here(packet)) == Outcome(
        Tc.REDIRECT, bytes(want), counts={Count.PEER_OUT: 1}
    )


HOSTS_OWN = (
    Ether(dst=p.HOST_MAC)
    / IPv6(src=p6.sixpn(p6.OTHER_HOST, 0, 0, 1), dst=p6.sixpn(p6.HOST, 0, 0, 1))
    / UDP6(dport=7)
)
FABRIC = [
    row("what a host says to this one", HOSTS_OWN),
    row("IPv6 of the fabric", Ether() / IPv6(src="fd00::2", dst="fd00::1") / UDP6()),
    row("IPv4 of the fabric", Ether() / IP(src="192.168.0.2", dst="192.168.0.1") / UDP()),
    row("ARP", Ether(dst="ff:ff:ff:ff:ff:ff") / ARP(psrc="192.168.0.2", pdst="192.168.0.1")),
]


@pytest.mark.parametrize("packet", FABRIC)
def test_the_fabrics_own(far: Rig, packet: Packet) -> None:
    assert mesh(far, packet) == Outcome(Tc.UNSPEC, bytes(packet))


def test_without_ethernet_only_packets_of_hosts_come(far: Rig) -> None:
    """The device is WireGuard's: nothing of a fabric is there. (A test run has a
    header all the same: the program sees the packet of another protocol.)"""
    far.settings.mesh_flags = 0
    far.write_settings()
    arp = bytes(Ether(dst="ff:ff:ff:ff:ff:ff") / ARP())
    assert mesh(far, arp) == shot(arp, R.MESH_FORM)
