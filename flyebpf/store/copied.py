# SPDX-License-Identifier: Apache-2.0
"""A shared store, and a copy of it for a start while it is away.

Until the shared store has been heard of for the first time, reads come from the
copy; after that, never again. Writes always go to the shared store. When it
comes, the copy's revision is too old for it to go on from there, so whoever
follows the changes is told to take a new snapshot.
"""

from __future__ import annotations

import builtins  # `list` is a method here
from collections.abc import Iterator, Sequence

from flyebpf.store.base import Change, Entry, Extent, Store, StoreUnavailableError, Transaction
from flyebpf.store.etcd import EtcdStore
from flyebpf.store.sqlitecopy import Copy


class CopiedStore:
    """:class:`flyebpf.store.base.Store`."""

    def __init__(self, store: EtcdStore, copy: Copy) -> None:
        self._store = store
        self._copy = copy
        self._heard = False

    def from_copy(self) -> bool:
        """Whether reads come from the copy."""
        if self._heard:
            return False
        try:
            self._store.revision()
            self._heard = True
        except StoreUnavailableError:
            return self._copy.revision() is not None
        return False

    def revision(self) -> int:
        if self.from_copy():
            return self._copy.revision() or 0
        return self._store.revision()

    def get(self, kind: str, id: str) -> Entry | None:
        return self._copy.get(kind, id) if self.from_copy() else self._store.get(kind, id)

    def list(self, kind: str) -> builtins.list[Entry]:
        return builtins.list(self._copy.list(kind)) if self.from_copy() else self._store.list(kind)

    def snapshot(self) -> tuple[int, Iterator[Entry]]:
        if self.from_copy():
            return self._copy.revision() or 0, self._copy.list()
        revision, entries = self._store.snapshot()
        return revision, self._copy.replaced(revision, entries)

    def extents(self, kinds: Sequence[str]) -> dict[str, Extent]:
        if self.from_copy():
            return self._copy.extents(kinds)
        return self._store.extents(kinds)

    def commit(self, transaction: Transaction) -> int:
        return self._store.commit(transaction)

    def changes(self, since: int, limit: int = 1000) -> builtins.list[Change]:
        if self.from_copy() and since == self._copy.revision():
            return []
        changes = self._store.changes(since, limit)
        known = self._copy.revision() if changes else None
        # Whoever asks first brings it on; the others may be some changes behind it.
        if known is not None and since <= known < changes[-1].revision:
            self._copy.apply(changes)
        return changes

    def wait(self, since: int, timeout: float) -> bool:
        return self._store.wait(since, timeout)

    def remembered(self) -> Store | None:
        return None if self._copy.revision() is None else ReadCopy(self._copy)

    def close(self) -> None:
        self._store.close()
        self._copy.close()


class ReadCopy:
    """:class:`flyebpf.store.base.Store` of a copy, as it is now."""

    def __init__(self, copy: Copy) -> None:
        self._copy = copy

    def revision(self) -> int:
        return self._copy.revision() or 0

    def get(self, kind: str, id: str) -> Entry | None:
        return self._copy.get(kind, id)

    def list(self, kind: str) -> builtins.list[Entry]:
        return builtins.list(self._copy.list(kind))

    def snapshot(self) -> tuple[int, Iterator[Entry]]:
        return self.revision(), self._copy.list()

    def extents(self, kinds: Sequence[str]) -> dict[str, Extent]:
        return self._copy.extents(kinds)

    def commit(self, transaction: Transaction) -> int:
        raise StoreUnavailableError("a copy of the store cannot be written", "try again later")

    def changes(self, since: int, limit: int = 1000) -> builtins.list[Change]:
        return []

    def wait(self, since: int, timeout: float) -> bool:
        return False

    def close(self) -> None:
        """It is the copy's owner that closes it."""
