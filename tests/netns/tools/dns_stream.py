# SPDX-License-Identifier: Apache-2.0
"""dns_stream NAME SECONDS RATE: asks fdaa::3 for the AAAA records of NAME.

Prints "ready", in the end ``{"asked", "failed", "longest_ms"}``: queries that had
no answer within two seconds, or one without an address. SECONDS may be ended early
by SIGTERM.
"""

from __future__ import annotations

import json
import signal
import socket
import struct
import sys
import time

SERVER = ("fdaa::3", 53)
AAAA, IN, RECURSE = 28, 1, 0x0100
ended = False


def end(_number: int, _frame: object) -> None:
    global ended  # noqa: PLW0603 (a signal handler has nothing else)
    ended = True


def query(number: int, name: str) -> bytes:
    labels = b"".join(bytes((len(part),)) + part for part in name.encode().split(b"."))
    header = struct.pack(">6H", number & 0xFFFF, RECURSE, 1, 0, 0, 0)
    return header + labels + b"\0" + struct.pack(">2H", AAAA, IN)


def answered(client: socket.socket, number: int) -> bool:
    """Whether an answer to this query, with an address, has come."""
    while True:
        try:
            answer = client.recv(4096)
        except TimeoutError:
            return False
        ident, _, _, answers = struct.unpack(">4H", answer[:8])
        if ident == number & 0xFFFF:
            return answers > 0


def main() -> None:
    signal.signal(signal.SIGTERM, end)
    print("ready", flush=True)
    name, seconds, rate = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    client = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    client.settimeout(2.0)
    client.connect(SERVER)
    started = time.monotonic()
    asked = failed = 0
    longest = 0.0
    while not ended and time.monotonic() - started < seconds:
        asked += 1
        begun = time.monotonic()
        client.send(query(asked, name))
        failed += not answered(client, asked)
        longest = max(longest, time.monotonic() - begun)
        time.sleep(max(0.0, started + asked / rate - time.monotonic()))
    print(json.dumps({"asked": asked, "failed": failed, "longest_ms": round(1000 * longest, 1)}))


main()
