# SPDX-License-Identifier: Apache-2.0
"""matrix: who reaches whom, by TCP, UDP and ICMP(v6) echo, all at once.

One process with sockets in the namespaces of all nodes. Reads from standard
input ``{"nodes": [{"namespace", "address"}, …], "expected": [[i, j], …]}``;
addresses are all of one family. Goes on until every expected pair has passed
in every protocol (or for 60 s), then asks everybody once more and listens for
another second. Prints ``{"arrived": {protocol: pairs}, "answered": {…},
"strange": [...]}``: what nodes received, and what came back.
"""

from __future__ import annotations

import contextlib
import errno
import json
import resource
import select
import socket
import struct
import sys
import time
from collections import defaultdict
from ipaddress import ip_address
from typing import Any

from flyebpf.lab.net import inside

TCP_PORT, UDP_PORT = 7001, 7002
PATIENCE, ROUND, LISTEN = 60.0, 1.5, 1.0
PROTOCOLS = ("tcp", "udp", "icmp")
Pair = tuple[int, int]


class Matrix:
    def __init__(self, nodes: list[dict[str, str]]) -> None:
        self.nodes = nodes
        self.v6 = ip_address(nodes[0]["address"]).version == 6
        self.family = socket.AF_INET6 if self.v6 else socket.AF_INET
        self.number = {node["address"]: number for number, node in enumerate(nodes)}
        self.arrived: dict[str, set[Pair]] = defaultdict(set)
        self.answered: dict[str, set[Pair]] = defaultdict(set)
        self.strange: list[str] = []
        self.poll = select.epoll()
        self.handlers: dict[int, tuple[Any, Any]] = {}
        self.udp: list[socket.socket] = []
        self.icmp: list[socket.socket] = []
        self.connecting: dict[Pair, socket.socket] = {}
        for number, node in enumerate(nodes):
            with inside(node["namespace"]):
                self.serve(number)

    def serve(self, me: int) -> None:
        listener = self.socket(socket.SOCK_STREAM)
        listener.bind(("", TCP_PORT))
        listener.listen(4096)
        self.watch(listener, select.EPOLLIN, lambda: self.accept(me, listener))
        udp = self.socket(socket.SOCK_DGRAM)
        udp.bind(("", UDP_PORT))
        self.watch(udp, select.EPOLLIN, lambda: self.datagrams(me, udp))
        self.udp.append(udp)
        protocol = socket.IPPROTO_ICMPV6 if self.v6 else socket.IPPROTO_ICMP
        icmp = self.socket(socket.SOCK_RAW, protocol)
        self.watch(icmp, select.EPOLLIN, lambda: self.echoes(me, icmp))
        self.icmp.append(icmp)

    def socket(self, kind: int, protocol: int = 0) -> socket.socket:
        made = socket.socket(self.family, kind | socket.SOCK_NONBLOCK, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return made

    def watch(self, what: socket.socket, events: int, handler: Any) -> None:
        self.handlers[what.fileno()] = (what, handler)
        self.poll.register(what.fileno(), events)

    def forget(self, what: socket.socket) -> None:
        self.poll.unregister(what.fileno())
        del self.handlers[what.fileno()]
        what.close()

    # What comes in.

    def accept(self, me: int, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, source = listener.accept()
                connection.close()
                self.note("tcp", source[0], me)

    def datagrams(self, me: int, udp: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                payload, source = udp.recvfrom(2048)
                kind, one, other = payload.decode().split()
                pair = (int(one), int(other))
                if kind == "ask":
                    self.note("udp", source[0], me)
                    with contextlib.suppress(OSError):
                        udp.sendto(f"answer {one} {other}".encode(), source)
                elif self.number.get(source[0]) == pair[1] and pair[0] == me:
                    self.answered["udp"].add(pair)
                else:
                    self.strange.append(f"{me} got {payload!r} from {source[0]}")

    def echoes(self, me: int, icmp: socket.socket) -> None:
        ask, answer = (128, 129) if self.v6 else (8, 0)
        with contextlib.suppress(BlockingIOError):
            while True:
                payload, source = icmp.recvfrom(2048)
                if not self.v6:
                    payload = payload[4 * (payload[0] & 15) :]
                kind, _, _, one, other = struct.unpack("!BBHHH", payload[:8])
                if kind == ask:
                    self.note("icmp", source[0], me)
                elif kind == answer and one == me and self.number.get(source[0]) == other:
                    self.answered["icmp"].add((me, other))

    def note(self, protocol: str, source: str, me: int) -> None:
        sender = self.number.get(source)
        if sender is None:
            self.strange.append(f"{me} got {protocol} from {source}")
        else:
            self.arrived[protocol].add((sender, me))

    # What goes out.

    def ask(self) -> None:
        """Everybody asks everybody who has not answered yet."""
        count = len(self.nodes)
        for me, node in enumerate(self.nodes):
            with inside(node["namespace"]):
                for other in range(count):
                    if other != me:
                        self.ask_one(me, other)
            self.run(0)

    def ask_one(self, me: int, other: int) -> None:
        address, pair = self.nodes[other]["address"], (me, other)
        with contextlib.suppress(OSError):  # refused by the node's own routes
            if pair not in self.answered["udp"]:
                self.udp[me].sendto(f"ask {me} {other}".encode(), (address, UDP_PORT))
            if pair not in self.answered["icmp"]:
                self.icmp[me].sendto(self.echo(me, other), (address, 0))
        if pair not in self.answered["tcp"] and pair not in self.connecting:
            connection = self.socket(socket.SOCK_STREAM)
            code = connection.connect_ex((address, TCP_PORT))
            if code != errno.EINPROGRESS:
                connection.close()
                return
            self.connecting[pair] = connection
            self.watch(connection, select.EPOLLOUT, lambda: self.connected(pair, connection))

    def echo(self, me: int, other: int) -> bytes:
        if self.v6:  # the kernel adds the checksum
            return struct.pack("!BBHHH", 128, 0, 0, me, other)
        total = 0x0800 + me + other
        total = (total & 0xFFFF) + (total >> 16)
        return struct.pack("!BBHHH", 8, 0, ~total & 0xFFFF, me, other)

    def connected(self, pair: Pair, connection: socket.socket) -> None:
        failed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self.forget(connection)
        del self.connecting[pair]
        if not failed:
            self.answered["tcp"].add(pair)

    def run(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            ready = self.poll.poll(max(0.0, min(left, 0.1)))
            for descriptor, _ in ready:
                if descriptor in self.handlers:
                    self.handlers[descriptor][1]()
            if left <= 0 and not ready:
                return

    def complete(self, expected: set[Pair]) -> bool:
        return all(expected <= self.answered[name] for name in PROTOCOLS)


def main() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (16384, 16384))
    wanted = json.load(sys.stdin)
    matrix = Matrix(wanted["nodes"])
    expected = {(one, other) for one, other in wanted["expected"]}
    deadline = time.monotonic() + PATIENCE
    matrix.ask()
    while not matrix.complete(expected) and time.monotonic() < deadline:
        matrix.run(ROUND)
        matrix.ask()
    matrix.ask()
    matrix.run(LISTEN)
    print(
        json.dumps(
            {
                "arrived": {name: sorted(matrix.arrived[name]) for name in PROTOCOLS},
                "answered": {name: sorted(matrix.answered[name]) for name in PROTOCOLS},
                "strange": matrix.strange[:20],
            }
        )
    )


main()
