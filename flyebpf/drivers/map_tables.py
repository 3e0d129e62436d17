# SPDX-License-Identifier: Apache-2.0
"""``tables`` and ``maglev``: which machine a new flow of a service goes to."""

from __future__ import annotations

import time
from array import array
from binascii import crc32
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from flyebpf.drivers.map_ids import IdTable
from flyebpf.drivers.map_slots import SlotPart
from flyebpf.drivers.mapio import MapLike, Pair, UnappliedError, explain, full, u32, write_all
from flyebpf.drivers.segments import Segments
from flyebpf.errors import KernelError
from flyebpf.model.rows import Row, TableRow
from flyebpf.reconcile.base import Failure

BuildTable = Callable[[Sequence[str], int], "array[int]"]
"""(backends, size) to the entries, each an index of ``backends``."""

CHUNK = 65_536  # entries of maglev written before their tables are switched
SAMPLE = 8_192  # entries of maglev compared with their checksum in one read


@dataclass(frozen=True, slots=True)
class Wanted:
    """A table about to be written. ``content`` is what ``ids`` will hold."""

    row: TableRow
    digest: bytes
    start: int
    entries: array[int]
    content: int


class TablePart:
    """A new table is written beside the old one and then switched to by one
    8-byte write; the old run is reused only after a while."""

    kind: type[Row] = TableRow

    def __init__(
        self,
        tables: MapLike,
        maglev: MapLike,
        ids: IdTable,
        slots: SlotPart,
        *,
        capacity: int,
        entries: int,
        build: BuildTable,
        size_of: Callable[[int], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``capacity`` of ``tables``, ``entries`` of ``maglev``; ``size_of``
        gives a table's size for a number of backends."""
        self._tables = tables
        self._maglev = maglev
        self.ids = ids
        self._slots = slots
        self._build = build
        self._size_of = size_of
        self.segments = Segments(entries, clock)
        self._start = array("I", bytes(4 * capacity))
        self._size = array("I", bytes(4 * capacity))
        self._names: dict[bytes, str] = {}
        self._cursor = 0

    def load(self) -> None:
        """Take over the runs that the tables of ``ids`` have."""
        used: list[tuple[int, int]] = []
        mine = {index: digest for digest, index in self.ids.all().items()}
        for key, value in self._tables.filled():
            index = int.from_bytes(key, "little")
            if index in mine:
                self._start[index] = int.from_bytes(value[:4], "little")
                self._size[index] = int.from_bytes(value[4:], "little")
                if self._size[index]:
                    used.append((self._start[index], self._size[index]))
        bad = self.segments.load(used)
        for index in mine:
            if (self._start[index], self._size[index]) in bad:
                self._start[index] = self._size[index] = 0  # differs from the kernel: rewritten

    def learn(self, rows: Sequence[TableRow]) -> None:
        """Names that digests in ``ids`` may stand for."""
        for row in rows:
            self._names[self.ids.digest(row.name)] = row.name

    def index(self, name: str) -> int | None:
        return self.ids.find(self.ids.digest(name))

    def read(self) -> dict[Hashable, object]:
        """Tables whose name is not known are called by their digest."""
        actual = {int.from_bytes(key, "little"): value for key, value in self._tables.filled()}
        spoiled = self._spot_check()
        found: dict[Hashable, object] = {}
        for digest, index in self.ids.all().items():
            run = self._value(index)
            same = actual.get(index, bytes(8)) == run and index not in spoiled
            content = self.ids.content(digest) >> 24 if same else None
            found[self._names.get(digest, digest)] = (content, self._size[index])
        return found

    def _value(self, index: int) -> bytes:
        """The entry of ``tables`` that should be there."""
        return u32(self._start[index]) + u32(self._size[index])

    def _spot_check(self) -> set[int]:
        """Tables whose entries are not those that were written; a few at each
        reading, in turns."""
        spoiled: set[int] = set()
        order = list(self.ids.all().items())
        budget = SAMPLE
        for turn in range(len(order)):
            digest, index = order[(self._cursor + turn) % len(order)]
            budget -= max(self._size[index], 1)
            if budget < 0 and turn:
                self._cursor = (self._cursor + turn) % len(order)
                break
            start = self._start[index]
            run = (self._maglev.lookup(u32(start + i)) or b"" for i in range(self._size[index]))
            if checksum(b"".join(run)) != self.ids.content(digest) & 0xFFFFFF:
                spoiled.add(index)
        return spoiled

    def fingerprint(self, row: Row) -> object:
        assert isinstance(row, TableRow)
        self._names[self.ids.digest(row.name)] = row.name
        slots = self._members(row)
        return summary(slots), self._size_of(len(slots))

    def _members(self, row: TableRow) -> dict[str, int]:
        """Machines that can be delivered to, and their slots. The others are
        reported as what they are: slots that could not be applied."""
        found = {machine: self._slots.ready(machine) for machine in row.backends}
        return {machine: slot for machine, slot in found.items() if slot is not None}

    def apply(self, puts: Sequence[Row], deletes: Sequence[Hashable]) -> list[Failure]:
        failures: list[Failure] = []
        batch: list[Wanted] = []
        pending = 0
        for row in puts:
            assert isinstance(row, TableRow)
            try:
                wanted = self._prepare(row)
            except UnappliedError as error:
                failures.append(error.failure(TableRow, row.key))
                continue
            batch.append(wanted)
            pending += len(wanted.entries) + 1
            if pending >= CHUNK:
                failures += self._write(batch)
                batch, pending = [], 0
        failures += self._write(batch)
        for key in deletes:
            failures += self._delete(key)
        return failures

    def _prepare(self, row: TableRow) -> Wanted:
        digest = self.ids.digest(row.name)
        self._names[digest] = row.name
        slots = self._members(row)
        size = self._size_of(len(slots))
        indexes = array("I", slots.values())
        entries = array("I", (indexes[i] for i in self._build(list(slots), size)))
        if self.ids.find(digest) is None:
            self.ids.allocate(digest)
        start = self.segments.allocate(size) if size else 0
        if start is None:
            raise full("maglev")
        content = summary(slots) << 24 | checksum(entries.tobytes())
        return Wanted(row, digest, start, entries, content)

    def _write(self, batch: Sequence[Wanted]) -> list[Failure]:
        """Entries, then the switch, then the note of what is there."""
        entries: list[Pair] = [
            (u32(wanted.start + i), u32(slot))
            for wanted in batch
            for i, slot in enumerate(wanted.entries)
        ]
        try:
            self._maglev.update_batch(entries)
            self.ids.store((wanted.digest, 0) for wanted in batch)
            refused = write_all(self._tables, [self._switch(wanted) for wanted in batch])
            self.ids.store((wanted.digest, wanted.content) for wanted in batch)
        except UnappliedError as error:
            return self._give_up(batch, error)
        except KernelError as error:
            return self._give_up(batch, explain("maglev", error))
        keys = {self._key(wanted): wanted.row.key for wanted in batch}
        return [
            explain("tables", error).failure(TableRow, keys[key]) for key, error in refused.items()
        ]

    def _give_up(self, batch: Sequence[Wanted], reason: UnappliedError) -> list[Failure]:
        """The new runs are free again, but for those already switched to."""
        for wanted in batch:
            index = int.from_bytes(self._key(wanted), "little")
            if self._start[index] != wanted.start:
                self.segments.give_back(wanted.start, len(wanted.entries))
        return [reason.failure(TableRow, wanted.row.key) for wanted in batch]

    def _key(self, wanted: Wanted) -> bytes:
        index = self.ids.find(wanted.digest)
        assert index is not None
        return u32(index)

    def _switch(self, wanted: Wanted) -> Pair:
        index = int.from_bytes(self._key(wanted), "little")
        self.segments.give_back(self._start[index], self._size[index])
        self._start[index], self._size[index] = wanted.start, len(wanted.entries)
        return u32(index), self._value(index)

    def _delete(self, key: Hashable) -> list[Failure]:
        digest = key if isinstance(key, bytes) else self.ids.digest(str(key))
        index = self.ids.find(digest)
        if index is None or (isinstance(key, bytes) and key in self._names):
            return []  # a table that was only a digest when it was read has a name now
        try:
            self._tables.update(u32(index), bytes(8))
            self.ids.release(digest)
        except KernelError as error:
            return [explain("tables", error).failure(TableRow, key)]
        self.segments.give_back(self._start[index], self._size[index])
        self._start[index] = self._size[index] = 0
        self._names.pop(digest, None)
        return []


def summary(slots: dict[str, int]) -> int:
    """40 bits over the machines of a table and their slots."""
    text = ",".join(f"{machine}={slot}" for machine, slot in slots.items())
    return int.from_bytes(blake2b(text.encode(), digest_size=5).digest(), "little")


def checksum(run: bytes) -> int:
    """24 bits over a table's entries."""
    return crc32(run) & 0xFFFFFF
