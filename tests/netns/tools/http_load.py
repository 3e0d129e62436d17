# SPDX-License-Identifier: Apache-2.0
"""http_load ADDRESS PORT SECONDS RATE: a new connection for every request.

Prints "ready", in the end ``{"ok", "failed", "errors", "slowest", "last_error"}``, the
last one by the monotonic clock. SIGTERM ends it early.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time


async def request(address: str, port: int) -> None:
    reader, writer = await asyncio.open_connection(address, port)
    writer.write(b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    if not answer.startswith(b"HTTP/1.1 200") or b"as the VM sees it" not in answer:
        raise ValueError(f"answered {answer[:40] + answer[-130:]!r}")


async def main() -> None:
    address, port = sys.argv[1], int(sys.argv[2])
    seconds, rate = float(sys.argv[3]), float(sys.argv[4])
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    print("ready", flush=True)
    result: dict[str, object] = {}
    times: list[float] = []
    errors: list[str] = []
    last_error = 0.0

    async def one() -> None:
        nonlocal last_error
        started = time.monotonic()
        try:
            await asyncio.wait_for(request(address, port), 10)
            times.append(time.monotonic() - started)
        except (OSError, ValueError, TimeoutError) as error:
            errors.append(f"{type(error).__name__}: {error}")
            last_error = time.monotonic()

    started = time.monotonic()
    tasks = set()
    count = 0
    while not ended.is_set() and time.monotonic() - started < seconds:
        task = asyncio.create_task(one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        count += 1
        await asyncio.sleep(max(0.0, started + count / rate - time.monotonic()))
    while tasks:
        await asyncio.wait(tasks)
    result = {"ok": len(times), "failed": len(errors), "errors": errors[:10]}
    result |= {"slowest": max(times, default=0.0), "last_error": last_error}
    print(json.dumps(result))


asyncio.run(main())
