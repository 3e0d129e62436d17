# SPDX-License-Identifier: Apache-2.0
"""Port ranges as entries of the LPM trie ``service_ranges``.

Which ranges there are cannot be told from the trie, since neighbours look like
one: each has an entry in ``ids``, whose key spells it out.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Iterable, Iterator
from typing import NamedTuple

from flyebpf.drivers.map_ids import VALUE, IdKind
from flyebpf.drivers.mapio import MapLike, Pair, explain, write_all

FIXED = 48  # prefix bits before the port
LPM_KEY = struct.Struct("=I4sBx2s")  # prefixlen, vip, proto, port
NOTE_KEY = struct.Struct("=5sIBHH2x")
MARK = b"range"


class RangeKey(NamedTuple):
    """``vip``: index in ``vips``; ports inclusive."""

    vip: int
    proto: int
    first: int
    last: int

    def prefixes(self) -> Iterator[bytes]:
        """Keys of the trie that make up the range, at most 30."""
        start = self.first
        while start <= self.last:
            size = start & -start or 1 << 16
            while start + size - 1 > self.last:
                size >>= 1
            bits = FIXED + 16 - (size.bit_length() - 1)
            vip = self.vip.to_bytes(4, "big")
            yield LPM_KEY.pack(bits, vip, self.proto, start.to_bytes(2, "big"))
            start += size

    def note(self) -> bytes:
        """Its key in ``ids``."""
        return NOTE_KEY.pack(MARK, *self)


class Ranges:
    """The ranges in the kernel. ``owners`` of a trie entry: ranges that need
    it, the last one's value being there; while one range replaces another they
    can share entries."""

    def __init__(self, table: MapLike, ids: MapLike) -> None:
        self._table = table
        self._ids = ids
        self._values: dict[RangeKey, bytes] = {}
        self._owners: dict[bytes, list[RangeKey]] = {}

    def load(self, entries: Iterable[Pair]) -> None:
        """Start from what ``ids`` holds; ``entries`` are all of its."""
        self._values, self._owners = {}, {}
        for raw, value in entries:
            if VALUE.unpack(value)[1] == IdKind.RANGE and raw.startswith(MARK):
                key = RangeKey(*NOTE_KEY.unpack(raw)[1:])
                present = self._table.lookup(next(key.prefixes()))
                self._own(key, present or b"")

    def _own(self, key: RangeKey, value: bytes) -> None:
        self._values[key] = value
        for prefix in key.prefixes():
            owners = self._owners.setdefault(prefix, [])
            if key in owners:
                owners.remove(key)
            owners.append(key)

    def read(self) -> dict[Hashable, object]:
        """Ranges to their value (in a tuple where the trie does not have it
        everywhere), and entries of no range, under their raw key."""
        actual = dict(self._table.items())
        found: dict[Hashable, object] = {}
        for key, value in self._values.items():
            whole = value and all(actual.get(prefix) == value for prefix in key.prefixes())
            found[key] = value if whole else (value,)
        found.update((raw, actual[raw]) for raw in actual.keys() - self._owners.keys())
        return found

    def put(self, key: RangeKey, value: bytes) -> bytes | None:
        """Create or replace; the value before. Raises UnappliedError."""
        for error in write_all(self._ids, [(key.note(), VALUE.pack(0, IdKind.RANGE, 0))]).values():
            raise explain("ids", error)
        old = self._values.get(key)
        self._own(key, value)
        pairs = [(prefix, value) for prefix in key.prefixes()]
        for error in write_all(self._table, pairs).values():
            raise explain("service_ranges", error)
        return old or None

    def remove(self, key: RangeKey) -> bytes | None:
        """Delete; the value before. Entries that another range needs stay,
        with that range's value."""
        old = self._values.pop(key, None)
        for prefix in key.prefixes():
            owners = [owner for owner in self._owners.get(prefix, ()) if owner != key]
            if owners:
                self._owners[prefix] = owners
                self._table.update(prefix, self._values[owners[-1]])
            else:
                self._owners.pop(prefix, None)
                self._table.delete(prefix)
        self._ids.delete(key.note())
        return old or None

    def remove_stray(self, raw: bytes) -> bytes | None:
        """Delete an entry if it belongs to no range by now; the value before."""
        if raw in self._owners:
            return None
        old = self._table.lookup(raw)
        self._table.delete(raw)
        return old
