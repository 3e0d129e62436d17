# SPDX-License-Identifier: Apache-2.0
"""mesh_inject: UDP datagrams with any IPv6 addresses, as root of a host could send.

Reads one line from standard input: ``{"namespace", "source", "destination",
"mark", "count", "link": [interface, MAC]}``. Without ``link`` they go where the
namespace's routes lead; with it, as frames to that MAC. Prints how many were sent.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
from ipaddress import ip_address

from flyebpf.lab.net import inside


def main() -> None:
    wanted = json.loads(sys.stdin.readline())
    source = ip_address(wanted["source"]).packed
    destination = ip_address(wanted["destination"]).packed
    text = wanted["mark"].encode()
    length = 8 + len(text)
    body = struct.pack("!HHHH", 4000, 5000, length, 0) + text
    head = struct.pack("!IHBB", 6 << 28, length, 17, 64) + source + destination
    packet = head + with_checksum(source, destination, body)
    with inside(wanted["namespace"]):
        if link := wanted.get("link"):
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            raw.bind((link[0], 0))
            target = bytes.fromhex(link[1].replace(":", ""))
            frame = target + bytes.fromhex("02000000009986dd")
            for _ in range(wanted["count"]):
                raw.send(frame + packet)
        else:
            raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
            for _ in range(wanted["count"]):
                raw.sendto(packet, (wanted["destination"], 0))
    print(wanted["count"])


def with_checksum(source: bytes, destination: bytes, body: bytes) -> bytes:
    data = source + destination + struct.pack("!II", len(body), 17) + body
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return body[:6] + struct.pack("!H", ~total & 0xFFFF) + body[8:]


main()
