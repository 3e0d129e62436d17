# SPDX-License-Identifier: Apache-2.0
"""Random IPv6 frames of a machine that means no good, of raw bytes."""

from __future__ import annotations

import random
import socket
import struct

from tests import packets as p
from tests import packets6 as p6
from tests.bpf.arithmetic import checksum
from tests.bpf.arithmetic6 import FRAGMENT, HOP_BY_HOP, ICMP6, OPTIONS, ROUTING, TCP, UDP
from tests.bpf.rig import mac_bytes

SENDERS = (1, 4)


def packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6, address)


OWN = {n: [packed(p6.address(n)), packed(p6.address(n, 0)), packed(p6.address(n, 0xFFFF))]
       for n in SENDERS}  # fmt: skip
LINK = {n: packed(p6.link_local(n)) for n in SENDERS}
MACS = {n: mac_bytes(p.vm_mac(n)) for n in SENDERS}
GATEWAYS = {n: mac_bytes(p.gateway_mac(n)) for n in SENDERS}
GATEWAY, NOBODY = packed(p6.GATEWAY), bytes(16)

SIXPN = [
    packed(text)
    for text in (
        *(p6.address(n) for n in (1, 2, 3, 4, 5)),
        p6.address(2, 0x77),
        *(p6.remote(9, network=network) for network in (p6.NETWORK, p6.OTHER_NETWORK)),
        p6.remote(9, p6.NO_HOST),
        p6.peer(),
        p6.peer(network=p6.OTHER_NETWORK),
        p6.sixpn(p6.NETWORK, p6.OTHER_HOST, 10, 258),
        p6.flycast(),
        p6.flycast(p6.OTHER_NETWORK),
        p6.NAMESERVER,
        "fdaa::4",
        p6.sixpn(p6.NETWORK, 0, 0, 3),
        p6.sixpn(p6.NETWORK, p6.HOST, 0),
        p6.sixpn(p6.HOST, p6.NETWORK, p6.machine_of(2)),
        p6.sixpn(p6.OTHER_HOST, p6.NETWORK, 9),
        p6.sixpn(p6.OTHER_HOST, 0, 0, 1),
        p6.sixpn(p6.NETWORK, p6.HOST, p6.machine_of(4)),
        p6.sixpn(p6.OTHER_NETWORK, p6.HOST, p6.machine_of(1)),
        p6.sixpn(p6.NETWORK, 2, 9),
    )
]
NEAR = [packed(p6.address(2)), packed(p6.address(3)), packed(p6.remote(9)), packed(p6.address(4))]
LINKS = [packed(text) for text in (p6.GATEWAY, "fe80::2", p6.link_local(2), "fe80:0:0:1::1")]
GROUPS = [packed(t) for t in ("ff02::1", "ff02::2", "ff02::16", "ff02::1:2", "ff0e::1", "ff02::fb")]
OTHERS = [packed(t) for t in ("2001:db8::1", "::1", "::", "::ffff:1.2.3.4", "fdab::1", "fec0::1")]


def group_of(target: bytes) -> bytes:
    return packed("ff02::1:ff00:0")[:13] + target[13:]


def source(rng: random.Random, sender: int) -> bytes:
    """Its own most of the time; near to that else."""
    kind = rng.random()
    if kind < 0.75:
        return rng.choice(OWN[sender])
    if kind < 0.85:
        return LINK[sender]
    if kind < 0.92:
        address = bytearray(OWN[sender][0])
        address[rng.randrange(14)] ^= 1 << rng.randrange(8)
        return bytes(address)
    return rng.choice((*SIXPN, *LINKS, *GROUPS, *OTHERS))


def target(rng: random.Random) -> bytes:
    kind = rng.random()
    if kind < 0.45:
        return rng.choice(NEAR)
    if kind < 0.8:
        return rng.choice(SIXPN)
    if kind < 0.87:
        address = bytearray(rng.choice(SIXPN))
        address[rng.randrange(16)] ^= 1 << rng.randrange(8)
        return bytes(address)
    return rng.choice((*LINKS, *GROUPS, *OTHERS))


