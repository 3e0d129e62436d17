# SPDX-License-Identifier: Apache-2.0
"""Maglev tables (Eisenbud et al., "Maglev: A Fast and Reliable Software
Network Load Balancer", NSDI 2016, section 3.4).

Every host builds the same table from the same names and seed, so a flow that
arrives at another host still reaches the same machine.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b

SMALL, MEDIUM, LARGE = 2039, 65537, 655373
"""Primes, so that every skip walks the whole table."""

_SEED_MASK = (1 << 64) - 1


def table_size(backends: int) -> int:
    """Entries of a table for so many backends: at least 100 for each of them,
    so that their shares differ by less than 1 %, up to 6,553 backends."""
    if backends <= 1:
        return backends
    if backends <= 16:
        return SMALL
    return MEDIUM if backends <= 256 else LARGE


def build(backends: Sequence[str], size: int, seed: int) -> array[int]:
    """A table of ``size`` entries (typecode ``I``), each an index into ``backends``.

    ``size`` is 0 (no backend), 1 (one backend) or a prime not smaller than
    the number of backends. The order of ``backends`` does not change which
    name an entry stands for. Raises ValueError for arguments that make no
    table.
    """
    count = len(backends)
    if len(set(backends)) != count:
        raise ValueError("a backend is named twice")
    if size < count or (size and not count):
        raise ValueError(f"{count} backends do not make a table of {size} entries")
    if count <= 1:
        return array("I", bytes(4 * size))
    turns = sorted(range(count), key=backends.__getitem__)
    walks = [_walk(backends[i], size, seed) for i in turns]
    return _populate(turns, walks, size)


def _walk(name: str, size: int, seed: int) -> tuple[int, int]:
    """Where a backend's permutation of the entries starts, and its step."""
    key = (seed & _SEED_MASK).to_bytes(8, "big")
    digest = blake2b(name.encode(), digest_size=16, key=key).digest()
    offset = int.from_bytes(digest[:8], "big") % size
    skip = int.from_bytes(digest[8:], "big") % (size - 1) + 1
    return offset, skip


def _populate(turns: list[int], walks: list[tuple[int, int]], size: int) -> array[int]:
    """Backends take turns; each takes the first free entry on its walk."""
    table = array("I", bytes(4 * size))
    taken = bytearray(size)
    at = [offset for offset, _ in walks]
    players = [
        (turn, backend, skip)
        for turn, (backend, (_, skip)) in enumerate(zip(turns, walks, strict=True))
    ]
    rounds, rest = divmod(size, len(turns))
    for number in range(rounds + 1):
        for turn, backend, skip in players if number < rounds else players[:rest]:
            entry = at[turn]
            while taken[entry]:
                entry += skip
                if entry >= size:
                    entry -= size
            taken[entry] = 1
            table[entry] = backend
            at[turn] = entry
    return table
