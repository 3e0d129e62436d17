# SPDX-License-Identifier: Apache-2.0
"""udp_length PORT: answers each UDP datagram, IPv4 or IPv6, with its length in text."""

from __future__ import annotations

import socket
import sys


def main() -> None:
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.bind(("::", int(sys.argv[1])))
    while True:
        payload, source = server.recvfrom(65_535)
        server.sendto(str(len(payload)).encode(), source)


main()
