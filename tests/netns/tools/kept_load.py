# SPDX-License-Identifier: Apache-2.0
"""kept_load ADDRESS PORT CONNECTIONS: requests one after the other over connections
that are kept until the server says that it ends them. Every other request has a body.

Prints "ready", and at SIGTERM ``{"ok", "failed", "errors", "opened", "last_error"}``, the
last one by the monotonic clock.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time

GET = b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: lab\r\nContent-Length: 5\r\n\r\nhello"
ended = asyncio.Event()
errors: list[str] = []
counts = {"ok": 0, "opened": 0}
times = [0.0]  # of errors


def failed(what: str) -> None:
    errors.append(what)
    times.append(time.monotonic())


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, what: bytes) -> bool:
    """Whether the connection may be used on."""
    writer.write(what)
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    fields = dict(line.split(b": ", 1) for line in lines[1:] if line)
    body = await reader.readexactly(int(fields[b"content-length"]))
    if lines[0] != b"http/1.1 200 ok" or b"as the VM sees it" not in body:
        raise ValueError(f"answered {head[:80]!r}")
    counts["ok"] += 1
    return fields.get(b"connection") != b"close"


async def connection(address: str, port: int) -> None:
    while not ended.is_set():
        try:
            reader, writer = await asyncio.open_connection(address, port)
        except OSError as error:
            failed(f"connect: {error}")
            continue
        counts["opened"] += 1
        try:
            kept = True
            while kept and not ended.is_set():
                kept = await asyncio.wait_for(ask(reader, writer, GET), 20)
                kept = kept and await asyncio.wait_for(ask(reader, writer, POST), 20)
                await asyncio.sleep(0.02)
        except (OSError, EOFError, ValueError, KeyError) as error:
            failed(f"{type(error).__name__}: {error}")
        writer.close()


async def main() -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    print("ready", flush=True)
    address, port, connections = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    await asyncio.gather(*(connection(address, port) for _ in range(connections)))
    result = {**counts, "failed": len(errors), "errors": errors[:10], "last_error": times[-1]}
    print(json.dumps(result))


asyncio.run(main())
