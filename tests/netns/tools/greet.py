# SPDX-License-Identifier: Apache-2.0
"""A server in a VM: ``greet.py PORT``. At PORT it speaks first and then repeats what it
hears; at PORT + 1 it does so after an HTTP upgrade."""

from __future__ import annotations

import socketserver
import sys
import threading


class Greeter(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(b"hello\n")
        self.echo()

    def echo(self) -> None:
        while line := self.rfile.readline():
            self.wfile.write(line)


class Upgrader(Greeter):
    def handle(self) -> None:
        while self.rfile.readline() not in (b"\r\n", b""):
            pass
        self.wfile.write(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        )
        self.echo()


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


port = int(sys.argv[1])
with Server(("0.0.0.0", port), Greeter) as first, Server(("0.0.0.0", port + 1), Upgrader) as second:
    threading.Thread(target=first.serve_forever, daemon=True).start()
    second.serve_forever()
