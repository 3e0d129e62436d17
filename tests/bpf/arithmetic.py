# SPDX-License-Identifier: Apache-2.0
"""Hashes, checksums and header rewriting by plain arithmetic, for the model."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from flyebpf.model.reasons import DropReason

R = DropReason
MASK64 = 2**64 - 1
ICMP, TCP, UDP = 1, 6, 17
FIN, SYN, RST, ACK = 1, 2, 4, 16


class Tuple(NamedTuple):
    """A flow as the client sees it."""

    client: str
    vip: str
    client_port: int
    vip_port: int
    proto: int


class Raw(NamedTuple):
    """The same in network order, as it stands in packets."""

    client: bytes
    vip: bytes
    client_port: bytes
    vip_port: bytes
    proto: int


def mix(state: int, word: int) -> int:
    """A round of the hash: multiply by 2^64/phi, fold the upper half in."""
    state = ((state ^ word) * 0x9E3779B97F4A7C15) & MASK64
    return state ^ (state >> 32)


def tuple_hash(t: Raw, seed: int) -> int:
    """Words are what a little-endian CPU reads from the addresses and ports."""
    state = seed
    for address in (t.client, t.vip):
        state = mix(state, 0)
        state = mix(state, int.from_bytes(b"\0\0\xff\xff" + address, "little"))
    ports = int.from_bytes(t.client_port + t.vip_port, "little")
    return mix(state, ports | t.proto << 32)


def entry_of(hashed: int, size: int) -> int:
    """The upper half of the hash, scaled to the table."""
    return (hashed >> 32) * size >> 32


def maglev_index(t: Tuple, seed: int, size: int) -> int:
    """Which entry of a Maglev table a tuple enters."""
    raw = Raw(
        socket.inet_aton(t.client),
        socket.inet_aton(t.vip),
        t.client_port.to_bytes(2, "big"),
        t.vip_port.to_bytes(2, "big"),
        t.proto,
    )
    return entry_of(tuple_hash(raw, seed), size)


def words(data: bytes) -> int:
    """The sum of its 16-bit words; an odd byte is the upper half of a word."""
    if len(data) % 2:
        data += b"\0"
    return sum(struct.unpack(f"!{len(data) // 2}H", data))


def checksum(data: bytes) -> int:
    """RFC 1071."""
    return 0xFFFF - folded(words(data))


def folded(total: int) -> int:
    """One's complement: 0 only of nothing, else 1 to ffff."""
    return (total - 1) % 0xFFFF + 1 if total else 0


def adjusted(check: int, old: bytes, new: bytes) -> int:
    """RFC 1624: the checksum after ``old`` became ``new``."""
    inverted = bytes(byte ^ 0xFF for byte in old)
    return 0xFFFF - folded((0xFFFF - check) + words(inverted) + words(new))


def put16(frame: bytearray, at: int, value: int) -> None:
    frame[at : at + 2] = value.to_bytes(2, "big")


def get16(frame: bytes | bytearray, at: int) -> int:
    return frame[at] << 8 | frame[at + 1]


def fragment_key(frame: bytes) -> bytes:
    """Source, destination, id and protocol (RFC 791)."""
    return frame[26:34] + frame[18:20] + frame[23:24]


def check_transport(frame: bytes, at: int, room: int, fragment: bool) -> DropReason | None:
    """Whether the TCP or UDP header can be."""
    proto = frame[23]
    size = 20 if proto == TCP else 8
    if room < size:
        return R.FRAG_TINY if fragment else R.BAD_L4_HEADER
    bad = not get16(frame, at) or not get16(frame, at + 2)
    if proto == TCP:
        offset, flags = (frame[at + 12] >> 4) * 4, frame[at + 13]
        bad = bad or offset < 20 or offset > room
        bad = bad or bool(flags & SYN and flags & (FIN | RST))
    else:
        length = get16(frame, at + 4)
        bad = bad or length < 8 or (length > room and not fragment)
    return R.BAD_L4_HEADER if bad else None


def rewrite_transport(out: bytearray, at: int, address: bytes, port: bytes) -> None:
    """Destination port, and the checksum over that and the address."""
    udp = out[23] == UDP
    place = at + (6 if udp else 16)
    old = bytes(out[30:34] + out[at + 2 : at + 4])
    out[at + 2 : at + 4] = port
    check = get16(out, place)
    if udp and check == 0:
        return
    check = adjusted(check, old, address + port)
    put16(out, place, check or 0xFFFF if udp else check)


def rewrite_ip(out: bytearray, address: bytes) -> None:
    """Destination, one hop less, and the header's checksum."""
    old = bytes(out[22:24] + out[30:34])
    out[22] -= 1
    out[30:34] = address
    put16(out, 24, adjusted(get16(out, 24), old, bytes(out[22:24]) + address))


def reset_for(frame: bytes, at: int, room: int) -> bytes:
    """The frame that resets the TCP segment at ``at`` (RFC 9293, 3.10.7.1)."""
    flags = frame[at + 13]
    seq, ack = struct.unpack_from("!II", frame, at + 4)
    data = room - (frame[at + 12] >> 4) * 4
    if flags & ACK:
        numbers = (ack, 0, RST)
    else:
        after = seq + data + bool(flags & SYN) + bool(flags & FIN)
        numbers = (0, after & 0xFFFFFFFF, RST | ACK)
    tcp = struct.pack(
        "!HHIIBBHHH",
        get16(frame, at + 2),
        get16(frame, at),
        numbers[0],
        numbers[1],
        0x50,
        numbers[2],
        0,
        0,
        0,
    )
    ends = frame[30:34] + frame[26:30]
    tcp_sum = checksum(ends + struct.pack("!HH", TCP, 20) + tcp)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0x4000, 64, TCP, 0) + ends
    ip = ip[:10] + checksum(ip).to_bytes(2, "big") + ip[12:]
    answer = frame[6:12] + frame[0:6] + frame[12:14] + ip
    answer += tcp[:16] + tcp_sum.to_bytes(2, "big") + tcp[18:]
    return answer
