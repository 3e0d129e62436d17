# SPDX-License-Identifier: Apache-2.0
"""udp_stream ADDRESS PORT SECONDS RATE: numbered datagrams of one flow, echoed.

Prints "ready", in the end ``{"sent", "lost", "servers"}``: how many never came
back, and who answered. SECONDS may be ended early by SIGTERM.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sys
import time

ended = False


def end(_number: int, _frame: object) -> None:
    global ended  # noqa: PLW0603 (a signal handler has nothing else)
    ended = True


def main() -> None:
    signal.signal(signal.SIGTERM, end)
    print("ready", flush=True)
    target = (sys.argv[1], int(sys.argv[2]))
    seconds, rate = float(sys.argv[3]), float(sys.argv[4])
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    client = socket.socket(family, socket.SOCK_DGRAM)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    client.connect(target)
    missing: set[int] = set()
    servers: dict[str, int] = {}

    def collect() -> None:
        while True:
            try:
                payload = client.recv(2048, socket.MSG_DONTWAIT).decode()
            except BlockingIOError:
                return
            except ConnectionRefusedError:  # no server just now: it goes on
                continue
            missing.discard(int(payload.rpartition(" ")[2]))
            name = payload.partition(" ")[0]
            servers[name] = servers.get(name, 0) + 1

    started = time.monotonic()
    sent = 0
    while not ended and time.monotonic() - started < seconds:
        missing.add(sent)
        # Refused: an earlier one. Unreachable: the link is away for a moment.
        with contextlib.suppress(OSError):
            client.send(str(sent).encode())
        sent += 1
        collect()
        time.sleep(max(0.0, started + sent / rate - time.monotonic()))
    deadline = time.monotonic() + 2
    while missing and time.monotonic() < deadline:
        collect()
        time.sleep(0.01)
    lost = sorted(missing)
    print(json.dumps({"sent": sent, "lost": len(lost), "which": lost[:20], "servers": servers}))


main()
