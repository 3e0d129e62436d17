# SPDX-License-Identifier: Apache-2.0
"""Random frames for the edge, of raw bytes: much faster than by scapy."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable

from tests import packets as p
from tests.bpf.arithmetic import checksum
from tests.bpf.rig import mac_bytes

CLIENTS = [socket.inet_aton(a) for a in ("192.0.2.10", "192.0.2.11", "8.8.8.8", "1.0.0.1")]
ODD_SOURCES = [
    socket.inet_aton(a)
    for a in (
        "127.0.0.1",
        "0.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "172.16.0.2",
        "100.64.0.2",
        p.VIP,
    )
]
VIPS = [socket.inet_aton(a) for a in (p.VIP, p.VIP, p.VIP, p.VIP2, p.SMALL_VIP)]
ODD_TARGETS = [
    socket.inet_aton(a)
    for a in (p.FREE_VIP, "172.16.0.2", "100.64.0.2", "192.0.2.1", "198.18.5.16")
]
PORTS = [80, 443, 53, 22, 5000, 5001, 5002, 5003, 5004, 4999, 81, 82, 8443, 1, 0]
Ends = tuple[bytes, bytes, int, int]
"""Source, destination and their ports."""
MakeEnds = Callable[[random.Random], Ends]

ETHER = mac_bytes(p.HOST_MAC) + mac_bytes(p.ROUTER_MAC) + b"\x08\x00"


def ip_packet(rng: random.Random, source: bytes, target: bytes, proto: int, body: bytes) -> bytes:
    """A frame; what is rare in it is made often enough to matter."""
    options = rng.choice((b"",) * 6 + (b"\x94\x04\0\0", b"\x01" * 8, b"\0" * 40))
    fragment = 0x4000
    if rng.random() < 0.15:
        fragment = rng.choice((0x2000, 0x2000, 0x0001, 0x2008, 0x1FFF, 0x8000))
        if fragment == 0x2000 and rng.random() < 0.1:
            body = body[: rng.randrange(20)]
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x45 + len(options) // 4,
        rng.choice((0, 0, 0xB8)),
        20 + len(options) + len(body),
        rng.randrange(4),
        fragment,
        rng.choice((64, 64, 64, 255, 2, 1, 0)) if rng.random() < 0.2 else 57,
        proto,
        0,
        source,
        target,
    )
    header += options
    check = checksum(header)
    header = header[:10] + check.to_bytes(2, "big") + header[12:]
    padding = rng.randbytes(rng.randrange(1, 8)) if rng.random() < 0.1 else b""
    return ETHER + header + body + padding


def client_ends(rng: random.Random) -> Ends:
    """Addresses and ports of a client's packet."""
    source = rng.choice(ODD_SOURCES if rng.random() < 0.03 else CLIENTS)
    target = rng.choice(ODD_TARGETS if rng.random() < 0.06 else VIPS)
    return source, target, 40000 + rng.randrange(12), rng.choice(PORTS)


def pseudo(source: bytes, target: bytes, proto: int, body: bytes) -> bytes:
    return source + target + struct.pack("!HH", proto, len(body)) + body


