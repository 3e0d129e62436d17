# SPDX-License-Identifier: Apache-2.0
"""path_mtu ADDRESS PORT: the longest UDP datagram that passes unfragmented.

Sends datagrams as long as the path takes as far as this node knows, with "do
not fragment"; what routers say shortens them. Ends when the server (one that
answers with the payload in it, or with as many bytes) has answered three of one
length, or after 20 s. Prints ``{"mtu", "answered", "payloads"}``: the MTU known
in the end, whether that length was answered, and each length that was sent.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from ipaddress import ip_address

IP_MTU, IPV6_MTU = 14, 24
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, DISCOVER_DO = 10, 23, 2


def main() -> None:
    address, port = sys.argv[1], int(sys.argv[2])
    v6 = ip_address(address).version == 6
    client = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
    level = socket.IPPROTO_IPV6 if v6 else socket.IPPROTO_IP
    client.setsockopt(level, IPV6_MTU_DISCOVER if v6 else IP_MTU_DISCOVER, DISCOVER_DO)
    client.connect((address, port))
    client.settimeout(0.3)
    headers = 48 if v6 else 28
    payloads: list[int] = []
    answers = 0
    deadline = time.monotonic() + 20
    while answers < 3 and time.monotonic() < deadline:
        mtu = client.getsockopt(level, IPV6_MTU if v6 else IP_MTU)
        if not payloads or payloads[-1] != mtu - headers:
            payloads.append(mtu - headers)
            answers = 0
        try:
            client.send(bytes([120]) * (mtu - headers))
            while len(client.recv(65_535)) < 1:
                pass
            answers += 1
        except (TimeoutError, OSError):
            continue
    mtu = client.getsockopt(level, IPV6_MTU if v6 else IP_MTU)
    print(json.dumps({"mtu": mtu, "answered": answers >= 3, "payloads": payloads}))


main()
