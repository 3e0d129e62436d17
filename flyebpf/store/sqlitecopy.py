# SPDX-License-Identifier: Apache-2.0
"""A copy on this host's disk of what its daemon last read of a shared store.

It is only there for a start while the shared store is away, and is made anew
from that store: one that is damaged or of another store is thrown away.
"""

from __future__ import annotations

import builtins  # `list` is a method here
import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from flyebpf.store.base import Change, Entry, Extent
from flyebpf.store.bodies import from_text, to_text
from flyebpf.store.sqlite import EXTENTS, extents_of

log = logging.getLogger(__name__)

_PIECE = 1_000
_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS state (revision INTEGER NOT NULL, source TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS records (
    kind TEXT NOT NULL, id TEXT NOT NULL, body TEXT NOT NULL, revision INTEGER NOT NULL,
    PRIMARY KEY (kind, id)
) WITHOUT ROWID;
"""
_DELETE = "DELETE FROM records WHERE kind = ? AND id = ?"
_PUT = "INSERT OR REPLACE INTO records (kind, id, body, revision) VALUES (?, ?, ?, ?)"


class Copy:
    """The copy in the file ``path`` of the store that ``source`` names. Thread
    safe. Failures are logged and cost no more than the copy."""

    def __init__(self, path: Path, source: str) -> None:
        self._path = path
        self._source = source
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        try:
            self._open()
        except (sqlite3.Error, OSError) as error:
            self._discard(error)
            with contextlib.suppress(sqlite3.Error, OSError):
                self._open()

    def _open(self) -> None:
        os.close(os.open(self._path, os.O_CREAT | os.O_WRONLY, 0o600))
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.executescript(_SCHEMA)
            row = connection.execute("SELECT source FROM state").fetchone()
            if row is not None and row[0] != self._named():
                connection.executescript("DELETE FROM records; DELETE FROM state;")
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _named(self) -> str:
        return f"{_VERSION} {self._source}"

    def _discard(self, error: Exception) -> None:
        log.warning("the copy %s cannot be used and is thrown away: %s", self._path, error)
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                Path(f"{self._path}{suffix}").unlink()

    def revision(self) -> int | None:
        """The revision that it is the state at; None when there is no copy."""
        with self._lock:
            rows = self._rows("SELECT revision FROM state")
        return int(rows[0][0]) if rows else None

    def get(self, kind: str, id: str) -> Entry | None:
        query = "SELECT kind, id, body, revision FROM records WHERE kind = ? AND id = ?"
        with self._lock:
            rows = self._rows(query, kind, id)
        return _entry(*rows[0]) if rows else None

    def list(self, kind: str | None = None) -> Iterator[Entry]:
        """Records of one kind by id, or all by kind and id."""
        query = "SELECT kind, id, body, revision FROM records"
        order = " ORDER BY kind, id"
        with self._lock:
            if kind is None:
                rows = self._rows(query + order)
            else:
                rows = self._rows(query + " WHERE kind = ?" + order, kind)
        return (_entry(*row) for row in rows)

    def extents(self, kinds: Sequence[str]) -> dict[str, Extent]:
        """As :meth:`flyebpf.store.base.Store.extents`."""
        with self._lock:
            return extents_of(self._rows(EXTENTS), kinds)

    def apply(self, changes: Iterable[Change]) -> None:
        """What came after :meth:`revision`; older changes are left out."""
        with self._lock:
            known = self.revision()
            new = [change for change in changes if known is not None and change.revision > known]
            if not new:
                return
            gone = [(change.kind, change.id) for change in new]
            last = {(c.kind, c.id): c for c in new}.values()
            puts = [(c.kind, c.id, to_text(c.body), c.revision) for c in last if c.body is not None]
            if self._run("BEGIN") and self._run_many(_DELETE, gone) and self._run_many(_PUT, puts):
                self._run("UPDATE state SET revision = ?", new[-1].revision)
                self._run("COMMIT")

    def replaced(self, revision: int, entries: Iterable[Entry]) -> Iterator[Entry]:
        """``entries``, all of a snapshot, which become the copy when they have
        been read to their end."""
        rest = iter(entries)
        good = self._run("BEGIN") and self._run("DELETE FROM records")
        good = good and self._run("DELETE FROM state")
        whole = False
        try:
            while piece := tuple(islice(rest, _PIECE)):
                rows = [(e.kind, e.id, to_text(e.body), e.revision) for e in piece]
                good = good and self._run_many(_PUT, rows)
                yield from piece
            whole = True
        finally:
            if good and whole:
                self._run("INSERT INTO state VALUES (?, ?)", revision, self._named())
            if good:
                self._run("COMMIT" if whole else "ROLLBACK")

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _rows(self, query: str, *values: str) -> builtins.list[Any]:
        if self._connection is None:
            return []
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            self._discard(error)
            return []

    def _run(self, statement: str, *values: str | int) -> bool:
        """False, and no copy any more, when it fails."""
        return self._tried(lambda connection: connection.execute(statement, values))

    def _run_many(self, statement: str, rows: Sequence[tuple[object, ...]]) -> bool:
        return self._tried(lambda connection: connection.executemany(statement, rows))

    def _tried(self, work: Callable[[sqlite3.Connection], object]) -> bool:
        with self._lock:
            if self._connection is None:
                return False
            try:
                work(self._connection)
            except sqlite3.Error as error:
                self._discard(error)
                return False
        return True


def _entry(kind: str, ident: str, text: str, revision: int) -> Entry:
    return Entry(kind, ident, from_text(text), revision)
