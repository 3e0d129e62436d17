# SPDX-License-Identifier: Apache-2.0
"""Trains of segments, and checksums that are still to be written, between machines
and the mesh."""

from __future__ import annotations

import socket

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from flyebpf.model.reasons import Count, DropReason
from tests import packets as p
from tests import packets6 as p6
from tests.bpf.arithmetic import checksum
from tests.bpf.far import (
    FAR_PORT,
    FAR_UDP_PORT,
    MSS,
    ROOM,
    carried,
    hopped,
    to_here,
)
from tests.bpf.test_live import wires  # noqa: F401 - a fixture
from tests.bpf.test_live_offload import PACKET_VNET_HDR, SOL_PACKET
from tests.bpf.test_mesh_live import Mesh, l3, mesh, trains  # noqa: F401 - fixtures
from tests.bpf.tun import GSO_TCP4, GSO_TCP6, NEEDS_CSUM, VNET_HEADER

R = DropReason
ETHERNET = 14


def send_offloaded(line: Mesh, frame: bytes, header: bytes) -> None:
    """From machine 4. ``header``: virtio's."""
    with line.rig.namespace.entered(line.rig.namespace.far):
        end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        end.bind(("guest4", 0))
    with end:
        end.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        end.send(header + frame)


def train_header(size: int) -> bytes:
    """Of TCP in IPv4, no options, in segments of ``size`` bytes."""
    return VNET_HEADER.pack(NEEDS_CSUM, GSO_TCP4, 54, size, 34, 16)


def pseudo_sum(addresses: bytes, length: int) -> bytes:
    """What a driver leaves where the kernel is to write a checksum."""
    pseudo = addresses + length.to_bytes(4, "big") + bytes(3) + b"\6"
    return (checksum(pseudo) ^ 0xFFFF).to_bytes(2, "big")


DATA = bytes(range(250)) * 12


def with_pseudo_sum(packet: Packet) -> bytes:
    frame = bytearray(bytes(packet))
    at = 34 if IP in packet else 54
    addresses = frame[26:34] if IP in packet else frame[22:54]
    frame[at + 16 : at + 18] = pseudo_sum(bytes(addresses), len(frame) - at)
    return bytes(frame)


def test_train_to_a_machine_far_away(mesh: Mesh) -> None:  # noqa: F811
    """Cut by the kernel when it leaves: every segment has both headers and right
    checksums."""
    mesh.wire.send("guest4", p.vm_tcp(4, 50000, "S", dst=p.VIP, dport=90))
    mesh.fly.sent()
    packet = p.vm_tcp(4, 50000, "A", DATA, dst=p.VIP, dport=90)
    send_offloaded(mesh, with_pseudo_sum(packet), train_header(MSS))
    data = b""
    while len(data) < len(DATA):
        segment = IPv6(mesh.fly.sent())
        assert segment.plen == len(segment.payload) == segment[IP].len <= ROOM
        assert (segment.dst, segment.nh) == (p6.sixpn(p6.OTHER_HOST, 0, 0xC20099, FAR_PORT), 4)
        part = bytes(segment[TCP].payload)
        again = p.translated(Ether() / segment[IP])
        assert again[ETHERNET:] == bytes(segment[IP])
        data += part
    assert data == DATA
    mesh.fly.nothing()


def test_train_of_segments_that_do_not_fit(mesh: Mesh) -> None:  # noqa: F811
    """Whoever was told of no lower MSS is told by an error."""
    mesh.wire.send("guest4", p.vm_tcp(4, 50000, "S", dst=p.VIP, dport=90))
    mesh.fly.sent()
    packet = p.vm_tcp(4, 50000, "A", DATA, dst=p.VIP, dport=90)
    send_offloaded(mesh, with_pseudo_sum(packet), train_header(1448))
    answer = mesh.wire.receive("guest4")
    assert (answer[23], answer[34:36], answer[38:42]) == (1, b"\3\4", ROOM.to_bytes(4, "big"))
    mesh.fly.nothing()


