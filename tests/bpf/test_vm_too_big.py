# SPDX-License-Identifier: Apache-2.0
"""vm_tc and IPv4 packets of machines that are too long for the mesh."""

from __future__ import annotations

import copy

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from flyebpf.model.reasons import Count, DropReason
from tests import packets as p
from tests.bpf.expect import row, shot
from tests.bpf.far import (
    FAR_UDP,
    FAR_UDP_PORT,
    ROOM,
    mesh,
    return_edge,
    to_here,
)
from tests.bpf.fast import Fast
from tests.bpf.rig import Outcome, Rig, Tc
from tests.bpf.test_vm_mesh import compare, dialled, unreachable

R = DropReason


def told(packet: Packet, l4: int) -> bytes:
    """To the VM, from where it sent the packet to: what fits."""
    macs = Ether(src=p.gateway_mac(4), dst=p.vm_mac(4))
    ip = IP(src=packet[IP].dst, dst=packet[IP].src, id=0, flags="DF", ttl=64)
    quote = bytes(packet)[14 : 14 + packet[IP].ihl * 4 + l4]
    return bytes(macs / ip / ICMP(type=3, code=4, nexthopmtu=ROOM) / Raw(quote))


def built(packet: Packet) -> Packet:
    return Ether(bytes(packet))


LONG = [
    row("a segment", built(p.vm_tcp(4, 50000, "A", bytes(1400), dst=p.VIP, dport=90)), 20),
    row(
        "a datagram of one byte too many",
        built(p.vm_udp(4, 50000, bytes(ROOM - 27), src=p.private_ip(4), dst=p.VIP, dport=90)),
        8,
    ),
    row(
        "with IP options",
        built(
            p.from_vm(4, dst=p.VIP, options=[b"\x01" * 40])
            / UDP(sport=50000, dport=90)
            / Raw(bytes(ROOM))
        ),
        8,
    ),
]


@pytest.mark.parametrize(("packet", "l4"), LONG)
def test_too_long(far: Rig, packet: Packet, l4: int) -> None:
    counts = {Count.TOO_BIG: 1, Count.FLOW_NEW: 1}
    drops = {R.TOO_BIG: (1, len(bytes(packet)))}
    assert far.vm(4, packet) == Outcome(Tc.REDIRECT, told(packet, l4), drops, counts)


def test_longest_that_fits(far: Rig) -> None:
    packet = p.vm_udp(4, 50000, bytes(ROOM - 28), src=p.private_ip(4), dst=p.VIP, dport=90)
    compare(far.vm(4, packet), dialled(packet, FAR_UDP_PORT, FAR_UDP))


def test_padding_of_more_than_the_mesh_takes(far: Rig) -> None:
    packet = p.vm_udp(4, 50000, src=p.private_ip(4), dst=p.VIP, dport=90)
    assert far.vm(4, bytes(packet) + bytes(1400)).drops.keys() == {R.TOO_BIG}


TRAIN = p.vm_tcp(4, 50000, "A", bytes(1000), dst=p.VIP, dport=90)


def test_train_of_segments_that_fit(far: Rig) -> None:
    """Trains in a test run are of no kind, so they cannot get a header there:
    that is in test_mesh_live.py."""
    assert far.vm(4, TRAIN, gso_size=ROOM - 40).drops.keys() == {R.REWRITE}


def test_train_of_segments_that_do_not_fit(far: Rig) -> None:
    outcome = far.vm(4, TRAIN, gso_size=ROOM - 39)
    assert outcome.drops.keys() == {R.TOO_BIG}
    assert outcome.packet == told(built(TRAIN), 20)


def test_checksum_that_is_still_to_come(far: Rig) -> None:
    """The field holds the sum of the pseudo-header; with what the kernel writes
    there, the error's checksum is right."""
    packet = built(p.vm_tcp(4, 50000, "A", bytes(1400), dst=p.VIP, dport=90))
    length = len(packet[TCP])
    words = bytes(packet)[26:34] + b"\0\6" + length.to_bytes(2, "big")
    pseudo = sum(int.from_bytes(words[i : i + 2], "big") for i in range(0, len(words), 2))
    pseudo = (pseudo & 0xFFFF) + (pseudo >> 16)
    packet[TCP].chksum = pseudo
    answer = bytearray(far.vm(4, packet).packet)
    l4 = 14 + 28 + 20  # of the quote
    region = answer[l4:]
    total = sum(int.from_bytes(region[i : i + 2], "big") for i in range(0, len(region), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    answer[l4 + 16 : l4 + 18] = (total ^ 0xFFFF).to_bytes(2, "big")
    checked = copy.deepcopy(Ether(bytes(answer)))
    del checked[ICMP].chksum
    assert bytes(checked)[36:38] == answer[36:38]


def test_later_fragment_that_is_too_long(far: Rig) -> None:
    return_edge(far)
    mesh(far, to_here(p.QUERY, port=5353))
    _, second, *_ = p.fragments_of(p.vm_udp(1, payload=bytes(3000)), ROOM + 12)
    first = p.fragments_of(p.vm_udp(1, payload=bytes(3000)), 64)[0]
    far.vm(1, first)
    assert far.vm(1, second) == shot(second, R.TOO_BIG)


def test_error_that_is_too_long(far: Rig) -> None:
    return_edge(far)
    mesh(far, to_here(p.QUERY, port=5353))
    error = unreachable() / Raw(bytes(1400))
    assert far.vm(1, error) == shot(error, R.TOO_BIG)


def test_a_flood_is_answered_in_part(far: Rig) -> None:
    fast = Fast.vm(far, 4)
    frame = bytes(p.vm_udp(4, 50000, bytes(1400), src=p.private_ip(4), dst=p.VIP, dport=90))
    verdicts = [fast.run(frame)[0] for _ in range(500)]
    assert min(verdicts.count(Tc.REDIRECT), verdicts.count(Tc.SHOT)) > 0
    assert far.drops(R.TOO_BIG) == 500
