# SPDX-License-Identifier: Apache-2.0
"""Indexes that names have in array maps, kept in the pinned map ``ids``.

A key of ``ids`` is a digest of kind and name, so that a daemon without memory
finds the index that it gave to a name before. Only port ranges have a key
that is not a digest (see ``map_ranges``).
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable
from enum import IntEnum
from hashlib import blake2b

from flyebpf.drivers.mapio import MapLike, Pair, explain, full, write_all

VALUE = struct.Struct("=IIQ")


class IdKind(IntEnum):
    """``kind`` in a value of ``ids``; an ABI of the pinned map."""

    SERVICE = 1
    TABLE = 2
    RANGE = 3
    APPLIED = 4


class IdTable:
    """The names of one kind. Indexes never used come first, then the one that
    has been free for longest: what still refers to an index is long gone when
    it gets its next owner."""

    def __init__(self, ids: MapLike, kind: IdKind, array: str, capacity: int) -> None:
        self._ids = ids
        self._kind = kind
        self._array = array
        self._capacity = capacity
        self._index: dict[bytes, int] = {}
        self._owner: dict[int, bytes] = {}
        self._digests: dict[bytes, int] = {}
        self._next = 0
        self._free: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._index)

    def load(self, entries: Iterable[Pair]) -> None:
        """Start from what ``ids`` holds; ``entries`` are all of its."""
        self._index, self._owner, self._digests = {}, {}, {}
        for key, value in entries:
            index, kind, content = VALUE.unpack(value)
            if kind == self._kind and index < self._capacity and index not in self._owner:
                self._owner[index] = key
                self._index[key] = index
                self._digests[key] = content
        self._next = max(self._owner, default=-1) + 1
        self._free = deque(i for i in range(self._next) if i not in self._owner)

    def digest(self, name: str) -> bytes:
        """The key of a name in ``ids``."""
        return blake2b(name.encode(), digest_size=16, person=bytes([self._kind])).digest()

    def find(self, digest: bytes) -> int | None:
        return self._index.get(digest)

    def owner(self, index: int) -> bytes | None:
        """The digest of the name that has an index."""
        return self._owner.get(index)

    def content(self, digest: bytes) -> int:
        """The fingerprint of the object's contents; 0 when nothing is known."""
        return self._digests.get(digest, 0)

    def all(self) -> dict[bytes, int]:
        """Digest to index of every name; not to be changed."""
        return self._index

    def allocate(self, digest: bytes) -> int:
        """An index for a name that has none; :meth:`store` makes it last.

        Raises UnappliedError when all are taken.
        """
        if self._next < self._capacity:
            index = self._next
            self._next += 1
        elif self._free:
            index = self._free.popleft()
        else:
            raise full(self._array)
        self._index[digest] = index
        self._owner[index] = digest
        return index

    def store(self, contents: Iterable[tuple[bytes, int]]) -> None:
        """Write names with their contents' fingerprints to ``ids``.

        Raises UnappliedError when it cannot hold them all.
        """
        pairs = []
        for digest, content in contents:
            self._digests[digest] = content
            pairs.append((digest, VALUE.pack(self._index[digest], self._kind, content)))
        for error in write_all(self._ids, pairs).values():
            raise explain("ids", error)

    def release(self, digest: bytes) -> int | None:
        """Forget a name; its index, now the last in the queue, or None."""
        self._ids.delete(digest)  # first: where it fails, the name is still known
        index = self._index.pop(digest, None)
        self._digests.pop(digest, None)
        if index is not None:
            del self._owner[index]
            self._free.append(index)
        return index