def tcp(rng: random.Random) -> bytes:
    options = rng.choice(
        (
            b"",
            b"\x02\x04" + struct.pack("!H", rng.choice((536, 1320, 1321, 1440, 65535))),
            b"\x01\x02\x04\x05\xa0\x01\x01\x01",
            b"\x03\x03\x07\x02\x04\x05\xa0\x00",
            b"\x04\x02\x08\x0a" + bytes(8) + b"\x02\x04\x23\x00",
            b"\x01" * rng.choice((4, 8, 40)),
            rng.randbytes(8),
        )
    )
    offset = 5 + len(options) // 4
    if rng.random() < 0.05:
        offset = rng.randrange(16)
    flags = rng.choice((2, 2, 18, 16, 24, 17, 4, rng.randrange(256)))
    header = struct.pack("!HHIIBBHHH", 50000, 5432, 1, 2, offset << 4, flags, 512, 0xBEEF, 0)
    return header + options + rng.randbytes(rng.randrange(16))


def udp(rng: random.Random) -> bytes:
    ports = rng.choice(((50000, 9), (547, 546), (546, 547), (547, 547), (53, 53)))
    data = rng.randbytes(rng.randrange(16))
    return struct.pack("!HHHH", *ports, 8 + len(data), 0x1234) + data


def icmp(rng: random.Random) -> bytes:
    kind = rng.choice((128, 128, 129, 1, 2, 3, 4, 130, 131, 132, 143, 134, 137, 160, 255))
    if rng.random() < 0.1:
        kind = rng.randrange(256)
    return bytes((kind, rng.choice((0, 0, 0, 1)))) + rng.randbytes(6 + rng.randrange(16))


UPPERS = ((TCP, tcp), (TCP, tcp), (UDP, udp), (UDP, udp), (ICMP6, icmp))


def extended(rng: random.Random, proto: int, body: bytes) -> tuple[int, bytes]:
    """Extension headers before it, good ones and others."""
    for _ in range(rng.choice((1, 1, 2, 3, 6, 7))):
        kind = rng.choice((HOP_BY_HOP, ROUTING, FRAGMENT, FRAGMENT, OPTIONS, OPTIONS))
        if kind == FRAGMENT:
            offset = rng.choice((0, 1, 1, 8, 9, 0xFFF8, 6))
            header = struct.pack("!BBHI", proto, 0, offset, rng.getrandbits(32))
        else:
            units = rng.choice((0, 0, 0, 1, 2)) if rng.random() < 0.95 else rng.randrange(256)
            left = rng.choice((0, 0, 1)) if kind == ROUTING else 1
            header = bytes((proto, units, 0, left)) + bytes(4 + 8 * min(units, 4))
        proto, body = kind, header + body
    return proto, body


def ethernet(rng: random.Random, sender: int, group: bool) -> bytes:
    to, mac = GATEWAYS[sender], MACS[sender]
    if group or rng.random() < 0.02:
        to = b"\x33\x33\x00\x00\x00\x01"
    if rng.random() < 0.01:
        mac = rng.choice((MACS[5 - sender], GATEWAYS[sender], to))
    return to + mac + b"\x86\xdd"


def frame(
    rng: random.Random, sender: int, ends: tuple[bytes, bytes], upper: tuple[int, bytes], hops: int
) -> bytes:
    """``ends``: source and destination; ``upper``: next header and what follows."""
    proto, body = upper
    length = len(body)
    if rng.random() < 0.03:
        length = rng.choice((0, length - 1, length + 1, 7, 65535)) & 0xFFFF
    version = 0x60000000 if rng.random() < 0.98 else rng.getrandbits(32)
    header = struct.pack("!IHBB", version | rng.getrandbits(20), length, proto, hops)
    padding = rng.randbytes(rng.randrange(1, 12)) if rng.random() < 0.05 else b""
    return ethernet(rng, sender, ends[1][0] == 0xFF) + header + ends[0] + ends[1] + body + padding


