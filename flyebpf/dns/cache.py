# SPDX-License-Identifier: Apache-2.0
"""Answers of resolvers, kept as messages that only need a new front and TTLs."""

from __future__ import annotations

import struct
from typing import NamedTuple

from flyebpf.dns import wire
from flyebpf.dns.wire import CD, HEADER, QR, RA, RD, Query

STALE_TTL = 30
"""Of records that are answered after their time (RFC 8767, section 4), seconds."""
_OVERHEAD = 400  # bytes of an entry beside its message, about


class Key(NamedTuple):
    """What an answer depends on. ``name``: wire form, lower case."""

    name: bytes
    type: int
    do: bool
    cd: bool


class Entry(NamedTuple):
    """``message``: without OPT, its question in lower case and first. ``ttls``:
    offset in it and value of each. ``stored``, ``expires``: monotonic seconds."""

    message: bytes
    rcode: int
    ttls: tuple[tuple[int, int], ...]
    stored: float
    expires: float

    def answer(self, query: Query, limit: int, now: float) -> bytes:
        """The message for a query, of at most ``limit`` bytes."""
        tail = wire.opt(query)
        if len(self.message) + len(tail) > limit:
            return wire.truncated(query)
        message = bytearray(self.message)
        flags = QR | RA | query.flags & (RD | CD) | self.rcode
        struct.pack_into("!HH", message, 0, query.id, flags)
        message[11] = bool(tail)  # ARCOUNT
        message[HEADER : HEADER + len(query.asked)] = query.asked
        age = int(now - self.stored)
        stale = now >= self.expires
        for offset, ttl in self.ttls:
            left = STALE_TTL if stale else max(ttl - age, 0)
            struct.pack_into("!I", message, offset, left)
        return bytes(message) + tail


class Cache:
    """The entries that were used last, of ``size`` bytes together at most. An
    entry is kept after its time, for when no resolver can be reached."""

    def __init__(self, size: int, stale: float) -> None:
        """``stale``: seconds after its time that an entry may still be answered."""
        self._size = size
        self._stale = stale
        self._entries: dict[Key, Entry] = {}
        self.used = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key, now: float) -> Entry | None:
        """The entry, which may be stale."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        if now >= entry.expires + self._stale:
            self.used -= _cost(key, entry)
            return None
        self._entries[key] = entry  # the last used is the last in order
        return entry

    def put(self, key: Key, entry: Entry) -> None:
        old = self._entries.pop(key, None)
        if old is not None:
            self.used -= _cost(key, old)
        self._entries[key] = entry
        self.used += _cost(key, entry)
        while self.used > self._size and self._entries:
            first = next(iter(self._entries))
            self.used -= _cost(first, self._entries.pop(first))


def _cost(key: Key, entry: Entry) -> int:
    return _OVERHEAD + len(key.name) + len(entry.message) + 80 * len(entry.ttls)
