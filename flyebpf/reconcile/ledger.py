# SPDX-License-Identifier: Apache-2.0
"""What is known about the kernel's rows, and which of them need work."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Mapping

from flyebpf.model.roworder import ROW_ORDER
from flyebpf.model.rows import Row
from flyebpf.reconcile.base import Driver, Failure
from flyebpf.reconcile.desired import RowId
from flyebpf.reconcile.retries import Retries

log = logging.getLogger(__name__)

_ABSENT = object()


class Ledger:
    """``applied``: the rows that are there as far as is known; None where the
    contents are not. ``dirty``: keys to work on at the next pass. ``failures``:
    the last attempt's outcome, also of rows that are dirty again."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.applied: dict[type[Row], dict[Hashable, Row | None]] = {k: {} for k in ROW_ORDER}
        self.dirty: dict[type[Row], dict[Hashable, None]] = {kind: {} for kind in ROW_ORDER}
        self.failures: dict[RowId, Failure] = {}
        self.retries = Retries()
        self.drift_repaired = 0
        self._clock = clock
        self._read: set[type[Row]] = set()
        self._drifted: set[RowId] = set()

    def count(self) -> int:
        """Rows that are not known to be as they should."""
        waiting = sum(key not in self.dirty[kind] for kind, key in self.failures)
        return waiting + sum(len(keys) for keys in self.dirty.values())

    def change(self, row_id: RowId) -> None:
        """Another row is desired: whatever failed before says nothing of it."""
        kind, key = row_id
        self.dirty[kind][key] = None
        if row_id in self.failures:
            del self.failures[row_id]
            self.retries.forget(row_id)

    def retry(self, row_id: RowId) -> None:
        """Work on the row at the next pass, whatever its backoff."""
        kind, key = row_id
        self.dirty[kind][key] = None
        self.retries.cancel(row_id)

    def fail(self, row_id: RowId, failure: Failure) -> None:
        kind, key = row_id
        self.dirty[kind].pop(key, None)
        self.failures[row_id] = failure
        if not failure.permanent:
            self.retries.later(row_id, self._clock())
        log.warning("%s %s: %s", kind.__name__, key, failure.error)

    def done(self, row_id: RowId) -> None:
        kind, key = row_id
        self.dirty[kind].pop(key, None)
        if self.failures.pop(row_id, None):
            self.retries.forget(row_id)
        if row_id in self._drifted:
            self._drifted.discard(row_id)
            self.drift_repaired += 1

    def tidy(self, kind: type[Row]) -> None:
        """An emptied dict is walked at the size that it once had: let it go."""
        if not self.dirty[kind]:
            self.dirty[kind] = {}

    def may_exist(self, kind: type[Row], key: Hashable) -> bool:
        """Whether a row has to be deleted to be gone."""
        return key in self.applied[kind] or kind not in self._read

    def held(
        self, kind: type[Row], keys: Iterable[Hashable], waiting: Iterable[RowId]
    ) -> set[Hashable]:
        """Which of ``keys`` a row that failed, or waits, may still refer to."""
        wanted = set(keys)
        held: set[Hashable] = set()
        for other, other_key in (*self.failures, *waiting):
            if kind not in other.refers_to or other_key not in self.applied[other]:
                continue
            row = self.applied[other][other_key]
            if row is None:
                return wanted
            held.update(key for of, key in row.references if of is kind)
        return held & wanted

    def compare(self, driver: Driver, kind: type[Row], desired: Mapping[Hashable, Row]) -> None:
        """Take over what ``driver`` reads: what differs becomes dirty, and
        what is as it should be clean. Raises what ``driver.read`` raises."""
        actual = driver.read(kind)
        before = self.applied[kind]
        applied: dict[Hashable, Row | None] = {}
        for key, row in desired.items():
            found = actual.get(key, _ABSENT)
            if found is not _ABSENT and found == driver.fingerprint(row):
                applied[key] = row
                self.done((kind, key))
                continue
            if found is not _ABSENT:
                applied[key] = _recognized(driver, before.get(key), found)
            self._differs((kind, key), was_right=key in before)
        for key in actual.keys() - desired.keys():
            applied[key] = _recognized(driver, before.get(key), actual[key])
            self._differs((kind, key), was_right=kind in self._read)
        self.applied[kind] = applied
        self._read.add(kind)

    def _differs(self, row_id: RowId, *, was_right: bool) -> None:
        """A row that is not as it should be: drift, unless work on it waits."""
        kind, key = row_id
        if was_right and key not in self.dirty[kind]:
            self._drifted.add(row_id)
            log.warning("%s %s: changed by somebody else, repairing", kind.__name__, key)
        self.retry(row_id)


def _recognized(driver: Driver, row: Row | None, found: object) -> Row | None:
    """The row that was applied last, if that is what was found."""
    return row if row is not None and driver.fingerprint(row) == found else None
