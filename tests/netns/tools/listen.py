# SPDX-License-Identifier: Apache-2.0
"""An HTTP server on one address and port: ``listen.py ADDRESS PORT``. ``[::]`` takes
IPv4 too; the machine's 6PN address is ``sixpn``."""

import os
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, False)
        super().server_bind()


def main() -> None:
    address, port = sys.argv[1], int(sys.argv[2])
    if address == "sixpn":
        address = f"[{os.environ['FLY_PRIVATE_IP']}]"
    Server.address_family = socket.AF_INET6 if address.startswith("[") else socket.AF_INET
    host = address.strip("[]")
    Server((host, port), Handler).serve_forever()


if __name__ == "__main__":
    main()
