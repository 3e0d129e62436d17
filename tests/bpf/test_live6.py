# SPDX-License-Identifier: Apache-2.0
"""IPv6 of machines with the programs attached: trains of segments, checksums
that drivers leave open, and where packets really come out."""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Callable, Iterator

import pytest
from pyroute2 import IPRoute
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import IPv6ExtHdrHopByHop
from scapy.packet import Packet, Raw

from flyebpf.model.reasons import Count, DropReason
from tests import packets6 as p6
from tests.bpf.arithmetic import checksum
from tests.bpf.rig import Rig
from tests.bpf.test_live import WAIT, attach_tc, listen
from tests.bpf.test_live_offload import NEEDS_CSUM, PACKET_VNET_HDR, SOL_PACKET, VNET_HEADER

ENDS = ("guest1", "guest2", "guest4", "wire2")
GUARDED = ("vm1", "vm2", "vm4")
GSO_TCP6 = 4
ETHERNET = 14
L4 = 54
SOURCE = 22
FAR = p6.remote(9)


class Line:
    """Machines 1, 2 and 4, and the device to the other host (lan0, wire2).

    ``filled``: the kernel cuts trains and writes checksums before the wire.
    """

    def __init__(self, rig: Rig, *, filled: bool) -> None:
        self.rig, self.filled = rig, filled
        with rig.namespace.entered(rig.namespace.far):
            self.sockets = {name: listen(name) for name in ENDS}
            self.driver = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self.driver.bind(("guest1", 0))
            self.driver.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)

    def send(self, packet: Packet | bytes) -> None:
        self.sockets["guest1"].send(bytes(packet))

    def offload(
        self, frame: bytes, start: int, place: int, *, kind: int = 0, size: int = 0
    ) -> None:
        """As a VM's driver sends: the checksum from ``start`` on is to be written
        at ``place``; segments of ``size`` bytes are to be made of it."""
        header = VNET_HEADER.pack(
            NEEDS_CSUM, kind, start if size else 0, size, start, place - start
        )
        self.driver.send(header + frame)

    def receive(self, device: str) -> bytes:
        end = self.sockets[device]
        end.settimeout(WAIT)
        while True:
            frame, address = end.recvfrom(65536)
            if address[2] != socket.PACKET_OUTGOING:
                return frame

    def nothing(self) -> None:
        """Nowhere does anything more come out."""
        for name, end in self.sockets.items():
            end.settimeout(0.05)
            while True:
                try:
                    frame, address = end.recvfrom(65536)
                except TimeoutError:
                    break
                assert address[2] == socket.PACKET_OUTGOING, f"{name} got {frame.hex()}"

    def close(self) -> None:
        self.driver.close()
        for end in self.sockets.values():
            end.close()


def offloads(rig: Rig, state: str) -> None:
    """Whether the host's devices take what is left open as it is."""
    with rig.namespace.entered():
        for name in ("vm1", "vm2", "lan0"):
            command = ["ethtool", "-K", name, "tx", state, "tso", state, "gso", state]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(params=["off", "on"], ids=["filled", "open"])
def line(rig: Rig, request: pytest.FixtureRequest) -> Iterator[Line]:
    """With vm_tc and vm_out on the machines' interfaces."""
    offloads(rig, request.param)
    pins = [attach_tc(rig, "vm_tc", name) for name in GUARDED]
    with IPRoute() as ip:
        for name in GUARDED:
            fd = rig.programs["vm_out"].fd
            where = {"parent": 0xFFFFFFF3, "direct_action": True}
            ip.tc("add-filter", "bpf", rig.ifindex[name], "0:1", fd=fd, name="vm_out", **where)
    made = Line(rig, filled=request.param == "off")
    yield made
    made.close()
    with IPRoute() as ip:
        for index in pins:
            ip.tc("del", "clsact", index)
    offloads(rig, "on")


def pseudo(frame: bytes, at: int, proto: int) -> bytes:
    length = len(frame) - at
    return frame[SOURCE : SOURCE + 32] + struct.pack("!II", length, proto)


