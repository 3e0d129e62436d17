# SPDX-License-Identifier: Apache-2.0
"""Runs health checks: ``python -m flyebpf.checks.process USER LOG``, the last one being
the daemon's ``[log]`` as JSON.

The daemon's child, not the daemon: it speaks with what tenants run, and has no rights.
On standard input it gets lines of JSON, ``{"put": {key: what ``probe.Spec`` has}, "remove":
[key, …]}``, on standard output it says ``{"results": {key: why it fails, "" if it
passes}}``: the first result of each, and then only what has changed. It ends with its
input: what was found last stands in the store.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import resource
import sys
from collections.abc import Mapping
from typing import Any

from flyebpf import logs, rights
from flyebpf.checks.probe import Spec, UndecidedError, probe
from flyebpf.config import LogConfig

log = logging.getLogger("flyebpf.checks.process")
LINE = 64 << 20  # longest line of input, bytes
SPREAD = 0.005  # seconds between the first looks of many checks
GATHER = 0.05  # seconds in which results are gathered
LATE = 1.0  # seconds after which a look that should have begun proves no failure
FILES = 1 << 16  # open files at most


class Runner:
    """The checks, a task for each."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._last: dict[str, str] = {}
        self._news: dict[str, str] = {}
        self._saying: asyncio.TimerHandle | None = None

    def take(self, line: Mapping[str, Any]) -> None:
        """A line of input. A check that is put anew begins anew."""
        for key in line.get("remove", ()):
            self._end(key)
        for key, spec in line.get("put", {}).items():
            self._end(key)
            self._tasks[key] = asyncio.ensure_future(self._run(key, Spec(**spec)))

    def _end(self, key: str) -> None:
        if task := self._tasks.pop(key, None):
            task.cancel()
        self._last.pop(key, None)
        self._news.pop(key, None)

    async def _run(self, key: str, spec: Spec) -> None:
        """A machine has its grace period before the first look. Many that begin
        together are spread, and stay so."""
        loop = asyncio.get_running_loop()
        spread = random.uniform(0, min(spec.interval, SPREAD * len(self._tasks)))
        due = loop.time() + spec.grace + spread
        while True:
            await asyncio.sleep(max(due - loop.time(), 0))
            late = loop.time() - due > LATE
            try:
                why = await probe(spec)
            except UndecidedError as error:
                log.warning("check %s could not be run: %s", key, error)
            else:
                if not (why and late):  # a host that is too busy to look sees no machine fail
                    self._found(key, why)
            due = max(due + spec.interval, loop.time())

    def _found(self, key: str, why: str) -> None:
        before = self._last.get(key)
        self._last[key] = why
        if before is None or bool(before) != bool(why):
            self._news[key] = why
            if self._saying is None:
                self._saying = asyncio.get_running_loop().call_later(GATHER, self._say)

    def _say(self) -> None:
        self._saying = None
        if self._news:
            print(json.dumps({"results": self._news}), flush=True)
            self._news = {}


async def serve() -> None:
    """Until the input ends."""
    reader = asyncio.StreamReader(limit=LINE)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    runner = Runner()
    while line := await reader.readline():
        runner.take(json.loads(line))


def main() -> int:
    logs.setup(LogConfig(**json.loads(sys.argv[2])))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = FILES if most == resource.RLIM_INFINITY else min(FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    rights.drop(sys.argv[1], "the process that runs checks")
    asyncio.run(serve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
