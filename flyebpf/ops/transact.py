# SPDX-License-Identifier: Apache-2.0
"""Read, decide, write: optimistic transactions over records.

What an operation reads through :class:`Tx` is guarded: if somebody else writes
it before the commit, the operation runs again from the start.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from flyebpf import collector
from flyebpf.errors import InvalidError, NotFoundError, UnavailableError
from flyebpf.model.codec import decode, encode
from flyebpf.model.names import did_you_mean
from flyebpf.model.records import AnyRecord
from flyebpf.store.base import (
    ABSENT,
    Delete,
    Entry,
    Guard,
    GuardFailedError,
    Put,
    Store,
    Transaction,
)

R = TypeVar("R", bound=AnyRecord)
T = TypeVar("T")

_ATTEMPTS = 200
_LONGEST_PAUSE = 0.02  # seconds

_NOUNS = {"org": "organization", "wireguard_peer": "WireGuard peer"}
_LISTED_BY = {
    "org": "flyebpf orgs list",
    "network": "flyebpf networks list",
    "app": "flyebpf apps list",
    "machine": "flyebpf machines list",
    "host": "flyebpf hosts list",
    "wireguard_peer": "flyebpf wireguard list",
}
_CREATED_BY = {
    "org": "flyebpf orgs create {}",
    "app": "flyebpf apps create {} -o ORG",
}


class Tx:
    """One attempt. Reads see the writes made before them in it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._revisions: dict[tuple[str, str], int] = {}
        self._records: dict[tuple[str, str], AnyRecord | None] = {}
        self._writes: dict[tuple[str, str], AnyRecord | None] = {}

    def get(self, cls: type[R], ident: str) -> R | None:
        """The record, or None; guarded either way."""
        key = (_kind(cls), ident)
        if key in self._writes:
            return cast("R | None", self._writes[key])
        if key not in self._records:
            entry = self.store.get(*key)
            self._revisions[key] = entry.revision if entry else ABSENT
            self._records[key] = decode(entry.kind, entry.body) if entry else None
        return cast("R | None", self._records[key])

    def glance(self, cls: type[R], ident: str) -> R | None:
        """The record, or None, without a guard of its own: for one that nobody
        writes without writing another one that is guarded. Stores take only so
        many guards at once."""
        key = (_kind(cls), ident)
        if key in self._writes:
            return cast("R | None", self._writes[key])
        entry = self.store.get(*key)
        return cast("R", decode(entry.kind, entry.body)) if entry else None

    def require(self, cls: type[R], ident: str) -> R:
        """The record; NotFoundError that suggests a similar one."""
        record = self.get(cls, ident)
        if record is None:
            raise not_found(self.store, _kind(cls), ident)
        return record

    def is_free(self, cls: type[AnyRecord], ident: str) -> bool:
        """Whether there is no such record. Guarded only when it is free, so
        that looking for a free one depends on nobody else's records."""
        key = (_kind(cls), ident)
        if key in self._writes:
            return self._writes[key] is None
        if self.store.get(*key) is not None:
            return False
        self._revisions.setdefault(key, ABSENT)
        return True

    def put(self, record: AnyRecord) -> None:
        """Write a record; it is guarded also when nobody read it before."""
        key = (record.kind, record.ident)
        if key not in self._revisions:
            self.get(type(record), record.ident)
        self._writes[key] = record

    def put_unguarded(self, record: AnyRecord) -> None:
        """Write a record that, as with :meth:`glance`, nobody writes without
        writing another one that is guarded."""
        self._writes[record.kind, record.ident] = record

    def touch(self, record: AnyRecord) -> None:
        """Write a record as it is: whoever guards it has to look again."""
        self.put(record)

    def delete(self, cls: type[AnyRecord], ident: str) -> None:
        """Delete a record, if it is there."""
        self._writes[_kind(cls), ident] = None

    def commit(self) -> None:
        """Raises GuardFailedError. Does nothing when nothing was written."""
        if not self._writes:
            return
        guards = tuple(Guard(*key, revision) for key, revision in self._revisions.items())
        writes = tuple(
            Delete(*key) if record is None else Put(*key, encode(record))
            for key, record in self._writes.items()
        )
        self.store.commit(Transaction(guards, writes))


def transact(store: Store, action: Callable[[Tx], T]) -> T:
    """Run ``action`` until what it read is still true at its commit.

    ``action`` has no effects but through its ``Tx``. Raises what it raises, and
    UnavailableError when others win every time.
    """
    for attempt in range(_ATTEMPTS):
        tx = Tx(store)
        result = action(tx)
        try:
            tx.commit()
        except GuardFailedError:
            time.sleep(random.uniform(0, min(0.0005 * 2 ** min(attempt, 10), _LONGEST_PAUSE)))
            continue
        return result
    raise UnavailableError(
        f"others changed the same records {_ATTEMPTS} times during the operation", "try again"
    )


def find(store: Store, cls: type[R], ident: str) -> R:
    """A record as it is now; NotFoundError that suggests a similar one."""
    return Tx(store).require(cls, ident)


def every(store: Store, cls: type[R], **values: str) -> list[R]:
    """All records of a kind whose fields are ``values``, by id.

    One that cannot be decoded is left out: it is quarantined, and `status`
    reports it.
    """
    wanted = values.items()
    with collector.paused():
        found = (
            _decoded(entry)
            for entry in store.list(_kind(cls))
            if all(entry.body.get(key) == value for key, value in wanted)
        )
        return [cast("R", record) for record in found if record is not None]


@contextmanager
def sound(what: str) -> Iterator[None]:
    """What is made here of a record that nobody of us wrote may be impossible:
    ValueError becomes InvalidError, which names ``what``."""
    try:
        yield
    except ValueError as error:
        raise InvalidError(
            f"the record of {what} is damaged: {error}",
            "`flyebpf status` shows damaged records: correct it in the store, or remove it",
        ) from error


def _decoded(entry: Entry) -> AnyRecord | None:
    try:
        return decode(entry.kind, entry.body)
    except InvalidError:
        return None


def not_found(store: Store, kind: str, ident: str) -> NotFoundError:
    """The error for a record that a user named and that is not there."""
    noun = _NOUNS.get(kind, kind)
    hint = did_you_mean(ident, (entry.id for entry in store.list(kind)))
    if not hint and kind in _CREATED_BY:
        hint = f"`{_CREATED_BY[kind].format(ident)}` creates it."
    listed = f"`{_LISTED_BY[kind]}` shows all." if kind in _LISTED_BY else ""
    return NotFoundError(f"{noun} {ident!r} does not exist", f"{hint} {listed}".strip())


def _kind(cls: Any) -> str:
    kind: str = cls.kind
    return kind
