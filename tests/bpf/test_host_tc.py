# SPDX-License-Identifier: Apache-2.0
"""host_tc: what the host's stack may send into private networks."""

from __future__ import annotations

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from flyebpf.bpf.layout import SLOT_LIVE, SLOT_REMOTE
from flyebpf.model.reasons import Count, DropReason
from tests import packets as p
from tests import packets6 as p6
from tests.bpf.expect import row, shot
from tests.bpf.rig import Outcome, Rig, Tc, mac_bytes

R = DropReason
OWN_SERVER = "fdaa:102:304::3"  # of the network of machines 1 to 3
MAC = "02:00:00:00:05:03"


def sent(*headers: Packet, **ip: object) -> Packet:
    """What the stack sends to machine 1: by a device without ARP, to its own MAC."""
    fields = {"src": p6.NAMESERVER, "dst": p6.address(1), "hlim": 64, **ip}
    packet: Packet = Ether(src=MAC, dst=MAC) / IPv6(**fields)
    for header in headers:
        packet = packet / header
    return packet


ANSWER = UDP(sport=53, dport=40000) / Raw(b"answer")


def run(rig: Rig, frame: Packet | bytes, **gso: int) -> Outcome:
    return rig.tc(frame, "lan0", program="host_tc", **gso)


@pytest.mark.parametrize(
    "frame",
    [
        row("an answer", sent(ANSWER)),
        row("an answer of the network's server", sent(ANSWER, src=OWN_SERVER)),
        row("to another of the machine's addresses", sent(ANSWER, dst=p6.address(1, 77))),
        row("TCP", sent(TCP(sport=53, dport=40000, flags="SA"))),
        row("nobody listens", sent(ICMPv6DestUnreach(code=4), IPv6(), Raw(bytes(8)))),
    ],
)
def test_to_a_machine(rig: Rig, frame: Packet) -> None:
    want = mac_bytes(p.vm_mac(1)) + mac_bytes(p.gateway_mac(1)) + bytes(frame)[12:]
    assert run(rig, frame) == Outcome(Tc.REDIRECT, want, counts={Count.HOST_OUT: 1})


def test_to_a_users_peer(rig: Rig) -> None:
    frame = sent(ANSWER, src=OWN_SERVER, dst=p6.peer())
    assert run(rig, frame) == shot(frame, R.SIXPN_MACHINE)
    rig.settings.peers = rig.ifindex["lan0"]
    rig.write_settings()
    assert run(rig, frame) == Outcome(Tc.REDIRECT, bytes(frame), counts={Count.HOST_OUT: 1})


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        row("from another port", sent(UDP(sport=5353) / Raw(b"x")), R.HOST_SOURCE),
        row("from another address", sent(ANSWER, src="fdaa::4"), R.HOST_SOURCE),
        row("from a public address", sent(ANSWER, src="2001:db8::1"), R.HOST_SOURCE),
        row("from another network's server", sent(ANSWER, src="fdaa:102:305::3"), R.HOST_SOURCE),
        row("from a machine", sent(ANSWER, src=p6.address(2)), R.HOST_SOURCE),
        row("from a host of the mesh", sent(ANSWER, src="fdaa:80a1:a2a3::1"), R.HOST_SOURCE),
        row("a ping", sent(ICMPv6EchoRequest()), R.HOST_SOURCE),
        row("another protocol", sent(Raw(bytes(8)), nh=132), R.HOST_SOURCE),
        row("to a group", sent(ANSWER, dst="ff02::1"), R.HOST_SOURCE),
        row("to the internet", sent(ANSWER, dst="2001:db8::1"), R.HOST_SOURCE),
        row("to a host of the mesh", sent(ANSWER, dst="fdaa:80a1:a2a4::1"), R.HOST_SOURCE),
        row("to no network", sent(ANSWER, dst="fdaa::9"), R.HOST_SOURCE),
        row("not IPv6", Ether(src=MAC, dst=MAC) / ARP(), R.HOST_SOURCE),
        row("to a machine of another host", sent(ANSWER, dst=p6.remote(9)), R.SIXPN_HOST),
        row("to no machine", sent(ANSWER, dst=p6.address(9)), R.SIXPN_MACHINE),
    ],
)
def test_dropped(rig: Rig, frame: Packet, reason: R) -> None:
    assert run(rig, frame) == shot(frame, reason)


@pytest.mark.parametrize("flags", [0, SLOT_LIVE | SLOT_REMOTE])
def test_machine_that_is_not_served(rig: Rig, flags: int) -> None:
    rig.change_slot(1, flags=flags)
    assert run(rig, sent(ANSWER)) == shot(sent(ANSWER), R.SIXPN_MACHINE)


def test_slot_of_another_machine_by_now(rig: Rig) -> None:
    rig.change_slot(1, network=p6.OTHER_NETWORK)
    assert run(rig, sent(ANSWER)) == shot(sent(ANSWER), R.SIXPN_MACHINE)


def test_train_of_segments(rig: Rig) -> None:
    """DNS over TCP may be long; what is longer than a packet is cut behind here."""
    frame = sent(TCP(sport=53, dport=40000), Raw(bytes(1400)))
    assert run(rig, frame, gso_size=700).verdict is Tc.REDIRECT