def test_train_between_machines(trains: Mesh) -> None:  # noqa: F811
    """Out of the mesh as it came in: the machine gets the train."""
    packet = p6.tcp(9, "A", DATA, src=p6.remote(9), dst=p6.address(2))
    frame = with_pseudo_sum(packet)
    header = VNET_HEADER.pack(NEEDS_CSUM, GSO_TCP6, 60, 1200, 40, 16)
    trains.fly.arrive(l3(p6.in_mesh_form(frame)), header)
    got = trains.wire.receive("guest2")
    assert got[ETHERNET:54] == p6.delivered(Ether(frame), 2)[ETHERNET:54]
    assert got[74:] == DATA
    assert trains.rig.count(Count.SIXPN_IN) == 1


def test_checksum_that_is_still_to_come(trains: Mesh) -> None:  # noqa: F811
    """From the mesh to a machine, and from a machine to the mesh."""
    frame = bytearray(hopped(p.QUERY))
    udp_sum = (checksum(bytes(frame[26:34]) + b"\0\x11\0\x10") ^ 0xFFFF).to_bytes(2, "big")
    frame[40:42] = udp_sum
    header = VNET_HEADER.pack(NEEDS_CSUM, 0, 0, 0, 60, 6)
    trains.fly.arrive(l3(to_here(bytes(frame), port=5353)), header)
    got = Ether(trains.wire.receive("guest1"))
    want = Ether(p.to_vm(p.QUERY, 1, 5353))
    assert (got[IP].dst, got[UDP].dport, bytes(got[UDP].payload)) == (
        want[IP].dst,
        5353,
        b"question",
    )
    kept = bytes(want)[26:34] + b"\0\x11\0\x10"  # the sum of the pseudo-header has moved along
    sums = (want[UDP].chksum, checksum(kept) ^ 0xFFFF)
    assert got[UDP].chksum in sums


def open_at(line: Mesh, place: int) -> None:
    """A UDP datagram of machine 4 whose checksum is to be written at ``place``."""
    packet = bytes(p.vm_udp(4, 50000, src=p.private_ip(4), dst=p.VIP, dport=90))
    send_offloaded(line, packet, VNET_HEADER.pack(NEEDS_CSUM, 0, 0, 0, place, 0))


@pytest.mark.parametrize("place", [20, 24, 26, 28, 30])
def test_checksum_over_headers(mesh: Mesh, place: int) -> None:  # noqa: F811
    """It would be written over the header of the mesh or the addresses. (Kernels
    of today take no place that is before byte 20.)"""
    open_at(mesh, place)
    mesh.fly.nothing()
    mesh.wire.nothing_else()
    assert mesh.rig.drops(R.BAD_L4_HEADER) == 1


def test_checksum_over_the_end_of_the_destination(mesh: Mesh) -> None:  # noqa: F811
    """That a kernel can tell or not. Where it cannot, the IP header, which was
    right, is wrong behind it: nobody takes the packet."""
    open_at(mesh, 32)
    if not mesh.rig.drops(R.BAD_L4_HEADER):
        assert checksum(bytes(IPv6(mesh.fly.sent()).payload)[:20]) != 0
    mesh.fly.nothing()
    mesh.wire.nothing_else()


def test_checksum_where_it_belongs(mesh: Mesh) -> None:  # noqa: F811
    packet = p.vm_udp(4, 50000, src=p.private_ip(4), dst=p.VIP, dport=90)
    frame = bytearray(bytes(packet))
    length = len(frame) - 34
    words = bytes(frame[26:34]) + b"\0\x11" + length.to_bytes(2, "big")
    frame[40:42] = (checksum(words) ^ 0xFFFF).to_bytes(2, "big")
    send_offloaded(mesh, bytes(frame), VNET_HEADER.pack(NEEDS_CSUM, 0, 0, 0, 34, 6))
    want = p.translated(packet, src=p.alias_ip(4), ttl=63)
    assert mesh.fly.sent() == l3(carried(want, port=FAR_UDP_PORT))
