# SPDX-License-Identifier: Apache-2.0
"""What a store is: records with revisions, transactions and a watch.

Every committed transaction gets the next revision. A record's revision is that
of the transaction that last wrote it. Guards make transactions safe against
concurrent writers, also those on other hosts.
"""

from __future__ import annotations

import builtins  # `list` is a method here
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from flyebpf.errors import FlyebpfError, UnavailableError

Json = dict[str, Any]
ABSENT = 0
"""The revision of a record that does not exist, for :class:`Guard`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored record. ``body`` is its JSON object."""

    kind: str
    id: str
    body: Json
    revision: int


@dataclass(frozen=True, slots=True)
class Guard:
    """The transaction commits only if the record's revision is still this."""

    kind: str
    id: str
    revision: int


@dataclass(frozen=True, slots=True)
class Put:
    """``ttl``: seconds after which the record disappears unless it is put again;
    for records that say that their writer is alive. Stores of one host, which
    nobody else watches, ignore it."""

    kind: str
    id: str
    body: Json
    ttl: int | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    kind: str
    id: str


@dataclass(frozen=True, slots=True)
class Transaction:
    """All or nothing."""

    guards: tuple[Guard, ...] = ()
    writes: tuple[Put | Delete, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """One record written (``body``) or deleted (``body is None``)."""

    revision: int
    kind: str
    id: str
    body: Json | None


@dataclass(frozen=True, slots=True)
class Extent:
    """How many records of a kind there are, and the revision of the one that was
    written last; 0 where there is none."""

    count: int = 0
    newest: int = 0


class GuardFailedError(FlyebpfError):
    """Somebody else wrote a guarded record first: read again and retry."""

    code = "guard_failed"
    http_status = 409


class CompactedError(FlyebpfError):
    """The changes asked for are gone: take a new snapshot."""

    code = "compacted"


class StoreUnavailableError(UnavailableError):
    """The store cannot be read or written now."""


class Store(Protocol):
    """Thread safe. Raises :class:`StoreUnavailableError` where it cannot work."""

    def revision(self) -> int:
        """The revision of the last committed transaction, as far as this client
        has heard of it; its own are included. They grow, but not always by one."""

    def get(self, kind: str, id: str) -> Entry | None:
        """One record, or None."""

    def list(self, kind: str) -> list[Entry]:
        """All records of a kind, by id."""

    def snapshot(self) -> tuple[int, Iterator[Entry]]:
        """Every record by kind and id, and the revision that this is the state
        at. What is written meanwhile is not in it."""

    def extents(self, kinds: Sequence[str]) -> dict[str, Extent]:
        """Of each of ``kinds``, all at one moment; without reading the records."""

    def commit(self, transaction: Transaction) -> int:
        """Apply it and return its revision, or raise GuardFailedError.

        A transaction that changes nothing (no writes, or deletes of what is
        absent) gets no revision of its own: the last one is returned.
        """

    def changes(self, since: int, limit: int = 1000) -> builtins.list[Change]:
        """Changes after revision ``since``, in order; whole transactions only.

        ``limit`` is exceeded rather than a transaction split. Raises
        CompactedError when they are no longer kept, or ``since`` is ahead of
        the store (it is another one than before).
        """

    def wait(self, since: int, timeout: float) -> bool:
        """Block until there is a change after ``since``; False on timeout."""

    def close(self) -> None:
        """Release files and connections."""


@runtime_checkable
class Remembering(Protocol):
    """A store that has a copy of what was read of it last."""

    def remembered(self) -> Store | None:
        """The copy, to be looked at while the store is away: nothing can be
        written to it. None where there is no copy."""

    def from_copy(self) -> bool:
        """Whether reads come from it: the store has not been heard of yet."""


def check_writes(transaction: Transaction) -> None:
    """For implementations: ValueError if a record is written twice."""
    keys = {(write.kind, write.id) for write in transaction.writes}
    if len(keys) != len(transaction.writes):
        raise ValueError("a transaction writes one record twice")


def guard_all(entries: Iterable[Entry]) -> tuple[Guard, ...]:
    """Guards that say that none of ``entries`` has changed."""
    return tuple(Guard(e.kind, e.id, e.revision) for e in entries)
