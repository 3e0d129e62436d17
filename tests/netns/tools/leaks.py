# SPDX-License-Identifier: Apache-2.0
"""leaks: looks for frames with a mark in them where none may be.

Reads one line from standard input: ``{"mark": text, "listen": [{"namespace",
"interfaces": [...], "local": bool, "incoming": bool}, …]}``. Listens on the
interfaces (none given: on all but lo), both ways unless ``incoming``, and, with
``local``, for what the namespace's own stack is given. Prints "ready" and, on
SIGTERM, ``{"leaks": [...], "seen": frames, "missed": frames}``.
"""

from __future__ import annotations

import json
import select
import signal
import socket
import struct
import sys
import time

from flyebpf.lab.net import inside

ETH_P_ALL, PACKET_OUTGOING = 3, 4
SOL_PACKET, PACKET_STATISTICS = 263, 6
LOCAL = (
    (socket.AF_INET, (socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMP, 132)),
    (socket.AF_INET6, (socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMPV6, 132)),
)
LAST = 0.5  # seconds to listen after the signal

ended: list[float] = []


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: ended.append(time.monotonic() + LAST))
    wanted = json.loads(sys.stdin.readline())
    mark = wanted["mark"].encode()
    named: dict[int, tuple[str, socket.socket, bool]] = {}
    for place in wanted["listen"]:
        with inside(place["namespace"]):
            for name, opened in sockets(place):
                incoming = bool(place.get("incoming"))
                named[opened.fileno()] = (f"{place['namespace']} {name}", opened, incoming)
    poll = select.epoll()
    for descriptor in named:
        poll.register(descriptor, select.EPOLLIN)
    print("ready", flush=True)
    leaks: dict[str, list[str]] = {}
    seen = 0
    while not ended or time.monotonic() < ended[0]:
        for descriptor, _ in poll.poll(0.1):
            name, opened, incoming = named[descriptor]
            for _ in range(256):
                try:
                    frame, origin = opened.recvfrom(65_535, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    break
                if incoming and origin[2] == PACKET_OUTGOING:
                    continue
                seen += 1
                if mark in frame:
                    leaks.setdefault(name, []).append(frame[:120].hex())
    print(
        json.dumps(
            {
                "leaks": [[name, len(found), found[:3]] for name, found in leaks.items()],
                "seen": seen,
                "missed": sum(missed(opened) for _, opened, _ in named.values()),
            }
        )
    )


def sockets(place: dict[str, object]) -> list[tuple[str, socket.socket]]:
    """Made in the thread's namespace."""
    names = place.get("interfaces") or [name for _, name in socket.if_nameindex() if name != "lo"]
    assert isinstance(names, list)
    found = []
    for name in names:
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 20)
        tap.bind((name, ETH_P_ALL))
        found.append((str(name), tap))
    if place.get("local"):
        for family, protocols in LOCAL:
            for protocol in protocols:
                raw = socket.socket(family, socket.SOCK_RAW, protocol)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
                found.append((f"stack, protocol {protocol}", raw))
    return found


def missed(opened: socket.socket) -> int:
    """Frames that a tap had no room for."""
    if opened.family != socket.AF_PACKET:
        return 0
    _, dropped = struct.unpack("=II", opened.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
    return int(dropped)


main()
