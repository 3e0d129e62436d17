# SPDX-License-Identifier: Apache-2.0
"""A kernel in memory, behind the interface of the real drivers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from flyebpf.model.roworder import ROW_ORDER
from flyebpf.model.rows import Row
from flyebpf.reconcile.base import Failure

RowId = tuple[type[Row], Hashable]


class FakeDriver:
    """Keeps rows as a kernel would, and watches over what the order protects.

    ``refuse`` makes single rows fail, ``broken`` and ``unreadable`` everything.
    ``dangling`` collects deletes of rows that others still refer to, ``shared``
    the things that two live rows have had at once: neither may ever be.
    """

    name = "fake"

    def __init__(self, kinds: Sequence[type[Row]] = ROW_ORDER) -> None:
        self.kinds = tuple(kinds)
        self.rows: dict[type[Row], dict[Hashable, Row]] = {kind: {} for kind in kinds}
        self.refuse: dict[RowId, Failure] = {}
        self.broken: Exception | None = None
        self.unreadable: dict[type[Row], Exception] = {}
        self.log: list[tuple[str, Row | RowId]] = []
        self.dangling: list[str] = []
        self.shared: list[str] = []
        self.calls = 0
        self.watch = True

    def read(self, kind: type[Row]) -> dict[Hashable, object]:
        if kind in self.unreadable:
            raise self.unreadable[kind]
        return dict(self.rows[kind])

    def fingerprint(self, row: Row) -> object:
        return row

    def apply(
        self, kind: type[Row], puts: Sequence[Row], deletes: Sequence[Hashable]
    ) -> list[Failure]:
        self.calls += 1
        if self.broken is not None:
            raise self.broken
        failures = []
        for row in puts:
            if refused := self.refuse.get((kind, row.key)):
                failures.append(refused)
            else:
                self._put(kind, row)
        for key in deletes:
            if refused := self.refuse.get((kind, key)):
                failures.append(refused)
            else:
                self._delete(kind, key)
        return failures

    def fail(self, kind: type[Row], key: Hashable, *, permanent: bool = False) -> None:
        """Refuse this row from now on."""
        self.refuse[kind, key] = Failure(kind, key, "refused", "wait", permanent)

    def all(self) -> dict[RowId, Row]:
        return {(kind, key): row for kind, of in self.rows.items() for key, row in of.items()}

    def _put(self, kind: type[Row], row: Row) -> None:
        self.rows[kind][row.key] = row
        if not self.watch:
            return
        self.log.append(("put", row))
        for thing in () if row.withdrawn else row.exclusive:
            for other in self.rows[kind].values():
                if other.key != row.key and not other.withdrawn and thing in other.exclusive:
                    self.shared.append(f"{thing} is both {row.key}'s and {other.key}'s")

    def _delete(self, kind: type[Row], key: Hashable) -> None:
        self.rows[kind].pop(key, None)
        if not self.watch:
            return
        self.log.append(("delete", (kind, key)))
        for row in self.all().values():
            if (kind, key) in row.references:
                self.dangling.append(f"{row} refers to {kind.__name__} {key}")


class FakeClock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
