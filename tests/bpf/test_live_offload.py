# SPDX-License-Identifier: Apache-2.0
"""Checksums that a VM leaves to be filled in: its driver says where, and that
may be anywhere in the frame. They are written when the frame leaves the host,
behind the programs."""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Iterator

import pytest

from flyebpf.model.reasons import DropReason
from tests import packets as p
from tests.bpf.arithmetic import checksum
from tests.bpf.test_live import Wires, wires  # noqa: F401 - a fixture

SOL_PACKET, PACKET_VNET_HDR = 263, 15
VNET_HEADER = struct.Struct("=BBHHHH")  # flags, gso type and sizes, start, offset
NEEDS_CSUM = 1
IP_START = 14
SOURCE = 26
PAYLOAD = 42  # of UDP
VIP = socket.inet_aton(p.VIP)
SPOOFED = bytes((9, 9)) + VIP[2:]


@pytest.fixture
def line(wires: Wires) -> Iterator[Wires]:  # noqa: F811
    """An uplink that fills checksums in by itself no later than on the wire."""
    with wires.rig.namespace.entered():
        subprocess.run(["ethtool", "-K", "up0", "tx", "off"], check=True, stdout=subprocess.DEVNULL)
        yield wires
        subprocess.run(["ethtool", "-K", "up0", "tx", "on"], check=True, stdout=subprocess.DEVNULL)


def send(line: Wires, frame: bytes, start: int, place: int) -> None:
    """Machine 1 sends a frame; the checksum over everything from ``start`` on
    is to be written at ``place``."""
    with line.rig.namespace.entered(line.rig.namespace.far):
        end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        end.bind(("guest1", 0))
    with end:
        end.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        end.send(VNET_HEADER.pack(NEEDS_CSUM, 0, 0, 0, start, place - start) + frame)


def words(address: bytes) -> int:
    return sum(struct.unpack("!HH", address))


def answer() -> bytearray:
    """A datagram without a checksum of its own, its payload all zeros."""
    frame = bytearray(bytes(p.vm_udp(1, payload=bytes(16))))
    frame[PAYLOAD - 2 : PAYLOAD] = bytes(2)
    return frame


def test_where_it_belongs(line: Wires) -> None:
    line.send("wire0", p.QUERY)
    line.receive("guest1")
    frame = bytearray(bytes(p.vm_udp(1)))
    pseudo = frame[SOURCE : SOURCE + 8] + struct.pack("!HH", 17, len(frame) - 34)
    frame[40:42] = (checksum(pseudo) ^ 0xFFFF).to_bytes(2, "big")
    send(line, frame, 34, 40)
    want = p.translated(p.vm_udp(1), macs=(p.ROUTER_MAC, p.HOST_MAC), src=p.VIP, sport=53, ttl=63)
    assert line.receive("wire0") == want


@pytest.mark.parametrize("options", [0, 4, 40])
def test_over_the_source_address(line: Wires, options: int) -> None:
    """The source would be one of the VM's choice. No header that arrives with
    the right checksum leaves with it."""
    line.send("wire0", p.QUERY)
    line.receive("guest1")
    frame = answer()
    frame[34:34] = b"\x01" * options
    frame[IP_START] += options // 4
    frame[16:18] = (len(frame) - IP_START).to_bytes(2, "big")
    frame[24:26] = bytes(2)
    right = checksum(bytes(frame[IP_START : 34 + options]))
    frame[24:26] = ((right + words(VIP) - words(SPOOFED)) % 0xFFFF).to_bytes(2, "big")
    before = line.rig.drops(DropReason.BAD_IP_HEADER)
    send(line, frame, IP_START + 6, SOURCE)
    line.nothing_else()
    assert line.rig.drops(DropReason.BAD_IP_HEADER) == before + 1
