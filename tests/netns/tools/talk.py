# SPDX-License-Identifier: Apache-2.0
"""A client: ``talk.py ADDRESS PORT [--upgrade] [--wait]``. Says what the server said first,
and whether it repeats what it is told; waits then until the server ends it."""

from __future__ import annotations

import json
import socket
import sys

WORDS = b"are you there\n"
UPGRADE = (
    b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
)

with socket.create_connection((sys.argv[1], int(sys.argv[2])), 30) as connection:
    stream = connection.makefile("rwb")
    if "--upgrade" in sys.argv:
        stream.write(UPGRADE)
        stream.flush()
    first = stream.readline().decode().strip()
    while "--upgrade" in sys.argv and stream.readline() not in (b"\r\n", b""):
        pass
    stream.write(WORDS)
    stream.flush()
    print(json.dumps({"first": first, "repeats": stream.readline() == WORDS}), flush=True)
    if "--wait" in sys.argv:
        connection.settimeout(None)
        stream.readline()
    stream.close()
