# SPDX-License-Identifier: Apache-2.0
"""Frames of a client that asks once, and the answers to them."""

from __future__ import annotations

import ctypes as ct
import os
import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address

from flyebpf.api.probes import Reply

Ip = IPv4Address | IPv6Address
TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
PROTOCOLS = {"tcp": TCP, "udp": UDP}
CLIENTS = {4: ip_address("192.0.2.1"), 6: ip_address("2001:db8::1")}
"""Addresses of documentation, which no client has."""
ETHERNET, IPV6 = 14, 40
ETH_IPV4, ETH_IPV6 = 0x0800, 0x86DD
MACS = bytes.fromhex("020000000001020000000002")
TTL = 64
SYN, RST, ACK = 2, 4, 16
UNREACHABLE = {4: (3, 3), 6: (1, 4)}
"""ICMP type and code of "nobody listens at that port"."""
TCP_HEADER = struct.Struct(">HHIIBBHHH")


@dataclass(frozen=True, slots=True)
class Probe:
    """``protocol``: 6 or 17. ``source``: the client's port."""

    vip: Ip
    protocol: int
    port: int
    source: int
    sequence: int = field(default_factory=lambda: int.from_bytes(os.urandom(4), "big"))

    @property
    def client(self) -> Ip:
        return CLIENTS[self.vip.version]

    def first(self) -> bytes:
        """A SYN, or an empty datagram."""
        return self._frame(self._tcp(SYN) if self.protocol == TCP else self._udp())

    def reset(self) -> bytes:
        """Takes the SYN back."""
        return self._frame(self._tcp(RST, 1))

    def reply(self, frame: bytes) -> Reply | None:
        """What a frame for the client says of it; None for nothing."""
        kind, body = payload(frame)
        version = self.vip.version
        if kind in (ICMP, ICMP6) and len(body) >= 8:
            return Reply.REFUSED if (body[0], body[1]) == UNREACHABLE[version] else None
        if kind != self.protocol or len(body) < (20 if kind == TCP else 8):
            return None
        if struct.unpack_from(">HH", body) != (self.port, self.source):
            return None
        if kind == UDP:
            return Reply.OPEN
        flags = body[13]
        if flags & RST:
            return Reply.REFUSED
        return Reply.OPEN if flags & SYN and flags & ACK else None

    def _tcp(self, flags: int, more: int = 0) -> bytes:
        sequence = (self.sequence + more) & 0xFFFFFFFF
        parts = (self.source, self.port, sequence, 0, 5 << 4, flags, 1024)
        checksum = self._sum(TCP_HEADER.pack(*parts, 0, 0))
        return TCP_HEADER.pack(*parts, checksum, 0)

    def _udp(self) -> bytes:
        parts = (self.source, self.port, 8)
        checksum = self._sum(struct.pack(">HHHH", *parts, 0)) or 0xFFFF
        return struct.pack(">HHHH", *parts, checksum)

    def _sum(self, segment: bytes) -> int:
        pseudo = self.client.packed + self.vip.packed
        return checksum(pseudo + struct.pack(">II", len(segment), self.protocol) + segment)

    def _frame(self, segment: bytes) -> bytes:
        both = self.client.packed + self.vip.packed
        if self.vip.version == 6:
            head = struct.pack(">IHBB", 6 << 28, len(segment), self.protocol, TTL) + both
            return MACS + struct.pack(">H", ETH_IPV6) + head + segment
        parts = (0x45, 0, 20 + len(segment), 0, 0x4000, TTL, self.protocol)
        head = struct.pack(">BBHHHBBH", *parts, 0) + both
        head = struct.pack(">BBHHHBBH", *parts, checksum(head)) + both
        return MACS + struct.pack(">H", ETH_IPV4) + head + segment


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    words = struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2))
    total: int = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def destination(frame: bytes) -> Ip | None:
    """Where an IP packet in a frame goes."""
    kind = int.from_bytes(frame[12:14], "big")
    if kind == ETH_IPV4 and len(frame) >= ETHERNET + 20:
        return IPv4Address(frame[30:34])
    if kind == ETH_IPV6 and len(frame) >= ETHERNET + IPV6:
        return IPv6Address(frame[38:54])
    return None


def payload(frame: bytes) -> tuple[int, bytes]:
    """Protocol and L4 of a frame without extension headers; (0, b"") for others."""
    if destination(frame) is None:
        return 0, b""
    if frame[12:14] == ETH_IPV6.to_bytes(2, "big"):
        return frame[20], frame[ETHERNET + IPV6 :]
    return frame[23], frame[ETHERNET + (frame[14] & 15) * 4 :]


class _Instruction(ct.Structure):
    """``struct sock_filter`` (linux/filter.h)."""

    _fields_ = (("code", ct.c_uint16), ("jt", ct.c_uint8), ("jf", ct.c_uint8), ("k", ct.c_uint32))


class _Program(ct.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ct.c_uint16), ("filter", ct.c_void_p))


LOAD_HALF, LOAD_WORD, JUMP_EQUAL, RETURN = 0x28, 0x20, 0x15, 0x06


class Filter:
    """Keep it until ``value`` has been given to the kernel."""

    def __init__(self, tests: list[tuple[int, int, int]]) -> None:
        """``tests``: instruction that loads, offset, what is wanted there."""
        code: list[tuple[int, int, int, int]] = []
        for place, (load, offset, wanted) in enumerate(tests):
            left = 2 * (len(tests) - place) - 1  # instructions to the last one
            code += [(load, 0, 0, offset), (JUMP_EQUAL, 0, left, wanted)]
        code += [(RETURN, 0, 0, 0xFFFF), (RETURN, 0, 0, 0)]
        self._code = (_Instruction * len(code))(*(_Instruction(*line) for line in code))
        self.value = bytes(_Program(len(code), ct.addressof(self._code)))


def filter_of(probe: Probe) -> Filter:
    """Passes frames from the address to the client alone."""
    six = probe.vip.version == 6
    tests = [(LOAD_HALF, 12, ETH_IPV6 if six else ETH_IPV4)]
    data = probe.vip.packed + probe.client.packed
    first = 22 if six else 26
    for at in range(0, len(data), 4):
        tests.append((LOAD_WORD, first + at, int.from_bytes(data[at : at + 4], "big")))
    return Filter(tests)
