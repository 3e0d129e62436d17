# SPDX-License-Identifier: Apache-2.0
"""The daemon's end of Envoy's control plane: starts that process and tells it what
Envoy is to know.

The process is the daemon's child, but goes on when the daemon ends, until the next
one's takes its place. A thread does the waiting.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flyebpf.config import LogConfig
from flyebpf.proxy.loads import Loads
from flyebpf.proxy.table import Gone, Put

log = logging.getLogger(__name__)
BATCH = 500  # resources in a line
BEGIN = ""
"""Lines before this one are for a process before."""
RETRY = 1.0  # seconds between a process's end and the next one


class Feed:
    """``lost``: called, from a thread, when the process has to be told everything
    anew; the daemon then calls :meth:`begin` and :meth:`send`. ``loads``: what it says of
    machines' loads goes there."""

    def __init__(
        self, path: Path, user: str, log: LogConfig, loads: Loads, lost: Callable[[], object]
    ) -> None:
        self._arguments = (str(path), user, json.dumps(asdict(log)))
        self._loads = loads
        self._lost = lost
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._process: subprocess.Popen[str] | None = None
        self._ended = threading.Event()
        self.report: dict[str, Any] = {}
        """What the process said last (``flyebpf.proxy.process.Report``)."""
        self.restarts = 0
        self.wanted: Callable[[str], object] = lambda cluster: None
        self.cached: Callable[[list[str]], object] = lambda apps: None
        """Called, from a thread, with the apps whose replays are remembered now."""
        """Called, from a thread, with a cluster that somebody waits for a machine of."""

    def start(self) -> None:
        threading.Thread(target=self._run, name="proxy-feed", daemon=True).start()

    def close(self, *, end: bool = False) -> None:
        """Tell the process nothing more; ``end`` it too, or it goes on."""
        self._ended.set()
        self._lines.put(None)
        process = self._process
        if end and process is not None:
            process.terminate()

    def begin(self) -> None:
        """All that follows is for a process that knows nothing yet."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._lines.get_nowait()
        self._lines.put(BEGIN)

    def send(self, puts: list[Put], gone: list[Gone]) -> None:
        """Changes, in their order."""
        for at in range(0, len(puts), BATCH):
            self._lines.put(json.dumps({"put": puts[at : at + BATCH]}))
        if gone:
            self._lines.put(json.dumps({"remove": gone}))

    def woken(self, cluster: str, headers: Mapping[str, str]) -> None:
        """The answer to ``wanted``; see ``flyebpf.proxy.wake``."""
        self._lines.put(json.dumps({"woken": [cluster, headers]}))

    def ready(self) -> None:
        """It has been told all that there is."""
        self._lines.put(json.dumps({"ready": True}))

    # The threads.

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                process = self._spawn()
            except OSError as error:
                log.error("the proxy's control plane cannot be started: %s", error.strerror)
                self._ended.wait(RETRY)
                continue
            reader = threading.Thread(target=self._read, args=(process,), daemon=True)
            reader.start()
            self._lost()
            self._write(process)
            if self._ended.is_set():
                return
            process.kill()
            process.wait()
            reader.join()
            self.restarts += 1
            log.error("the proxy's control plane has ended; it is started again")
            self._ended.wait(RETRY)

    def _spawn(self) -> subprocess.Popen[str]:
        """In a session of its own: a terminal's signals are the daemon's to see."""
        self.report = {}
        self._loads.forget()
        command = [sys.executable, "-P", "-m", "flyebpf.proxy.process", *self._arguments]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "GRPC_VERBOSITY": "ERROR"},
        )
        return self._process

    def _write(self, process: subprocess.Popen[str]) -> None:
        """Until it or the daemon has ended."""
        assert process.stdin is not None
        try:
            for line in self._work(process):
                process.stdin.write(line + "\n")
                process.stdin.flush()
            process.stdin.close()
        except OSError as error:
            log.debug("the proxy's control plane takes nothing more: %s", error)

    def _work(self, process: subprocess.Popen[str]) -> Iterator[str]:
        begun = False
        while not self._ended.is_set() and process.poll() is None:
            try:
                line = self._lines.get(timeout=0.5)
            except queue.Empty:
                continue
            if line == BEGIN:
                begun = True
            elif line is not None and begun:
                yield line

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            report = json.loads(line)
            if "loads" in report:
                self._loads.take(report["loads"])
                continue
            if "cached" in report:
                self.cached(report["cached"])
                continue
            if "wake" in report:
                self.wanted(report["wake"])
                continue
            if report["refused"] and report["refused"] != self.report.get("refused"):
                log.error("Envoy has refused: %s", report["refused"])
            self.report = report

    @property
    def pid(self) -> int:
        """Of the process; 0 while there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else 0
