# SPDX-License-Identifier: Apache-2.0
"""The store in one SQLite file, for one host.

The file is created aside and linked into place, so that it is either absent or
complete. Commits are durable when they return (WAL, ``synchronous=FULL``) and
a process may be killed at any point. Several processes may have it open.
"""

from __future__ import annotations

import builtins  # `list` is a method here
import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from flyebpf.errors import UnavailableError
from flyebpf.store import sqlitefile
from flyebpf.store.base import (
    Change,
    CompactedError,
    Delete,
    Entry,
    Extent,
    Guard,
    GuardFailedError,
    Json,
    Put,
    StoreUnavailableError,
    Transaction,
    check_writes,
)
from flyebpf.store.bodies import from_text, may_be_unwritable, to_text

CHANGES_KEPT = 20_000
_POLL_SECONDS = 0.5  # how late changes by other processes are seen
_PIECE = 1_000  # records of a snapshot that are decoded at once
EXTENTS = "SELECT kind, count(*), max(revision) FROM records GROUP BY kind"
_COMPACT_SLACK = 1.1  # so that compaction deletes many changes at once


class SqliteStore:
    """:class:`flyebpf.store.base.Store` in the file ``path``, created if absent.

    ``changes_kept``: at least so many of the newest changes stay readable.
    ``durable=False`` may lose the last commits in a power failure, but never
    corrupts the file. Raises ConflictError for a file of another version and
    StoreUnavailableError for one that cannot be used; both leave it untouched.
    """

    def __init__(
        self, path: str | Path, *, changes_kept: int = CHANGES_KEPT, durable: bool = True
    ) -> None:
        self.path = Path(path)
        self._changes_kept = changes_kept
        self._closed = False
        self._committed = threading.Condition()
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        sqlitefile.prepare(self.path)
        with self._translated("open"):
            self._writer = sqlitefile.connect(self.path, durable=durable)
            self._reader = sqlitefile.connect(self.path, durable=durable)
            self._revision_now()

    def revision(self) -> int:
        with self._reading():
            return self._revision_now()

    def get(self, kind: str, id: str) -> Entry | None:
        query = "SELECT body, revision FROM records WHERE kind = ? AND id = ?"
        with self._reading():
            row = self._reader.execute(query, (kind, id)).fetchone()
        return None if row is None else Entry(kind, id, from_text(row[0]), row[1])

    def list(self, kind: str) -> builtins.list[Entry]:
        query = "SELECT kind, id, body, revision FROM records WHERE kind = ? ORDER BY id"
        with self._reading():
            rows = self._reader.execute(query, (kind,)).fetchall()
        return _entries(rows)

    def snapshot(self) -> tuple[int, Iterator[Entry]]:
        with self._reading():
            connection = sqlitefile.connect(self.path)
            connection.execute("BEGIN")  # one state for all that it reads
            (revision,) = connection.execute("SELECT revision FROM state").fetchone()
        return int(revision), self._all(connection)

    def _all(self, connection: sqlite3.Connection) -> Iterator[Entry]:
        """A piece at a time: the whole store as objects takes five times the
        memory of the state that is made of it."""
        query = "SELECT kind, id, body, revision FROM records ORDER BY kind, id"
        with contextlib.closing(connection), self._translated("read"):
            cursor = connection.execute(query)
            while rows := cursor.fetchmany(_PIECE):
                yield from _entries(rows)

    def extents(self, kinds: Sequence[str]) -> dict[str, Extent]:
        with self._reading():
            rows = self._reader.execute(EXTENTS).fetchall()
        return extents_of(rows, kinds)

    def commit(self, transaction: Transaction) -> int:
        check_writes(transaction)
        bodies = [to_text(w.body) if isinstance(w, Put) else None for w in transaction.writes]
        with self._write_lock, self._translated("write"):
            self._check_open()
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                revision, changed = self._apply(transaction, bodies)
                self._writer.execute("COMMIT" if changed else "ROLLBACK")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise
        if changed:
            with self._committed:
                self._committed.notify_all()
        return revision

    def changes(self, since: int, limit: int = 1000) -> builtins.list[Change]:
        """As the protocol says; more than ``limit`` where the last whole
        transaction goes beyond it."""
        with self._reading():
            self._reader.execute("BEGIN")
            try:
                rows = self._changes_after(since, max(limit, 1))
            finally:
                self._reader.execute("ROLLBACK")
        return [
            Change(revision, kind, ident, None if body is None else from_text(body))
            for revision, kind, ident, body in rows
        ]

    def wait(self, since: int, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        with self._committed:
            while self.revision() <= since:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._committed.wait(min(left, _POLL_SECONDS))
        return True

    def close(self) -> None:
        """Threads in :meth:`wait` get StoreUnavailableError."""
        with self._write_lock, self._read_lock:
            self._closed = True
            self._reader.close()
            self._writer.close()
        with self._committed:
            self._committed.notify_all()

    def _revision_now(self) -> int:
        (revision,) = self._reader.execute("SELECT revision FROM state").fetchone()
        return int(revision)

    def _apply(self, transaction: Transaction, bodies: Sequence[str | None]) -> tuple[int, bool]:
        """Guards, then writes. The revision, and whether anything changed."""
        for guard in transaction.guards:
            self._check_guard(guard)
        (last,) = self._writer.execute("SELECT revision FROM state").fetchone()
        revision = last + 1
        changed = False
        for write, body in zip(transaction.writes, bodies, strict=True):
            changed |= self._write(write, body, revision)
        if not changed:
            return last, False
        self._writer.execute("UPDATE state SET revision = ?", (revision,))
        self._compact()
        return revision, True

    def _check_guard(self, guard: Guard) -> None:
        query = "SELECT revision FROM records WHERE kind = ? AND id = ?"
        row = self._writer.execute(query, (guard.kind, guard.id)).fetchone()
        if (row[0] if row else 0) != guard.revision:
            raise GuardFailedError(
                f"{guard.kind} {guard.id!r} was changed by somebody else", "try again"
            )

    def _write(self, write: Put | Delete, body: str | None, revision: int) -> bool:
        key = (write.kind, write.id)
        if body is None:
            query = "DELETE FROM records WHERE kind = ? AND id = ?"
            if self._writer.execute(query, key).rowcount == 0:
                return False
        else:
            query = "INSERT OR REPLACE INTO records (kind, id, body, revision) VALUES (?, ?, ?, ?)"
            self._writer.execute(query, (*key, body, revision))
        query = "INSERT INTO changes (revision, kind, id, body) VALUES (?, ?, ?, ?)"
        self._writer.execute(query, (revision, *key, body))
        return True

    def _compact(self) -> None:
        """Forget the oldest changes, whole transactions only.

        ``seq`` has no gaps, so its ends tell how many changes there are.
        """
        query = "SELECT (SELECT min(seq) FROM changes), (SELECT max(seq) FROM changes)"
        first, last = self._writer.execute(query).fetchone()
        if last - first < self._changes_kept * _COMPACT_SLACK:
            return
        query = "SELECT revision FROM changes WHERE seq = ?"
        (kept_from,) = self._writer.execute(query, (last - self._changes_kept + 1,)).fetchone()
        self._writer.execute("DELETE FROM changes WHERE revision < ?", (kept_from,))
        self._writer.execute("UPDATE state SET compacted = ?", (kept_from - 1,))

    def _changes_after(self, since: int, limit: int) -> Sequence[tuple[int, str, str, str | None]]:
        state = self._reader.execute("SELECT revision, compacted FROM state").fetchone()
        if not state[1] <= since <= state[0]:
            raise CompactedError(
                f"the changes after revision {since} are not kept "
                f"(they are from {state[1]} to {state[0]})",
                "take a new snapshot",
            )
        query = "SELECT revision FROM changes WHERE revision > ? ORDER BY revision LIMIT 1 OFFSET ?"
        row = self._reader.execute(query, (since, limit - 1)).fetchone()
        until = row[0] if row else state[0]
        query = (
            "SELECT revision, kind, id, body FROM changes"
            " WHERE revision > ? AND revision <= ? ORDER BY seq"
        )
        return self._reader.execute(query, (since, until)).fetchall()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        with self._read_lock, self._translated("read"):
            self._check_open()
            yield

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailableError(f"the state file {self.path} has been closed")

    @contextlib.contextmanager
    def _translated(self, operation: str) -> Iterator[None]:
        """Foreign exceptions become ours here."""
        try:
            yield
        except (sqlite3.Error, TypeError) as error:
            # TypeError: a row or table that must be there is not.
            raise _unavailable(operation, self.path, error) from error


def _unavailable(operation: str, path: Path, error: Exception) -> UnavailableError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    remedy = {
        sqlite3.SQLITE_FULL: "make room on its file system",
        sqlite3.SQLITE_READONLY: "make the file and its folder writable for root",
        sqlite3.SQLITE_BUSY: "another process holds it: find it with `fuser`, and try again",
        sqlite3.SQLITE_IOERR: "check the disk and the kernel's log",
    }.get(code, "restore it from a copy, or move it away to start empty")
    return StoreUnavailableError(f"cannot {operation} the state file {path}: {error}", remedy)


def extents_of(rows: Sequence[tuple[str, int, int]], kinds: Sequence[str]) -> dict[str, Extent]:
    """What EXTENTS answered, for these kinds."""
    found = {kind: Extent(count, newest) for kind, count, newest in rows}
    return {kind: found.get(kind, Extent()) for kind in kinds}


def _entries(rows: Sequence[tuple[str, str, str, int]]) -> list[Entry]:
    bodies = _bodies([row[2] for row in rows])
    return [
        Entry(kind, ident, body, revision)
        for (kind, ident, _, revision), body in zip(rows, bodies, strict=True)
    ]


def _bodies(texts: Sequence[str]) -> list[Json]:
    """Parsed in one go, which takes a third of the time of one by one."""
    try:
        whole = "[" + ",".join(texts) + "]"
        bodies: list[Json] = json.loads(whole)
        if len(bodies) == len(texts) and not may_be_unwritable(whole):
            return bodies
    except ValueError:
        pass
    return [from_text(text) for text in texts]
