# SPDX-License-Identifier: Apache-2.0
"""Bytes as they are: ``raw_http.py ADDRESS PORT FILE``. The file has a JSON list of
texts (latin-1), each sent over a connection of its own. Prints what was answered until
the connection's end, and "…" for one that had none."""

from __future__ import annotations

import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PATIENCE = 10.0


def answer(payload: str) -> str:
    found = b""
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), PATIENCE) as connection:
        try:
            connection.sendall(payload.encode("latin-1"))
            while part := connection.recv(65536):
                found += part
        except TimeoutError:
            found += b"\xe2\x80\xa6"
        except OSError:
            pass  # reset: it has said what it wanted
    return found.decode("utf-8", "replace")


with ThreadPoolExecutor(32) as pool:
    print(json.dumps(list(pool.map(answer, json.loads(Path(sys.argv[3]).read_text())))))