def data(rng: random.Random, sender: int) -> bytes:
    """Something for another machine, or what looks like it."""
    proto, make = rng.choice(UPPERS)
    body = make(rng)
    kind = rng.random()
    if kind < 0.05:
        body += bytes(rng.choice((1230, 1290, 1310, 1318, 1319, 1320, 1330, 1332, 1340, 1380)))
    elif kind < 0.1:
        proto = rng.choice((4, 41, 47, 50, 51, 59, 132, 135, rng.randrange(256)))
    elif kind < 0.15:
        body = body[: rng.randrange(21)]
    if rng.random() < 0.25:
        proto, body = extended(rng, proto, body)
    hops = rng.choice((64, 64, 64, 255, 2, 1, 0))
    return frame(rng, sender, (source(rng, sender), target(rng)), (proto, body), hops)


def neighbour(rng: random.Random, sender: int) -> bytes:
    """A neighbour or router message, right in most parts."""
    kind = rng.choice((135, 135, 135, 136, 136, 133, 134, 137))
    about = rng.choice(
        (GATEWAY, GATEWAY, *OWN[sender], LINK[sender], *NEAR, *LINKS, *SIXPN, NOBODY)
    )
    src = rng.choice((OWN[sender][0], OWN[sender][0], LINK[sender], NOBODY, source(rng, sender)))
    dst = rng.choice((group_of(about), group_of(about), about, packed("ff02::1"), target(rng)))
    mac = MACS[sender] if rng.random() < 0.9 else rng.choice((MACS[5 - sender], GATEWAYS[sender]))
    body = bytes((kind, 0, 0, 0, 0, 0, 0, 0)) + (about if kind != 133 else b"")
    for _ in range(rng.choice((0, 1, 1, 2, 3, 4))):
        size = 1 if rng.random() < 0.95 else rng.randrange(5)
        body += bytes((rng.choice((1, 2, 14, rng.randrange(256))), size)) + mac
    if rng.random() < 0.05:
        body = body[: rng.randrange(8, len(body) + 1)]
    if rng.random() < 0.95:
        covered = src + dst + struct.pack("!II", len(body), ICMP6) + body
        body = body[:2] + checksum(covered).to_bytes(2, "big") + body[4:]
    proto = ICMP6
    if rng.random() < 0.05:
        proto, body = extended(rng, proto, body)
    hops = 255 if rng.random() < 0.95 else rng.choice((64, 254, 1))
    return frame(rng, sender, (src, dst), (proto, body), hops)


def echo(rng: random.Random, sender: int) -> bytes:
    """A ping of the gateway, or nearly."""
    body = bytes((128, 0 if rng.random() < 0.95 else 1)) + rng.randbytes(6 + rng.randrange(32))
    proto = ICMP6
    if rng.random() < 0.1:
        proto, body = extended(rng, proto, body)
    dst = GATEWAY if rng.random() < 0.9 else rng.choice(LINKS)
    return frame(rng, sender, (source(rng, sender), dst), (proto, body), 64)


def mutated(rng: random.Random, whole: bytes) -> bytes:
    """Some bytes changed, bits turned, cut off, or added; it stays IPv6."""
    changed = bytearray(whole)
    for _ in range(rng.randrange(1, 4)):
        kind, at = rng.randrange(6), rng.randrange(min(len(changed), 110))
        if kind == 0:
            changed[at] = rng.randrange(256)
        elif kind in (1, 2):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 3:
            changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 4:
            del changed[rng.randrange(54, len(changed) + 1) :]
        else:
            changed += rng.randbytes(rng.randrange(20))
    changed[12:14] = b"\x86\xdd"
    return bytes(changed)


def anything(rng: random.Random, sender: int) -> bytes:
    kind = rng.random()
    make = data if kind < 0.7 else neighbour if kind < 0.9 else echo
    made = make(rng, sender)
    return mutated(rng, made) if rng.random() < 0.3 else made
