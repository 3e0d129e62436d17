# SPDX-License-Identifier: Apache-2.0
"""What a host's health checks cost: the process that runs them, by itself.

``python -m bench.checks [--json]``. It asks a server of its own on the loopback, which
is not counted, at the default interval of 15 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO

from bench import rig
from flyebpf.checks.probe import Spec
from flyebpf.config import LogConfig

COUNTS = (0, 100, 1000)
SECONDS = 15.0
HERE = "127.0.0.1"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
COLUMNS = ("checks", "kind", "first results s", "CPU % of a core", "resident MB")


@contextlib.contextmanager
def server() -> Iterator[int]:
    """The port of one that answers everything."""
    loop = asyncio.new_event_loop()
    ended, ready = asyncio.Event(), threading.Event()
    port = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(ANSWER)
        writer.close()

    async def serve() -> None:
        nonlocal port
        async with await asyncio.start_server(answer, HERE, 0, backlog=1024) as made:
            port = made.sockets[0].getsockname()[1]
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait()
    yield port
    loop.call_soon_threadsafe(ended.set)
    thread.join()
    loop.close()


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def wait_results(output: IO[str], count: int) -> float:
    """Until each check has one."""
    begun = time.monotonic()
    while count > 0:
        count -= len(json.loads(output.readline())["results"])
    return time.monotonic() - begun


def measure(count: int, kind: str, port: int) -> tuple[object, ...]:
    spec = Spec(kind, HERE, port, HERE, interval=15, timeout=2, grace=1)
    command = [sys.executable, "-m", "flyebpf.checks.process", "", json.dumps(asdict(LogConfig()))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        puts = {f"m{number}/web": asdict(spec) for number in range(count)}
        process.stdin.write(json.dumps({"put": puts}) + "\n")
        process.stdin.flush()
        first = wait_results(process.stdout, count)
        time.sleep(2.0)  # its start is not counted
        before, begun = cpu(process.pid), time.monotonic()
        time.sleep(SECONDS)
        share = 100 * (cpu(process.pid) - before) / (time.monotonic() - begun)
        found = (count, kind, first, share, resident(process.pid))
        process.stdin.close()
    return found


def main() -> None:
    with server() as port:
        cases = [(count, kind) for count in COUNTS for kind in ("tcp", "http") if count]
        rows = [measure(0, "", port), *(measure(count, kind, port) for count, kind in cases)]
    rig.report("checks of one host, every 15 s", COLUMNS, rows)


if __name__ == "__main__":
    main()
