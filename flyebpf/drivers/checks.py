# SPDX-License-Identifier: Apache-2.0
"""The driver of health checks: its rows go to the process that runs them, and what
that has found comes back."""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from flyebpf.config import DaemonConfig
from flyebpf.model.checkrows import CheckRow
from flyebpf.model.rows import Row
from flyebpf.reconcile.base import Failure

log = logging.getLogger(__name__)
RETRY = 1.0  # seconds between a process's end and the next one
BATCH = 500  # checks in a line


class ChecksDriver:
    """``apply`` and ``read`` are for the main thread. ``found``: called, from a thread,
    with results as the process says them (``flyebpf.checks.process``)."""

    name = "checks"
    kinds: tuple[type[Row], ...] = (CheckRow,)

    def __init__(self, config: DaemonConfig) -> None:
        self._arguments = (config.proxy.user, json.dumps(asdict(config.log)))
        self._lock = threading.Lock()
        self._rows: dict[Hashable, CheckRow] = {}
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[str] | None = None
        self._ended = threading.Event()
        self.found: Callable[[Mapping[str, str]], object] = lambda _: None
        self.changed: Callable[[], object] = lambda: None
        """Called when there are other checks than before."""
        self.restarts = 0

    def close(self) -> None:
        """The process ends: what it has found stays in the store."""
        self._ended.set()
        self._lines.put(None)
        if self._thread is not None:
            self._thread.join()

    def keys(self) -> frozenset[str]:
        """The checks that there are; from any thread."""
        with self._lock:
            return frozenset(_key(key) for key in self._rows)

    def read(self, kind: type[Row]) -> dict[Hashable, object]:
        return dict(self._rows)

    def fingerprint(self, row: Row) -> object:
        return row

    def apply(
        self, kind: type[Row], puts: Sequence[Row], deletes: Sequence[Hashable]
    ) -> list[Failure]:
        rows = [row for row in puts if isinstance(row, CheckRow)]
        with self._lock:
            self._rows.update((row.key, row) for row in rows)
            for key in deletes:
                self._rows.pop(key, None)
            self._tell(rows, deletes)
        if self._thread is None and self._rows:
            self._thread = threading.Thread(target=self._run, name="checks", daemon=True)
            self._thread.start()
        self.changed()
        return []

    def _tell(self, rows: Sequence[CheckRow], gone: Sequence[Hashable] = ()) -> None:
        if gone:
            self._lines.put(json.dumps({"remove": [_key(key) for key in gone]}))
        for at in range(0, len(rows), BATCH):
            puts = {_key(row.key): spec(row) for row in rows[at : at + BATCH]}
            self._lines.put(json.dumps({"put": puts}))

    # The threads.

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                process = self._spawn()
            except OSError as error:
                log.error("checks are not run: %s", error.strerror)
                self._ended.wait(RETRY)
                continue
            with process:
                reader = threading.Thread(target=self._read, args=(process,), daemon=True)
                reader.start()
                self._write(process)
                reader.join()
            if not self._ended.is_set():
                self.restarts += 1
                log.error("the process that runs checks has ended; it is started again")
                self._ended.wait(RETRY)

    def _spawn(self) -> subprocess.Popen[str]:
        """One that knows nothing yet. In a session of its own: a terminal's signals are
        the daemon's to see."""
        command = [sys.executable, "-P", "-m", "flyebpf.checks.process", *self._arguments]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        with self._lock:
            self._process = process
            self._lines = queue.Queue()
            self._tell(list(self._rows.values()))
        if self._ended.is_set():
            self._lines.put(None)
        return process

    def _write(self, process: subprocess.Popen[str]) -> None:
        """Until it or the daemon has ended."""
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            while not self._ended.is_set() and process.poll() is None:
                try:
                    line = self._lines.get(timeout=0.5)
                except queue.Empty:
                    continue
                if line is not None:
                    process.stdin.write(line + "\n")
                    process.stdin.flush()
        with contextlib.suppress(OSError):
            process.stdin.close()
        process.kill()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.found(json.loads(line)["results"])
        self._lines.put(None)


def spec(row: CheckRow) -> dict[str, Any]:
    """As ``flyebpf.checks.probe.Spec`` has it."""
    check = row.check
    return {
        "type": check.type,
        "address": row.address,
        "port": row.port,
        "source": row.source,
        "interval": check.interval / 1000,
        "timeout": check.timeout / 1000,
        "grace": check.grace_period / 1000,
        "method": check.method,
        "path": check.path,
        "protocol": check.protocol,
        "headers": [list(header) for header in check.headers],
        "tls_skip_verify": check.tls_skip_verify,
        "tls_server_name": check.tls_server_name,
    }


def _key(key: Hashable) -> str:
    assert isinstance(key, tuple)
    return "/".join(key)