def tcp(rng: random.Random, ends: MakeEnds = client_ends) -> bytes:
    source, target, *ports = ends(rng)
    options = b"\x01" * (4 * rng.choice((0, 0, 0, 1, 5, 10)))
    flags = rng.choice((2, 2, 16, 16, 24, 17, 18, 4, 20, 0, rng.randrange(256)))
    body = struct.pack(
        "!HHIIBBHHH",
        *ports,
        rng.getrandbits(32),
        rng.getrandbits(32),
        (5 + len(options) // 4) << 4,
        flags,
        512,
        0,
        0,
    )
    body += options + rng.randbytes(rng.randrange(12))
    check = checksum(pseudo(source, target, 6, body))
    body = body[:16] + check.to_bytes(2, "big") + body[18:]
    return ip_packet(rng, source, target, 6, body)


def udp(rng: random.Random, ends: MakeEnds = client_ends) -> bytes:
    source, target, *ports = ends(rng)
    data = rng.randbytes(rng.randrange(12))
    body = struct.pack("!HHHH", *ports, 8 + len(data), 0) + data
    if rng.random() < 0.8:
        check = checksum(pseudo(source, target, 17, body)) or 0xFFFF
        body = body[:6] + check.to_bytes(2, "big") + body[8:]
    return ip_packet(rng, source, target, 17, body)


def with_icmp_sum(body: bytes) -> bytes:
    return body[:2] + checksum(body[:2] + b"\0\0" + body[4:]).to_bytes(2, "big") + body[4:]


def echo(rng: random.Random, ends: MakeEnds = client_ends) -> bytes:
    source, target, *_ = ends(rng)
    data = rng.choice((b"", b"\0" * 8, b"\xff" * 9, rng.randbytes(20)))
    kind = rng.choice((8, 8, 8, 0, 13, rng.randrange(256)))
    body = struct.pack("!BBHHH", kind, rng.choice((0, 0, 0, 1)), 0, rng.randrange(2), 0)
    return ip_packet(rng, source, target, 1, with_icmp_sum(body + data))


def icmp_error(rng: random.Random) -> bytes:
    """About a packet as a machine would have answered, more or less."""
    client, vip = rng.choice(CLIENTS), rng.choice(VIPS)
    proto = rng.choice((6, 6, 17, 17, 1))
    options = rng.choice((b"",) * 4 + (b"\x94\x04\0\0",))
    quoted = struct.pack(
        "!BBHHHBBH4s4s",
        0x45 + len(options) // 4,
        0,
        rng.randrange(28, 1500),
        rng.getrandbits(16),
        rng.choice((0x4000, 0x4000, 0x2000, 0x2001)),
        50,
        proto,
        0,
        vip,
        client,
    )
    quoted += options
    quoted = quoted[:10] + checksum(quoted).to_bytes(2, "big") + quoted[12:]
    quoted += struct.pack("!HH", rng.choice(PORTS), 40000 + rng.randrange(12)) + rng.randbytes(16)
    quoted = quoted[: rng.choice((len(quoted), len(quoted), 28, 27, 20, rng.randrange(44)))]
    body = struct.pack("!BBHI", rng.choice((3, 3, 11, 12, 5)), rng.randrange(5), 0, 1400)
    target = vip if rng.random() < 0.9 else rng.choice(VIPS)
    return ip_packet(rng, rng.choice(CLIENTS), target, 1, with_icmp_sum(body + quoted))


def other(rng: random.Random) -> bytes:
    """No IPv4, another protocol, or noise."""
    choice = rng.randrange(4)
    if choice == 0:
        return rng.randbytes(rng.randrange(14, 80))
    if choice == 1:
        frame = tcp(rng)
        return (
            frame[:12] + rng.choice((b"\x81\0", b"\x86\xdd", b"\x08\x06", b"\0\x2e")) + frame[14:]
        )
    source, target, *_ = client_ends(rng)
    return ip_packet(rng, source, target, rng.randrange(256), rng.randbytes(rng.randrange(40)))


def mutated(rng: random.Random, frame: bytes) -> bytes:
    """A few bytes changed, cut off, or added."""
    changed = bytearray(frame)
    for _ in range(rng.randrange(1, 4)):
        kind = rng.randrange(5)
        at = rng.randrange(min(len(changed), 80))
        if kind == 0:
            changed[at] = rng.randrange(256)
        elif kind == 1:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 3:
            del changed[rng.randrange(14, len(changed) + 1) :]
        else:
            changed += rng.randbytes(rng.randrange(20))
        if len(changed) < 14:
            changed += bytes(14 - len(changed))
    return bytes(changed)


MAKERS: tuple[Callable[[random.Random], bytes], ...] = (
    *(tcp,) * 5,
    *(udp,) * 5,
    *(echo,) * 1,
    *(icmp_error,) * 3,
    *(other,) * 1,
)
