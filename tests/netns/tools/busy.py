# SPDX-License-Identifier: Apache-2.0
"""A server in a VM: ``busy.py PORT NAME``. HTTP/1.1; each answer is JSON with its name.

``/hold``: answered after ``/release``. ``/drip``: a byte now and then until then.
``/seen``: how many are held, and were at most. ``/health``: the status that
``/health/STATUS`` has set. ``PING`` is no HTTP: its lines come back, with the name
before them."""

from __future__ import annotations

import json
import socketserver
import sys
import threading

NAME = sys.argv[2]


class State:
    changed = threading.Condition()
    held = most = released = 0
    health = 200


class Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while first := self.rfile.readline(4096):
            if first.startswith(b"PROXY "):
                continue
            if first.startswith(b"PING"):
                self.wfile.write(NAME.encode() + b" " + first)
                continue
            headers = []
            while (line := self.rfile.readline(65536)) not in (b"\r\n", b""):
                headers.append(line.decode("latin-1").strip())
            self.answer(first.split()[1].decode(), headers)

    def answer(self, path: str, headers: list[str]) -> None:
        status, body = 200, {"name": NAME, "headers": headers}
        if path == "/drip":
            self.wfile.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            self.hold(b"1\r\n.\r\n")
            self.wfile.write(b"0\r\n\r\n")
            return
        if path == "/hold":
            self.hold()
        elif path == "/release":
            with State.changed:
                State.released += 1
                State.changed.notify_all()
        elif path == "/seen":
            body = {"name": NAME, "held": State.held, "most": State.most}
        elif path.startswith("/health/"):
            State.health = int(path.rpartition("/")[2])
        elif path == "/health":
            status = State.health
        said = json.dumps(body).encode()
        head = f"HTTP/1.1 {status} Said\r\ncontent-length: {len(said)}\r\n"
        head += "location: /elsewhere\r\n" if status // 100 == 3 else ""
        self.wfile.write(head.encode() + b"\r\n" + said)

    def hold(self, meanwhile: bytes = b"") -> None:
        with State.changed:
            State.held += 1
            State.most = max(State.most, State.held)
            before = State.released
            while not State.changed.wait_for(lambda: State.released != before, 0.5):
                self.wfile.write(meanwhile)
            State.held -= 1


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 256


Server(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
