# SPDX-License-Identifier: Apache-2.0
"""udp_clients ADDRESS PORT COUNT: one datagram from each of COUNT sockets.

Every answer must come to the socket that asked, from the address asked, and
name that socket's own port. Prints ``{"answered", "wrong", "servers"}``.
"""

from __future__ import annotations

import collections
import json
import resource
import select
import socket
import sys
import time


def main() -> None:
    target, count = (sys.argv[1], int(sys.argv[2])), int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, count + 100))
    poll = select.poll()
    clients = {}
    for number in range(count):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.sendto(f"hello {number}".encode(), target)
        clients[client.fileno()] = (number, client)
        poll.register(client, select.POLLIN)
    servers: collections.Counter[str] = collections.Counter()
    answered, wrong = 0, []
    deadline = time.monotonic() + 5
    while answered < count and time.monotonic() < deadline:
        for fd, _ in poll.poll(100):
            number, client = clients[fd]
            payload, source = client.recvfrom(2048)
            name, _, rest = payload.decode().partition(" saw ")
            seen, _, text = rest.partition(" say ")
            answered += 1
            servers[name] += 1
            port = client.getsockname()[1]
            if source != target or not seen.endswith(f":{port}") or text != f"hello {number}":
                wrong.append([list(source), payload.decode(), port])
    print(json.dumps({"answered": answered, "wrong": wrong[:10], "servers": servers}))


main()
