# SPDX-License-Identifier: Apache-2.0
"""hostile: a VM that sends what it must not, as fast as it can, from a raw socket.

Reads one line from standard input: ``{"namespace", "mark", "seed", "count",
"mac", "gateway": MAC, "macs": [...], "own": [IPv4, IPv6], "v4": [...], "v6":
[...], "net6": [...], "public4": [...]}``. ``v4`` and ``v6`` are addresses that the
VM may not reach; ``net6``, of its own network, and ``public4`` it only sends to
with a source or a MAC that is not its own. Every frame carries the mark and breaks
a rule. ``count`` 0: until SIGTERM; then "ready" is printed first. Prints ``{"sent", "refused"}``.
"""

from __future__ import annotations

import json
import random
import signal
import socket
import struct
import sys
from ipaddress import ip_address

from flyebpf.lab.net import inside

EXTENSIONS = (0, 43, 60, 44, 51, 135)  # hop-by-hop, routing, destination, fragment, AH, mobility
GROUPS = ("ff02::1", "ff02::2", "ff02::16", "ff05::2", "ff02::1:ff00:2")

ended: list[int] = []


class Hostile:
    def __init__(self, wanted: dict[str, object]) -> None:
        self.rng = random.Random(wanted["seed"])
        self.mark = str(wanted["mark"]).encode()
        self.mac = mac(wanted["mac"])
        self.gateway = mac(wanted["gateway"])
        self.macs = [mac(text) for text in wanted["macs"]]  # type: ignore[attr-defined]
        self.own4, self.own6 = (packed(text) for text in wanted["own"])  # type: ignore[attr-defined]
        self.v4 = [packed(text) for text in wanted["v4"]]  # type: ignore[attr-defined]
        self.v6 = [packed(text) for text in wanted["v6"]]  # type: ignore[attr-defined]
        self.public4 = [packed(text) for text in wanted["public4"]]  # type: ignore[attr-defined]
        self.net6 = [packed(text) for text in wanted["net6"]]  # type: ignore[attr-defined]

    def frame(self) -> bytes:
        make = self.rng.choice((self.ipv6, self.ipv6, self.ipv6, self.ipv4, self.ipv4, self.other))
        return make()

    def ether(self, kind: int, forged: bool) -> bytes:
        """``forged``: the rule that the frame breaks is its source MAC."""
        source = self.rng.choice(self.macs) if forged else self.mac
        target = self.rng.choice((self.gateway, self.gateway, *self.macs, b"\xff" * 6))
        return target + source + struct.pack("!H", kind)

    def ipv6(self) -> bytes:
        rng = self.rng
        way = rng.random()
        source, target, forged = self.own6, rng.choice(self.v6), False
        if way < 0.3:  # into its own network, as somebody else
            source, target = rng.choice(self.v6 + self.net6), rng.choice(self.net6)
        elif way < 0.4:
            target, forged = rng.choice(self.net6), True
        elif way < 0.5:  # one bit of an address that is out of reach is another
            target = self.flipped(target)
        elif way < 0.55:
            target = packed(rng.choice(GROUPS))
        if rng.random() < 0.2:
            source = rng.choice(self.v6)
        proto, body = self.body(source, target)
        for _ in range(rng.choice((0, 0, 0, 1, 2))):
            proto, body = self.extension(proto, body)
        length = len(body) if rng.random() < 0.95 else rng.randrange(65536)
        hops = rng.choice((64, 64, 255, 1, 0))
        head = struct.pack("!IHBB", 6 << 28 | rng.getrandbits(20), length, proto, hops)
        return self.ether(0x86DD, forged) + head + source + target + body

    def flipped(self, address: bytes) -> bytes:
        """One bit of its fields is another. Not of its own network then: the
        machine's host drops that, not this one."""
        while True:
            number = int.from_bytes(address, "big") ^ 1 << self.rng.randrange(16, 112)
            changed = number.to_bytes(16, "big")
            if changed[2:6] != self.own6[2:6]:
                return changed

    def extension(self, proto: int, body: bytes) -> tuple[int, bytes]:
        kind = self.rng.choice(EXTENSIONS)
        if kind == 44:
            offset = self.rng.choice((0, 1, 8, 0x1FF8)) << 3 & 0xFFF8
            head = struct.pack("!BBHI", proto, 0, offset | self.rng.getrandbits(1), 7)
        else:
            head = struct.pack("!BB", proto, 0) + self.rng.randbytes(6)
        return kind, head + body

    def body(self, source: bytes, target: bytes) -> tuple[int, bytes]:
        """An upper layer with the mark in it, its checksum right more often than not."""
        rng = self.rng
        ports = struct.pack(
            "!HH", rng.choice((53, 67, 547, 5000, 8080)), rng.choice((53, 80, 8080))
        )
        kind = rng.random()
        if kind < 0.4:
            proto, at = 17, 6
            body = ports + struct.pack("!HH", 8 + len(self.mark), 0) + self.mark
        elif kind < 0.7:
            proto, at = 6, 16
            flags = rng.choice((2, 16, 18, 4, 24))
            body = ports + struct.pack("!IIBBHHH", 1, 1, 0x50, flags, 1024, 0, 0) + self.mark
        elif kind < 0.95:
            proto, at = 58, 2
            code = rng.choice((128, 129, 133, 134, 135, 136, 137, 1, 2, 143))
            body = struct.pack("!BBHI", code, 0, 0, rng.getrandbits(32)) + target + self.mark
        else:
            return rng.randrange(256), rng.randbytes(8) + self.mark
        if rng.random() < 0.8:
            check = checksum(source + target + struct.pack("!II", len(body), proto) + body)
            body = body[:at] + struct.pack("!H", check) + body[at + 2 :]
        return proto, body

    def ipv4(self) -> bytes:
        rng = self.rng
        source, target = self.own4, rng.choice(self.v4)
        if rng.random() < 0.3:
            source, target = rng.choice(self.v4), rng.choice(self.v4 + self.public4)
        proto, body = self.body(source, target)
        options = rng.choice((b"", b"", b"", b"\x01" * 4, b"\x83\x07\x04" + target + b"\0"))
        fragment = rng.choice((0, 0, 0, 0x4000, 0x2000, 0x0010))
        head = struct.pack(
            "!BBHHHBBH4s4s", 0x45 + len(options) // 4, 0, 20 + len(options) + len(body), 9,
            fragment, rng.choice((64, 64, 1)), 1 if proto == 58 else proto, 0, source, target,
        )  # fmt: skip
        check = struct.pack("!H", checksum(head + options))
        return self.ether(0x0800, False) + head[:10] + check + head[12:] + options + body

    def other(self) -> bytes:
        rng = self.rng
        if rng.random() < 0.5:  # ARP, as somebody else
            claim = struct.pack("!HHBBH", 1, 0x0800, 6, 4, rng.choice((1, 2)))
            claim += rng.choice(self.macs) + rng.choice(self.v4) + self.mac + rng.choice(self.v4)
            return self.ether(0x0806, False) + claim + self.mark
        kind = rng.choice((0x8100, 0x88A8, 0x88CC, 0x8847, 0x0802, rng.randrange(0x0600, 0x10000)))
        if kind in (0x0800, 0x0806, 0x86DD):
            kind = 0x88CC
        inner = struct.pack("!HH", 5, 0x86DD) if kind in (0x8100, 0x88A8) else b""
        return self.ether(kind, False) + inner + self.ipv6()[14:]


def mac(text: object) -> bytes:
    return bytes.fromhex(str(text).replace(":", ""))


def packed(text: str) -> bytes:
    return ip_address(text).packed


def checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def main() -> None:
    wanted = json.loads(sys.stdin.readline())
    sender = Hostile(wanted)
    with inside(wanted["namespace"]):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        raw.bind(("eth0", 0))
    signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
    sent = refused = 0
    if not wanted["count"]:
        print("ready", flush=True)
    while not ended and (not wanted["count"] or sent + refused < wanted["count"]):
        try:
            raw.send(sender.frame())
            sent += 1
        except OSError:  # the link is down
            refused += 1
    print(json.dumps({"sent": sent, "refused": refused}))


main()
