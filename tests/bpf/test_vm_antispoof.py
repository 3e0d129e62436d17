# SPDX-License-Identifier: Apache-2.0
"""vm_tc: who a VM is, and that it says so. ARP."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Padding, Raw

from flyebpf.model.reasons import Count, DropReason
from tests import packets as p
from tests.bpf.expect import row, shot
from tests.bpf.rig import Outcome, Rig, Tc

R = DropReason
OWN = p.vm_tcp(1, sport=50000, dport=443, flags="S")
"""Machine 1 opens a connection to the internet."""


def with_(packet: Packet, layer: type[Packet], **fields: object) -> Packet:
    new = packet.copy()
    for name, value in fields.items():
        setattr(new[layer], name, value)
    return new


V6 = Ether(src=p.vm_mac(1), dst=p.gateway_mac(1), type=0x86DD) / Raw(bytes(p.IPV6)[14:])
TAGGED = Ether(src=p.vm_mac(1), dst=p.gateway_mac(1)) / Dot1Q(vlan=1) / OWN[IP]
LLDP = Ether(src=p.vm_mac(1), dst="01:80:c2:00:00:0e", type=0x88CC) / Raw(bytes(46))

DROPPED = [
    row("another machine's MAC", with_(OWN, Ether, src=p.vm_mac(2)), R.SPOOFED_MAC),
    row(
        "a MAC that differs in its last bit",
        with_(OWN, Ether, src="02:fe:00:00:00:00"),
        R.SPOOFED_MAC,
    ),
    row(
        "a MAC that differs in its first bit",
        with_(OWN, Ether, src="82:fe:00:00:00:01"),
        R.SPOOFED_MAC,
    ),
    row("the gateway's MAC", with_(OWN, Ether, src=p.gateway_mac(1)), R.SPOOFED_MAC),
    row(
        "another machine's MAC, over ARP",
        with_(p.vm_arp(1, p.VIP), Ether, src=p.vm_mac(2)),
        R.SPOOFED_MAC,
    ),
    row("another machine's address", with_(OWN, IP, src=p.private_ip(2)), R.SPOOFED_IP),
    row("a public address", with_(OWN, IP, src=p.CLIENT), R.SPOOFED_IP),
    row("the VIP itself", with_(OWN, IP, src=p.VIP), R.SPOOFED_IP),
    row("no address (DHCP)", with_(OWN, IP, src="0.0.0.0"), R.SPOOFED_IP),
    row("its alias", with_(OWN, IP, src=p.alias_ip(1)), R.SPOOFED_IP),
    row(
        "a fragment with another's address",
        with_(OWN, IP, src=p.private_ip(2), frag=9),
        R.SPOOFED_IP,
    ),
    row("IPv6 with a public address", V6, R.SPOOFED_IP),
    row("a VLAN tag", TAGGED, R.ETHERTYPE),
    row("LLDP", LLDP, R.ETHERTYPE),
    row("a length where the type should be (802.3)", with_(LLDP, Ether, type=46), R.ETHERTYPE),
    row("a multicast MAC", with_(OWN, Ether, dst="01:00:5e:00:00:01"), R.VM_MULTICAST),
    row("the broadcast MAC", with_(OWN, Ether, dst="ff:ff:ff:ff:ff:ff"), R.VM_MULTICAST),
    row("a multicast address", with_(OWN, IP, dst="224.0.0.1"), R.VM_MULTICAST),
    row("the last multicast address", with_(OWN, IP, dst="239.255.255.255"), R.VM_MULTICAST),
    row("the broadcast address", with_(OWN, IP, dst="255.255.255.255"), R.VM_MULTICAST),
    row("IP version 6 in an IPv4 frame", with_(OWN, IP, version=6), R.BAD_IP_HEADER),
    row("a header of 4 words", with_(OWN, IP, ihl=4), R.BAD_IP_HEADER),
    row("a total length below the header's", with_(OWN, IP, len=19), R.BAD_IP_HEADER),
    row("a total length beyond the frame", with_(OWN, IP, len=41), R.TRUNCATED),
    row("a wrong IP checksum", with_(OWN, IP, chksum=1), R.BAD_IP_HEADER),
    row(
        "a wrong IP checksum, with options",
        with_(OWN, IP, chksum=1, options=[b"\x94\x04\0\0"]),
        R.BAD_IP_HEADER,
    ),
    row("TCP of 19 bytes", with_(OWN, IP, len=39), R.BAD_L4_HEADER),
    row("TCP data offset 4", with_(OWN, TCP, dataofs=4), R.BAD_L4_HEADER),
    row("TCP options beyond the packet", with_(OWN, TCP, dataofs=6), R.BAD_L4_HEADER),
    row("SYN and FIN", with_(OWN, TCP, flags="SF"), R.BAD_L4_HEADER),
    row("from port 0", with_(OWN, TCP, sport=0), R.BAD_L4_HEADER),
    row("a UDP length beyond the packet", with_(p.vm_udp(1), UDP, len=99), R.BAD_L4_HEADER),
    row("a UDP length of 7", with_(p.vm_udp(1), UDP, len=7), R.BAD_L4_HEADER),
]


@pytest.mark.parametrize(("packet", "reason"), DROPPED)
def test_dropped(rig: Rig, packet: Packet, reason: DropReason) -> None:
    assert rig.vm(1, packet) == shot(packet, reason)
    assert rig.flows() == []
    assert rig.reverses() == []


def test_what_the_rows_vary_is_allowed(rig: Rig) -> None:
    assert rig.vm(1, OWN) == Outcome(Tc.OK, bytes(OWN), counts={Count.OWN: 1})


def test_another_machines_interface(rig: Rig) -> None:
    assert rig.vm(2, OWN) == shot(OWN, R.SPOOFED_MAC)


def test_interface_of_no_machine(rig: Rig) -> None:
    assert rig.tc(OWN, "lan0") == shot(OWN, R.UNKNOWN_VM)


def test_interface_that_its_slot_does_not_know(rig: Rig) -> None:
    """An entry of vm_slots that is out of date gives nobody an identity."""
    rig.vm_slot(rig.ifindex["lan0"], 1)
    assert rig.tc(OWN, "lan0") == shot(OWN, R.UNKNOWN_VM)


def test_slot_beyond_the_map(rig: Rig) -> None:
    rig.vm_slot(rig.ifindex["lan0"], 9999)
    assert rig.tc(OWN, "lan0") == shot(OWN, R.UNKNOWN_VM)


# Whole frames, and the shortest ones that the kernel takes for a test run;
# test_live.py has what is shorter.
LENGTHS = {
    "tcp": (OWN, 34),
    "udp": (p.vm_udp(1), 34),
    "arp": (p.vm_arp(1, p.VIP), 14),
    "ipv6": (V6, 54),
    "other": (LLDP, 14),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_every_length(rig: Rig, name: str) -> None:
    """Frames cut anywhere go nowhere."""
    whole, shortest = bytes(LENGTHS[name][0]), LENGTHS[name][1]
    cut_off = R.ETHERTYPE if name == "other" else R.TRUNCATED
    for length in range(shortest, min(64, len(whole))):
        frame = whole[:length]
        assert rig.vm(1, frame) == shot(frame, cut_off), f"{length} bytes"


def arp_answer(asked: str) -> bytes:
    """The gateway answers for everybody."""
    return bytes(
        Ether(dst=p.vm_mac(1), src=p.gateway_mac(1))
        / ARP(
            op=2,
            hwsrc=p.gateway_mac(1),
            psrc=asked,
            hwdst=p.vm_mac(1),
            pdst=p.private_ip(1),
        )
    )


@pytest.mark.parametrize(
    "asked", [p.private_ip(2), p.VIP, p.CLIENT, "172.16.0.1", "0.0.0.0", "255.255.255.255"]
)
def test_arp_is_answered(rig: Rig, asked: str) -> None:
    assert rig.vm(1, p.vm_arp(1, asked)) == Outcome(
        Tc.REDIRECT, arp_answer(asked), counts={Count.ARP: 1}
    )


def test_arp_padding(rig: Rig) -> None:
    packet = p.vm_arp(1, p.VIP) / Padding(b"\x11" * 18)
    assert rig.vm(1, packet).packet == arp_answer(p.VIP) + b"\x11" * 18


def test_arp_for_fly_global_services(rig: Rig) -> None:
    """It may ask as its second address too."""
    packet = p.vm_arp(1, p.CLIENT, psrc=p.services_ip(1))
    assert Ether(rig.vm(1, packet).packet)[ARP].pdst == p.services_ip(1)


ARP_UNANSWERED = [
    row("a probe (RFC 5227)", {"psrc": "0.0.0.0"}, p.private_ip(1)),
    row("a probe for another's address", {"psrc": "0.0.0.0"}, p.private_ip(2)),
    row("an announcement", {}, p.private_ip(1)),
    row("an announcement of fly-global-services", {}, p.services_ip(1)),
    row("a reply", {"op": 2}, p.VIP),
    row("an operation that does not exist", {"op": 99}, p.VIP),
]


@pytest.mark.parametrize(("fields", "asked"), ARP_UNANSWERED)
def test_arp_heard_and_not_answered(rig: Rig, fields: dict[str, object], asked: str) -> None:
    packet = p.vm_arp(1, asked, **fields)
    assert rig.vm(1, packet) == Outcome(Tc.SHOT, bytes(packet), counts={Count.ARP: 1})


ARP_LIES = [
    row("another's MAC", {"hwsrc": p.vm_mac(2)}),
    row("another's address", {"psrc": p.private_ip(2)}),
    row("a public address", {"psrc": p.CLIENT}),
    row("the gateway's address", {"psrc": "172.16.0.1"}),
    row("another's address in a reply", {"psrc": p.private_ip(2), "op": 2}),
    row("not Ethernet", {"hwtype": 6}),
    row("not IPv4", {"ptype": 0x86DD}),
    row("MACs of 8 bytes", {"hwlen": 8}),
    row("addresses of 16 bytes", {"plen": 16}),
]


@pytest.mark.parametrize("fields", ARP_LIES)
def test_arp_lies(rig: Rig, fields: dict[str, object]) -> None:
    frame = bytearray(bytes(p.vm_arp(1, p.VIP)))
    places = {"hwtype": (14, 2), "ptype": (16, 2), "hwlen": (18, 1), "plen": (19, 1)}
    honest = {name: value for name, value in fields.items() if name not in places}
    frame = bytearray(bytes(p.vm_arp(1, p.VIP, **honest)))
    for name, (at, size) in places.items():
        if name in fields:
            frame[at : at + size] = int(str(fields[name])).to_bytes(size, "big")
    assert rig.vm(1, bytes(frame)) == shot(bytes(frame), R.SPOOFED_ARP)
