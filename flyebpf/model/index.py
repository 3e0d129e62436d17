# SPDX-License-Identifier: Apache-2.0
"""Indexes over the state, kept record by record."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from ipaddress import IPv4Network


class Index:
    """Words to sets of record ids, small where a word has one id only."""

    __slots__ = ("_ids",)

    def __init__(self) -> None:
        self._ids: dict[object, str | set[str]] = {}

    def add(self, word: object, id: str) -> None:
        have = self._ids.get(word)
        if have is None:
            self._ids[word] = id
        elif isinstance(have, set):
            have.add(id)
        elif have != id:
            self._ids[word] = {have, id}

    def discard(self, word: object, id: str) -> None:
        have = self._ids.get(word)
        if isinstance(have, set):
            have.discard(id)
            if len(have) == 1:
                self._ids[word] = have.pop()
        elif have == id:
            del self._ids[word]

    def __getitem__(self, word: object) -> list[str]:
        """The ids of ``word``, sorted; empty when there are none."""
        have = self._ids.get(word)
        if have is None:
            return []
        return sorted(have) if isinstance(have, set) else [have]

    def count(self, word: object) -> int:
        """How many ids ``word`` has."""
        have = self._ids.get(word)
        return len(have) if isinstance(have, set) else int(have is not None)

    def __contains__(self, word: object) -> bool:
        return word in self._ids

    def only(self, word: object, id: str) -> bool:
        """Whether ``id`` is the only one of ``word``."""
        return self._ids.get(word) == id

    def words(self) -> Iterable[object]:
        return self._ids.keys()


class Blocks:
    """IPv4 prefixes and who has them. Two of them overlap only when one contains
    the other, so those that do are found without looking at all."""

    def __init__(self) -> None:
        self._of: dict[IPv4Network, set[str]] = {}
        self._sorted: list[tuple[int, int]] = []  # first address, prefix length
        self._lengths: dict[int, int] = {}  # how many prefixes of each length

    def add(self, block: IPv4Network, id: str) -> None:
        if block not in self._of:
            insort(self._sorted, (int(block.network_address), block.prefixlen))
            self._lengths[block.prefixlen] = self._lengths.get(block.prefixlen, 0) + 1
        self._of.setdefault(block, set()).add(id)

    def discard(self, block: IPv4Network, id: str) -> None:
        have = self._of.get(block, set())
        have.discard(id)
        if block in self._of and not have:
            del self._of[block]
            place = (int(block.network_address), block.prefixlen)
            del self._sorted[bisect_left(self._sorted, place)]
            self._lengths[block.prefixlen] -= 1

    def overlapping(self, block: IPv4Network) -> set[str]:
        """The ids of all prefixes that share an address with ``block``."""
        found: set[str] = set()
        for length, count in self._lengths.items():
            if count and length <= block.prefixlen:
                found |= self._of.get(block.supernet(new_prefix=length), set())
        at = bisect_left(self._sorted, (int(block.network_address), block.prefixlen))
        for first, length in self._sorted[at:]:
            if first > int(block.broadcast_address):
                break
            found |= self._of[IPv4Network((first, length))]
        return found
