# SPDX-License-Identifier: Apache-2.0
"""The ids under which the programs count and seal flows.

A service's name owns its id; several rows may share it. An id that nothing
refers to any more is free, with a new generation, so that flows of the old
service end.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

from flyebpf.drivers.map_ids import IdTable
from flyebpf.drivers.mapio import MapLike, Pair, UnappliedError, u32
from flyebpf.drivers.slot_value import following, generation_of
from flyebpf.model.rows import ReplyRow, Row, ServiceRow
from flyebpf.reconcile.base import Failure

MANY = 512  # rows from which on reading a whole map beats single look-ups


class ServiceIds:
    """Ids by name, and how many rows refer to each: from services and from
    replies, counted apart so that each can be counted anew."""

    def __init__(
        self, ids: IdTable, states: MapLike, stats: MapLike, capacity: int, stats_size: int
    ) -> None:
        """``stats_size``: bytes of a value of ``service_stats``, all CPUs."""
        self.ids = ids
        self._states = states
        self._stats = stats
        self._zeros = bytes(stats_size)
        self._refs: dict[type[Row], array[int]] = {
            kind: array("I", bytes(4 * capacity)) for kind in (ServiceRow, ReplyRow)
        }
        self._counted: set[type[Row]] = set()
        self._idle: set[int] = set()

    def find(self, name: str) -> int | None:
        return self.ids.find(self.ids.digest(name))

    def ensure(self, names: Iterable[str]) -> None:
        """Every name has an id, with counters at zero when it is new."""
        fresh: dict[bytes, int] = {}
        for name in names:
            digest = self.ids.digest(name)
            if self.ids.find(digest) is None:
                index = self.ids.allocate(digest)
                fresh[digest] = index
                if any(self._states.lookup(u32(index)) or b""):
                    self._stats.update(u32(index), self._zeros)
        self.ids.store((digest, 0) for digest in fresh)

    def recount(self, kind: type[Row], ids: Iterable[int | None]) -> None:
        """What all rows of a kind in the kernel refer to."""
        refs = self._refs[kind]
        refs[:] = array("I", bytes(4 * len(refs)))
        for index in ids:
            if index is not None:
                refs[index] += 1
        self._counted.add(kind)

    def move(self, kind: type[Row], old: int | None, new: int | None) -> None:
        """A row of ``kind`` now refers to ``new`` instead of ``old``."""
        refs = self._refs[kind]
        if new is not None:
            refs[new] += 1
        if old is not None and refs[old]:
            refs[old] -= 1
            self._idle.add(old)

    def free_idle(self) -> None:
        """Free the ids that lost their last row since the last call: flows of
        such a service end now."""
        idle, self._idle = self._idle, set()
        for index in idle:
            self._free(index)

    def sweep(self) -> None:
        """Free all ids that nothing refers to."""
        for index in list(self.ids.all().values()):
            self._free(index)

    def _free(self, index: int) -> None:
        """Only after both kinds of rows have been counted."""
        digest = self.ids.owner(index)
        used = any(refs[index] for refs in self._refs.values())
        if digest is None or used or len(self._counted) < len(self._refs):
            return
        state = self._states.lookup(u32(index)) or bytes(8)
        self._states.update(u32(index), u32(following(generation_of(state))) + bytes(4))
        self.ids.release(digest)


def ensure_ids(ids: ServiceIds, rows: Sequence[ServiceRow] | Sequence[ReplyRow]) -> list[Failure]:
    """Ids for all; when they do not fit, for as many rows as possible."""
    try:
        ids.ensure({row.service: None for row in rows})
        return []
    except UnappliedError:
        pass
    failures = []
    for row in rows:
        try:
            ids.ensure((row.service,))
        except UnappliedError as error:
            failures.append(error.failure(type(row), row.key))
    return failures


def look_up(table: MapLike, keys: Iterable[bytes]) -> dict[bytes, bytes]:
    """The present values of ``keys``, those that there are."""
    wanted = list(keys)
    if len(wanted) >= MANY:
        return dict(pair for pair in table.items())
    pairs: list[Pair] = []
    for key in wanted:
        value = table.lookup(key)
        if value is not None:
            pairs.append((key, value))
    return dict(pairs)
