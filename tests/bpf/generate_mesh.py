# SPDX-License-Identifier: Apache-2.0
"""Random frames from the mesh, of raw bytes: in most of them all but a field or
two is what another host would send."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable

from tests import packets as p
from tests import packets6 as p6
from tests.bpf import generate
from tests.bpf.arithmetic import TCP, checksum
from tests.bpf.generate import CLIENTS, MAKERS, VIPS

OTHER = 0x80000007
"""One more host."""
ALIASES = [socket.inet_aton(a) for a in (p.alias_ip(4), p.alias_ip(2), "100.64.9.9")]
PORTS = [8080, 5353, 443, 6000, 2222, 80, 82, 0, 9]
TARGETS = ["10.1.2.3", "192.88.99.1", "192.0.2.1", "172.16.0.2", "127.0.0.1", p.VIP2, "224.0.0.1"]
ETHER = bytes(12)


def number(rng: random.Random, usual: int, *others: int) -> int:
    return usual if rng.random() < 0.93 else rng.choice((*others, 0, rng.getrandbits(32)))


def address(host: int, network: int, machine: int, suffix: int) -> bytes:
    """In mesh form."""
    return struct.pack("!HIIIH", 0xFDAA, host, network, machine, suffix)


def hosts(rng: random.Random) -> tuple[int, int]:
    """Sender and receiver."""
    sender = rng.choice((p6.OTHER_HOST, p6.OTHER_HOST, OTHER))
    return (
        number(rng, sender, p6.NO_HOST, p6.HOST, p6.NETWORK),
        number(rng, p6.HOST, p6.OTHER_HOST, p6.NETWORK),
    )


def outer(rng: random.Random, src: bytes, dst: bytes, proto: int, body: bytes) -> bytes:
    length = len(body) if rng.random() < 0.98 else rng.randrange(2 * len(body) + 1)
    version = 0x60000000 if rng.random() < 0.99 else rng.getrandbits(32)
    hops = 64 if rng.random() < 0.95 else rng.choice((255, 254, 0))
    header = struct.pack("!IHBB", version, length, proto, hops)
    return ETHER + b"\x86\xdd" + header + src + dst + body


def from_host(rng: random.Random, machine: int, suffix: int, frame: bytes) -> bytes:
    """A frame's IPv4 packet, with a header of the mesh before it."""
    sender, receiver = hosts(rng)
    network = number(rng, 0, p6.NETWORK)
    src = address(sender, number(rng, 0, network), number(rng, 0, 16), number(rng, 1) & 0xFFFF)
    dst = address(receiver, network, machine, suffix)
    proto = 4 if rng.random() < 0.97 else rng.choice((41, 17, 6, 58, rng.randrange(256)))
    return outer(rng, src, dst, proto, frame[14:])


def from_alias(frame: bytes, source: bytes) -> bytes:
    """The same packet from a VM of another host."""
    changed = bytearray(frame)
    changed[26:30] = source
    header = 14 + (frame[14] & 15) * 4
    changed[24:26] = b"\0\0"
    changed[24:26] = checksum(bytes(changed[14:header])).to_bytes(2, "big")
    return bytes(changed)


def client(rng: random.Random) -> bytes:
    """A client's packet for a machine here."""
    frame = rng.choice(MAKERS)(rng)
    if len(frame) > 34 and rng.random() < 0.15:
        frame = from_alias(frame, rng.choice(ALIASES))
    machine = p6.machine_of(rng.choice((1, 1, 1, 2, 2, 3, 4)))
    port = rng.choice(PORTS)
    return from_host(rng, number(rng, machine, PEER_FIELD), port, frame)


PEER_FIELD = p6.PEER


def with_mss(rng: random.Random) -> bytes:
    """A SYN with options."""
    options = b"\x01" * rng.choice((0, 0, 1, 2, 3, 11))
    options += rng.choice((b"\x04\x02", b"", b"\x03\x03\x07", b"\x08\x01", b"\0"))
    options += b"\x02\x04" + rng.choice((1460, 1300, 1299, 9000, 0)).to_bytes(2, "big")
    options = (options + b"\x01" * 3)[: len(options) + 3 & ~3]
    source = rng.choice((*CLIENTS, *ALIASES))
    target = rng.choice(VIPS)
    body = struct.pack("!HHIIBBHHH", 40000, 80, 1, 0, 5 + len(options) // 4 << 4, 2, 512, 0, 0)
    frame = generate.ip_packet(rng, source, target, TCP, body + options)
    return from_host(rng, p6.machine_of(1), 8080, frame)


def answer_ends(rng: random.Random) -> generate.Ends:
    target = rng.choice((*CLIENTS, *ALIASES))
    if rng.random() < 0.1:
        target = socket.inet_aton(rng.choice(TARGETS))
    return rng.choice(VIPS), target, rng.choice((90, 90, 90, 80)), 40000 + rng.randrange(4)


def answer(rng: random.Random) -> bytes:
    """A reply on its way back to a client of this host."""
    make = rng.choice((generate.tcp, generate.udp, generate.udp, generate.echo))
    return from_host(rng, 0, number(rng, 0, 1) & 0xFFFF, make(rng, answer_ends))


def sixpn(rng: random.Random) -> bytes:
    """Between machines of a network."""
    sender, receiver = hosts(rng)
    target = rng.choice((1, 2, 3, 4))
    network = p6.network_of(target)
    src = address(
        sender, number(rng, network, p6.OTHER_NETWORK), number(rng, 0x1234, PEER_FIELD), 2
    )
    machine = number(rng, p6.machine_of(target), PEER_FIELD, p6.machine_of(4))
    dst = address(receiver, number(rng, network, p6.NETWORK), machine, rng.getrandbits(16))
    return outer(rng, src, dst, rng.randrange(256), rng.randbytes(rng.randrange(40)))


def plain(rng: random.Random) -> bytes:
    """IPv4 or something else without a header of the mesh."""
    inside = [socket.inet_aton(a) for a in ("172.16.0.2", "172.16.9.9", "100.64.0.2", "192.0.2.9")]
    frame = generate.ip_packet(rng, rng.choice(inside), rng.choice(inside), 6, bytes(20))
    kind = b"\x08\x00" if rng.random() < 0.8 else rng.choice((b"\x08\x06", b"\x81\0"))
    return frame[:12] + kind + frame[14:]


MESH_MAKERS: tuple[Callable[[random.Random], bytes], ...] = (
    *(client,) * 8,
    *(with_mss,) * 1,
    *(answer,) * 4,
    *(sixpn,) * 4,
    *(plain,) * 1,
)
