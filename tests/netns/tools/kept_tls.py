# SPDX-License-Identifier: Apache-2.0
"""A TLS connection that is kept: ``kept_tls.py ADDRESS HOST``.

Prints "ready" when it has got an answer over it. A line on standard input makes it
ask again, over the same connection. At its end it prints JSON: the SHA-256 of the
certificate that it was shown, and the status of each answer."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import ssl
import sys


def main() -> None:
    address, host = sys.argv[1:3]
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    raw = socket.create_connection((address, 443), timeout=5)
    wrapped = context.wrap_socket(raw, server_hostname=host)
    connection = http.client.HTTPConnection(host)
    connection.sock = wrapped
    shown = hashlib.sha256(wrapped.getpeercert(binary_form=True) or b"").hexdigest()
    statuses = [ask(connection)]
    print("ready", flush=True)
    for _ in sys.stdin:
        statuses.append(ask(connection))
    print(json.dumps({"shown": shown, "statuses": statuses}))


def ask(connection: http.client.HTTPConnection) -> int:
    connection.request("GET", "/")
    answer = connection.getresponse()
    answer.read()
    return answer.status


if __name__ == "__main__":
    main()
