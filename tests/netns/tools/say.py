# SPDX-License-Identifier: Apache-2.0
"""A server in a VM: ``say.py PORT NAME``. HTTP with what it was asked as its answer;
to a connection that begins with a PROXY header, that header (text, or hex of v2). To
``/?wait=SECONDS`` it takes its time."""

from __future__ import annotations

import json
import socketserver
import sys
import time

V2 = b"\r\n\r\n\x00\r\nQUIT\n"  # the PROXY protocol's signature, version 2


class Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        first = self.rfile.readline(4096)
        if first.startswith(b"PROXY "):
            self.skip_request()
            self.say({"proxy": first.decode().strip()})
            return
        if first == b"\r\n":
            first += self.rfile.read(len(V2) - 2)
            head = self.rfile.read(4)
            rest = self.rfile.read(int.from_bytes(head[2:], "big"))
            self.skip_request()
            self.say({"proxy": (head + rest).hex()})
            return
        while first:
            headers: list[list[str]] = []
            while (line := self.rfile.readline(65536)) not in (b"\r\n", b"\n", b""):
                name, _, value = line.decode("latin-1").partition(":")
                headers.append([name.lower(), value.strip()])
            length = int(dict(headers).get("content-length", 0))
            body = self.rfile.read(length)
            _, wait, seconds = first.split(b" ")[1].partition(b"?wait=")
            if wait:
                time.sleep(float(seconds))
            self.say(
                {
                    "name": sys.argv[2],
                    "request": first.decode("latin-1").strip(),
                    "headers": headers,
                    "body": len(body),
                    "peer": self.client_address[0],
                    "by": "as the VM sees it",
                }
            )
            first = self.rfile.readline(65536)

    def skip_request(self) -> None:
        """What is not read would end the connection with a reset."""
        while self.rfile.readline(65536) not in (b"\r\n", b""):
            pass

    def say(self, what: object) -> None:
        answer = json.dumps(what).encode()
        self.wfile.write(
            b"HTTP/1.1 200 OK\r\nserver: app\r\ncontent-length: %d\r\n\r\n" % len(answer)
        )
        self.wfile.write(answer)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 256


Server(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