def sums_up(frame: bytes, at: int, proto: int) -> bool:
    """Whether the upper layer's checksum is right."""
    return checksum(pseudo(frame, at, proto) + frame[at:]) == 0


def left_open(packet: Packet, place: int, at: int, proto: int) -> bytearray:
    """The frame as a driver hands it over: the checksum of addresses, length and
    protocol where the whole one is to be."""
    frame = bytearray(bytes(packet))
    half = checksum(pseudo(bytes(frame), at, proto)) ^ 0xFFFF
    frame[place : place + 2] = half.to_bytes(2, "big")
    return frame


def test_to_another_machine(line: Line) -> None:
    for packet in (p6.tcp(1, "S"), p6.udp(1), p6.ping(1)):
        line.send(packet)
        assert line.receive("guest2") == p6.delivered(packet, 2)
    line.nothing()


def test_to_another_host(line: Line) -> None:
    packet = p6.tcp(1, "PA", b"some data", dst=FAR)
    line.send(packet)
    assert line.receive("wire2") == p6.in_mesh_form(packet)
    assert sums_up(p6.in_mesh_form(packet), L4, 6), "swapped fields change no sum"
    line.nothing()


def test_to_another_network(line: Line) -> None:
    line.send(p6.tcp(1, "S", dst=p6.address(4)))
    line.nothing()
    assert line.rig.drops(DropReason.SIXPN_NETWORK) == 1


def test_the_gateway_answers(line: Line) -> None:
    line.send(p6.solicit(1, p6.GATEWAY))
    assert line.receive("guest1") == p6.gateway_advert(1, p6.GATEWAY)
    ping = p6.ping(1, dst=p6.GATEWAY)
    line.send(ping)
    assert line.receive("guest1") == p6.gateway_pong(ping)
    line.nothing()
    assert line.rig.drops(DropReason.NOT_FOR_VM) == 0


def test_too_short(line: Line) -> None:
    """Frames that a test run does not take."""
    for length in range(14, 54):
        line.send(bytes(p6.tcp(1))[:length])
    line.nothing()
    assert line.rig.drops(DropReason.TRUNCATED) == 40


@pytest.mark.parametrize("make", [p6.tcp, p6.udp])
@pytest.mark.parametrize("dst", [p6.address(2), FAR])
def test_open_checksum(line: Line, make: Callable[..., Packet], dst: str) -> None:
    packet = make(1, payload=b"with data", dst=dst)
    tcp = TCP in packet
    proto, place = (6, L4 + 16) if tcp else (17, L4 + 6)
    line.offload(bytes(left_open(packet, place, L4, proto)), L4, place)
    got = line.receive("guest2" if dst == p6.address(2) else "wire2")
    want = p6.delivered(packet, 2) if dst == p6.address(2) else p6.in_mesh_form(packet)
    assert got[:place] == want[:place]
    assert got[place + 2 :] == want[place + 2 :]
    assert sums_up(got, L4, proto) == line.filled
    line.nothing()


@pytest.mark.parametrize("dst", [p6.address(2), FAR])
def test_open_checksum_over_the_header(line: Line, dst: str) -> None:
    """Nobody's driver writes into addresses, but for the last 16 bits of the
    destination, which are the receiver's own."""
    frame = bytes(p6.udp(1, bytes(16), dst=dst))
    places = range(20, L4 - 2)
    for place in places:
        line.offload(frame, 20, place)
    line.nothing()
    assert line.rig.drops(DropReason.IPV6_HEADER) == len(places)


