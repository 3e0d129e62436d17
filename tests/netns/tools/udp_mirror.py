# SPDX-License-Identifier: Apache-2.0
"""udp_mirror PORT: sends every UDP datagram (IPv6) back, behind its own name."""

from __future__ import annotations

import os
import socket
import sys


def main() -> None:
    name = os.environ.get("FLY_MACHINE_ID", "mirror").encode()
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        server.bind(("::", int(sys.argv[1])))
        while True:
            payload, source = server.recvfrom(65_535)
            server.sendto(name + b" " + payload, source)


main()
