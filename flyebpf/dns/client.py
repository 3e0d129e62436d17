# SPDX-License-Identifier: Apache-2.0
"""The daemon's side of the DNS process: starts it or finds it, and feeds it.

The daemon hands over records and goes on; a thread does the waiting. When the
process has to get everything anew, ``wanted`` is called from that thread, and
the daemon calls :meth:`DnsClient.load` in its own.
"""

from __future__ import annotations

import logging
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from flyebpf.dns import frames
from flyebpf.dns.asker import Asker
from flyebpf.dns.view import KINDS
from flyebpf.errors import FlyebpfError, UnavailableError
from flyebpf.model.records import AnyRecord
from flyebpf.model.state import Update

log = logging.getLogger(__name__)
START_TIMEOUT = 15.0  # seconds
_RETRY = 1.0
_LOOK = 1.0  # seconds between looks at a process that is told nothing
_PENDING_MAX = 100_000  # changes that wait for the process; then all is sent anew
Work = tuple[str, list[Any], int]
"""``begin``, ``load``, ``commit`` or ``change``; records or updates; revision."""


class DnsClient:
    """All methods but :meth:`load` and :meth:`feed` are for any thread."""

    def __init__(self, config: frames.ProcessConfig, wanted: Callable[[], None]) -> None:
        self.config = config
        self.problem = ""
        """Why the process does not have what the daemon knows; empty if it has."""
        self.revision = -1
        """The last one that the process has taken in."""
        self._digest = config.digest()
        self._wanted = wanted
        self._work: queue.Queue[Work | None] = queue.Queue(_PENDING_MAX)
        self._loaded = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dns-feed", daemon=True)
        self._children: list[subprocess.Popen[bytes]] = []
        self._old: frames.Connection | None = None

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop feeding. The process goes on with what it has."""
        self._ended.set()
        self._put(None)
        self._thread.join(START_TIMEOUT)

    def load(self, revision: int, found: Iterable[AnyRecord]) -> None:
        """The whole state. Encoding it takes a while; the process goes on with
        the old one until it has all of the new one."""
        self._clear()
        self._loaded = True
        self._put(("begin", [], revision))
        batch: list[Any] = []
        for record in found:
            if record.kind in KINDS:
                batch.append(record)
            if len(batch) >= frames.BATCH:
                self._put(("load", batch, revision))
                batch = []
        self._put(("load", batch, revision))
        self._put(("commit", [], revision))

    def feed(self, revision: int, updates: Iterable[Update]) -> None:
        """Changes up to ``revision``, in their order."""
        if not self._loaded:
            return
        changes = [update for update in updates if update.kind in KINDS]
        for at in range(0, max(len(changes), 1), frames.BATCH):
            self._put(("change", changes[at : at + frames.BATCH], revision))

    def metrics(self) -> frames.Json:
        """What the process counts. Raises UnavailableError."""
        return self._call("metrics")

    def ask(self, query: bytes, asker: Asker, *, tcp: bool = True) -> bytes | None:
        """The answer that ``asker`` would get. Raises UnavailableError."""
        found = self._call("ask", query=query.hex(), asker=list(asker), tcp=tcp)["answer"]
        return None if found is None else bytes.fromhex(found)

    def stop_process(self) -> None:
        """End the process too. Raises UnavailableError when there is none."""
        self._call("stop")

    def _call(self, op: str, **values: Any) -> frames.Json:
        connection = frames.Connection(self.config.socket)
        try:
            return connection.call(op, **values)
        finally:
            connection.close()

    def _put(self, work: Work | None) -> None:
        try:
            self._work.put_nowait(work)
        except queue.Full:  # the process takes nothing: it will need everything
            self._clear()
            self._loaded = False
            self._wanted()

    def _clear(self) -> None:
        while True:
            try:
                self._work.get_nowait()
            except queue.Empty:
                return

    # The thread.

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                connection = self._connect()
                try:
                    self.problem = ""
                    self._wanted()
                    self._feed(connection)
                finally:
                    connection.close()
                    self._relieve()
            except FlyebpfError as error:
                self.problem = error.message
                log.error("%s", error.message)
                self._ended.wait(_RETRY)

    def _feed(self, connection: frames.Connection) -> None:
        """Until :meth:`close`. Work from before the connection is of no use."""
        begun = False
        while not self._ended.is_set():
            try:
                work = self._work.get(timeout=_LOOK)
            except queue.Empty:
                connection.hello()  # is it still there?
                continue
            if work is None:
                return
            begun = begun or work[0] == "begin"
            if begun:
                self._send(connection, *work)

    def _send(
        self, connection: frames.Connection, what: str, found: list[Any], revision: int
    ) -> None:
        if what == "begin":
            connection.call("begin")
        elif what == "load":
            connection.call("records", records=list(frames.records(found)))
        elif what == "commit":
            connection.call("commit", revision=revision)
            self.revision = revision
            self._relieve()
        else:
            changes = [frames.change(update) for update in found]
            connection.call("records", records=changes, revision=revision)
            self.revision = revision

    def _connect(self) -> frames.Connection:
        """To the process that is there, if it is of our kind, else to a new one."""
        self._reap()
        try:
            old = frames.Connection(self.config.socket)
        except UnavailableError:
            return self._start()
        try:
            if old.hello().digest == self._digest:
                return old
            new = self._start()
        except FlyebpfError:
            old.close()
            raise
        self._old = old  # it serves until the new one knows what there is
        return new

    def _relieve(self) -> None:
        """End the process before this one."""
        old, self._old = self._old, None
        if old is None:
            return
        try:
            old.call("stop")
        except FlyebpfError as error:  # it has ended by itself
            log.info("%s", error.message)
        old.close()

    def _start(self) -> frames.Connection:
        command = [sys.executable, "-P", "-m", "flyebpf.dns.process", self.config.to_json()]
        try:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        except OSError as error:
            raise UnavailableError(
                f"the DNS process cannot be started: {error.strerror}", "see the host's limits"
            ) from error
        self._children.append(child)
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and child.poll() is None and not self._ended.is_set():
            try:
                connection = frames.Connection(self.config.socket)
            except UnavailableError:
                time.sleep(0.05)
                continue
            if connection.hello().pid == child.pid:
                return connection
            connection.close()
            time.sleep(0.05)
        raise UnavailableError(
            "the DNS process does not start", "its log, among the daemon's, says why"
        )

    def _reap(self) -> None:
        self._children = [child for child in self._children if child.poll() is None]
