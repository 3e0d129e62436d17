# SPDX-License-Identifier: Apache-2.0
"""A WebSocket server and its client: ``websocket_pair.py serve PORT`` in a VM, and
``websocket_pair.py ask URL ADDRESS``, which prints what it was answered as JSON."""

from __future__ import annotations

import json
import socket
import ssl
import sys

from websockets.sync.client import connect
from websockets.sync.server import ServerConnection
from websockets.sync.server import serve as serve_sync

LARGE = 300_000


def echo(connection: ServerConnection) -> None:
    assert connection.request is not None
    connection.send(connection.request.headers.get("Fly-Client-IP", ""))
    for message in connection:
        connection.send(message)


def serve(port: int) -> None:
    with serve_sync(echo, "0.0.0.0", port, subprotocols=["chat"]) as server:  # type: ignore[list-item]
        server.serve_forever()


def ask(url: str, address: str) -> None:
    port = int(url.split("/")[2].rpartition(":")[2])
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    raw = socket.create_connection((address, port), timeout=5)
    tls = context if url.startswith("wss:") else None
    with connect(url, sock=raw, ssl=tls, subprotocols=["chat"]) as connection:  # type: ignore[list-item]
        client = connection.recv(10)
        connection.send("text")
        text = connection.recv(10)
        connection.send(b"x" * LARGE)
        binary = connection.recv(10)
        answered = connection.ping().wait(10)
        connection.close(4001, "done")
        result = {
            "client": client,
            "protocol": connection.subprotocol,
            "text": text,
            "binary": len(binary),
            "ping": answered,
            "closed": connection.close_code,
        }
    print(json.dumps(result))


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
else:
    ask(*sys.argv[2:])
