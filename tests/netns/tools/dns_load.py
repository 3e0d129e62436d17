# SPDX-License-Identifier: Apache-2.0
"""dns_load SERVER RATE QUERY…: queries by UDP, each as hex, in turn.

RATE: a second; 0: as fast as it goes, and nobody looks at the answers. Prints
"ready", and on SIGTERM ``{"sent", "lost", "late"}``: how many were not answered,
and the 99th percentile of the seconds that answers took.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import time

ended = False
WAIT = 3.0  # seconds for the last answers


def end(_number: int, _frame: object) -> None:
    global ended  # noqa: PLW0603 (a signal handler has nothing else)
    ended = True


class Load:
    def __init__(self, server: str, queries: list[bytes]) -> None:
        self.socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.connect((server, 53))
        self.socket.setblocking(False)
        self.queries = queries
        self.sent = 0
        self.due: dict[int, float] = {}
        self.times: list[float] = []

    def send(self) -> None:
        number = self.sent & 0xFFFF
        query = self.queries[self.sent % len(self.queries)]
        self.due[number] = time.monotonic()
        self.socket.send(number.to_bytes(2, "big") + query[2:])
        self.sent += 1

    def collect(self) -> None:
        while True:
            try:
                answer = self.socket.recv(4096)
            except BlockingIOError:
                return
            begun = self.due.pop(int.from_bytes(answer[:2], "big"), None)
            if begun is not None:
                self.times.append(time.monotonic() - begun)

    def steady(self, rate: float) -> None:
        begun = time.monotonic()
        while not ended:
            self.send()
            self.collect()
            time.sleep(max(0.0, begun + self.sent / rate - time.monotonic()))
        deadline = time.monotonic() + WAIT
        while self.due and time.monotonic() < deadline:
            self.collect()
            time.sleep(0.01)

    def flood(self) -> None:
        while not ended:
            for query in self.queries * 50:
                self.socket.send(query)
                self.sent += 1
            try:
                while True:
                    self.socket.recv(4096)
            except BlockingIOError:
                pass


def main() -> None:
    signal.signal(signal.SIGTERM, end)
    server, rate, *queries = sys.argv[1:]
    load = Load(server, [bytes.fromhex(query) for query in queries])
    print("ready", flush=True)
    if float(rate):
        load.steady(float(rate))
    else:
        load.flood()
    late = sorted(load.times)[len(load.times) * 99 // 100] if load.times else None
    print(json.dumps({"sent": load.sent, "lost": len(load.due), "late": late}))


main()