def test_train_to_another_host(line: Line) -> None:
    """Cut into segments that the mesh takes, or still whole with their size."""
    data = bytes(range(250)) * 20
    packet = p6.tcp(1, "PA", data, dst=FAR)
    frame = left_open(packet, L4 + 16, L4, 6)
    line.offload(bytes(frame), L4, L4 + 16, kind=GSO_TCP6, size=1300)
    parts: dict[bytes, bytes] = {}  # by sequence number: CPUs may overtake each other
    while sum(map(len, parts.values())) < len(data):
        got = line.receive("wire2")
        assert got[SOURCE:L4] == p6.in_mesh_form(packet)[SOURCE:L4]
        if line.filled:
            assert len(got) - ETHERNET <= p6.MESH_MTU
            assert sums_up(got, L4, 6)
        parts[got[L4 + 4 : L4 + 8]] = got[L4 + 20 :]
    assert b"".join(parts[number] for number in sorted(parts)) == data
    assert len(parts) == (4 if line.filled else 1)
    line.nothing()


def test_train_to_another_machine(line: Line) -> None:
    data = bytes(range(250)) * 100
    packet = p6.tcp(1, "PA", data)
    frame = left_open(packet, L4 + 16, L4, 6)
    line.offload(bytes(frame), L4, L4 + 16, kind=GSO_TCP6, size=1440)
    parts: dict[bytes, bytes] = {}  # by sequence number: CPUs may overtake each other
    while sum(map(len, parts.values())) < len(data):
        got = line.receive("guest2")
        parts[got[L4 + 4 : L4 + 8]] = got[L4 + 20 :]
    assert b"".join(parts[number] for number in sorted(parts)) == data
    line.nothing()


class TestTooBig:
    """The gateway's message has the right checksum, whatever becomes of the open
    one in its quote."""

    def told(self, line: Line, packet: Packet) -> None:
        """What it quotes is the packet, but for the open checksum."""
        got, want = line.receive("guest1"), p6.too_big(1, packet)
        assert len(got) == ETHERNET + 1280
        assert got[: L4 + 2] == want[: L4 + 2]
        assert got[L4 + 4 : 62 + 40] == want[L4 + 4 : 62 + 40]
        assert sums_up(got, L4, 58) == line.filled
        line.nothing()

    def test_a_datagram(self, line: Line) -> None:
        packet = p6.udp(1, bytes(1400), dst=FAR)
        line.send(packet)
        assert line.receive("guest1") == p6.too_big(1, packet)
        line.nothing()

    @pytest.mark.parametrize("length", [1400, 1401, 1402, 1403])
    def test_an_open_datagram(self, line: Line, length: int) -> None:
        packet = p6.udp(1, (bytes(range(256)) * 6)[:length], dst=FAR)
        frame = left_open(packet, L4 + 6, L4, 17)
        line.offload(bytes(frame), L4, L4 + 6)
        self.told(line, packet)

    def test_behind_options(self, line: Line) -> None:
        packet = p6.from_vm(1, dst=FAR) / IPv6ExtHdrHopByHop() / UDP() / Raw(bytes(1400))
        frame = left_open(packet, L4 + 8 + 6, L4 + 8, 17)
        line.offload(bytes(frame), L4 + 8, L4 + 8 + 6)
        self.told(line, packet)

    def test_a_train(self, line: Line) -> None:
        packet = p6.tcp(1, "PA", bytes(range(250)) * 20, dst=FAR)
        frame = left_open(packet, L4 + 16, L4, 6)
        line.offload(bytes(frame), L4, L4 + 16, kind=GSO_TCP6, size=1440)
        self.told(line, packet)
        assert line.rig.count(Count.TOO_BIG) == 1


def test_nothing_is_delivered_past_the_second_check(line: Line) -> None:
    """A route of the host's, or a program of somebody else, would lead there."""
    with line.rig.namespace.entered():
        host = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        host.bind(("vm2", 0))
    with host:
        for wrong in (p6.tcp(1, "S", src=p6.address(4)), p6.tcp(1, "S", dst=p6.address(3))):
            with pytest.raises(OSError, match="No buffer space"):
                host.send(bytes(wrong))
        line.nothing()
        assert line.rig.drops(DropReason.NOT_FOR_VM) == 2
        right = bytes(p6.tcp(1, "S"))
        host.send(right)
        assert line.receive("guest2") == right
