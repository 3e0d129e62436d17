# SPDX-License-Identifier: Apache-2.0
"""Makes what is there equal to what is desired, through the drivers.

Order of one pass. A row is created before others refer to it and deleted after
they have let go:

1. puts, kinds in ``ROW_ORDER``: what is referred to comes first. Before a row
   takes what another one of its kind had alone (a slot its interface), that
   other one is withdrawn, so that its flows cannot arrive at the next owner;
2. kinds in the reverse order: puts that *withdraw* something (a slot that is
   no longer live), then deletes. By then the tables no longer name it, so no
   new flow is lost on it.

A row that failed may still be in the kernel as it was, with an index of
another row in it. Deletes of what it refers to wait until it succeeds; what
waits is withdrawn meanwhile, so that packets stop although its index is kept.

Nothing is deleted before ``mark_complete``: until every owner has been heard,
a row that nobody wants may only not have been asked for yet.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from flyebpf.errors import FlyebpfError
from flyebpf.model.roworder import ROW_ORDER
from flyebpf.model.rows import Row
from flyebpf.reconcile.base import Driver, Failure
from flyebpf.reconcile.desired import Desired, Owner, RowId
from flyebpf.reconcile.ledger import Ledger
from flyebpf.reconcile.stats import Stats

log = logging.getLogger(__name__)
R = TypeVar("R", bound=Row)


class Reconciler:
    """Call all methods from one thread. ``clock`` gives seconds, monotonic.

    After a start: ``set_desired`` for every owner, ``mark_complete``, then
    ``sync_full``, which finds out what is there already.
    """

    def __init__(
        self, drivers: Sequence[Driver], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._drivers: dict[type[Row], Driver] = {}
        for driver in drivers:
            for kind in driver.kinds:
                if kind in self._drivers:
                    raise ValueError(f"two drivers for {kind.__name__}")
                self._drivers[kind] = driver
        self._clock = clock
        self._desired = Desired()
        self._ledger = Ledger(clock)
        self._unreadable: dict[type[Row], str] = {}
        self._waiting: set[RowId] = set()  # deletes held back in this pass
        self._complete = False
        self._last_sync = 0.0
        self._last_full = 0.0

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Rows that could not be applied at their last attempt."""
        return tuple(self._ledger.failures.values())

    @property
    def problems(self) -> list[str]:
        """Rows that owners disagree on, and kinds that could not be read."""
        unread = [f"{kind.__name__}: {error}" for kind, error in self._unreadable.items()]
        return self._desired.problems() + unread

    @property
    def stats(self) -> Stats:
        return Stats(
            rows={kind.__name__: len(rows) for kind, rows in self._desired.rows.items()},
            dirty=self._ledger.count(),
            failures=len(self._ledger.failures),
            drift_repaired=self._ledger.drift_repaired,
            last_sync_seconds=self._last_sync,
            last_full_seconds=self._last_full,
            complete=self._complete,
        )

    def owners(self) -> list[Owner]:
        """Owners with rows: those that a new state lacks are to be set to none."""
        return self._desired.owners()

    def wanted(self, kind: type[R]) -> list[R]:
        """The rows of a kind that are desired now."""
        return [row for row in self._desired.rows[kind].values() if isinstance(row, kind)]

    def set_desired(self, owner: Owner, rows: Sequence[Row]) -> None:
        """``rows`` are all that ``owner`` wants from now on.

        Raises ValueError for a kind of row that no driver applies.
        """
        for row in rows:
            if type(row) not in self._drivers:
                raise ValueError(f"no driver for {type(row).__name__}")
        for row_id in self._desired.replace(owner, rows):
            self._ledger.change(row_id)

    def mark_complete(self) -> None:
        """Every owner of the state has been set: deletes are allowed."""
        self._complete = True

    def touch(self, kind: type[Row], keys: Iterable[Hashable]) -> None:
        """Apply these rows anew: the world around them has changed."""
        for key in keys:
            if key in self._desired.rows[kind]:
                self._ledger.retry((kind, key))

    def retry_failed(self) -> None:
        """Try every failed row at the next pass, permanent failures too."""
        for row_id in list(self._ledger.failures):
            self._ledger.retry(row_id)

    def next_retry(self) -> float | None:
        """Seconds until a failed row is due; None when none waits."""
        due = self._ledger.retries.next_due()
        return None if due is None else max(due - self._clock(), 0.0)

    def sync_dirty(self) -> None:
        """Apply what changed, and the failed rows whose time has come."""
        started = self._clock()
        for row_id in self._ledger.retries.take_due(started):
            self._ledger.retry(row_id)
        later: dict[type[Row], list[Row]] = {}
        gone: dict[type[Row], list[Hashable]] = {}
        for kind in ROW_ORDER:
            if self._ledger.dirty[kind]:
                now, later[kind], gone[kind] = self._sort(kind)
                self._put(kind, self._evict(kind, now))
        self._waiting.clear()
        for kind in reversed(ROW_ORDER):
            self._put(kind, later.get(kind, ()))
            self._delete(kind, gone.get(kind, ()))
            self._ledger.tidy(kind)
        self._last_sync = self._clock() - started

    def sync_full(self) -> None:
        """Read everything back, repair what differs, delete what nobody wants."""
        started = self._clock()
        self.retry_failed()
        for kind in ROW_ORDER:
            if kind in self._drivers:
                self._compare(kind)
        self._touch_referrers()
        self.sync_dirty()
        self._last_sync = self._last_full = self._clock() - started

    def _touch_referrers(self) -> None:
        """What refers to a dirty row was compared with what that row is now,
        and is to be as it will be after this pass."""
        for kind in ROW_ORDER:
            changing = {of: self._ledger.dirty[of] for of in kind.refers_to}
            if not any(changing.values()):
                continue
            for key, row in self._desired.rows[kind].items():
                if any(name in changing[of] for of, name in row.references):
                    self._ledger.retry((kind, key))

    def _sort(self, kind: type[Row]) -> tuple[list[Row], list[Row], list[Hashable]]:
        """The dirty rows of a kind: puts now, puts that withdraw, deletes."""
        now: list[Row] = []
        later: list[Row] = []
        gone: list[Hashable] = []
        desired, applied = self._desired.rows[kind], self._ledger.applied[kind]
        for key in self._ledger.dirty[kind]:
            row = desired.get(key)
            if row is None:
                gone.append(key)
                continue
            old = applied.get(key, row)
            replaces_live = row.withdrawn and (old is None or not old.withdrawn)
            (later if replaces_live else now).append(row)
        return now, later, gone

    def _evict(self, kind: type[Row], rows: list[Row]) -> list[Row]:
        """Withdraw rows that have what ``rows`` are to have alone. All of them
        are dirty or wait to be tried again, as only one row may want such a thing.
        Returns the rows that may be applied now; the others fail with those that
        would not go."""
        applied = self._ledger.applied[kind]
        waiting = (key for of, key in self._ledger.failures if of is kind)
        changing = dict.fromkeys((*self._ledger.dirty[kind], *waiting))
        known = [(key, old) for key in changing if (old := applied.get(key))]
        if not known:
            return rows
        takers = {thing: row for row in rows for thing in row.exclusive}
        losers = {}
        for key, old in known:
            taken = [takers[t] for t in old.exclusive if t in takers and takers[t].key != key]
            if taken:
                losers[key] = taken
        blocked = {row.key for key in self._withdraw(kind, losers) for row in losers[key]}
        for key in blocked:
            self._ledger.fail(
                (kind, key), Failure(kind, key, "what it replaces could not be withdrawn")
            )
        return [row for row in rows if row.key not in blocked]

    def _put(self, kind: type[Row], rows: Sequence[Row]) -> None:
        failed = self._apply(kind, rows, ()) if rows else {}
        applied = self._ledger.applied[kind]
        for row in rows:
            key = row.key
            if key in failed:
                # Nothing of it may be there, or some: it has to be deleted once.
                applied.setdefault(key, row)
                self._ledger.fail((kind, key), failed[key])
            else:
                applied[key] = row
                self._ledger.done((kind, key))

    def _delete(self, kind: type[Row], keys: Sequence[Hashable]) -> None:
        if not keys or not self._complete:
            return
        applied = self._ledger.applied[kind]
        present = [key for key in keys if self._ledger.may_exist(kind, key)]
        for key in set(keys).difference(present):
            self._ledger.done((kind, key))
        held = self._ledger.held(kind, present, self._waiting)
        self._waiting.update((kind, key) for key in held)
        self._withdraw(kind, held)
        free = [key for key in present if key not in held]
        failed = self._apply(kind, (), free) if free else {}
        for key in free:
            if key in failed:
                self._ledger.fail((kind, key), failed[key])
            else:
                applied.pop(key, None)
                self._ledger.done((kind, key))

    def _withdraw(self, kind: type[Row], keys: Iterable[Hashable]) -> set[Hashable]:
        """Make applied rows harmless, if their kind can be; they stay dirty.
        Returns the keys of those that the driver could not withdraw."""
        applied = self._ledger.applied[kind]
        rows = {}
        for key in keys:
            old = applied.get(key)
            if old is not None and not old.withdrawn and (row := old.withdraw()) is not None:
                rows[key] = row
        failed = self._apply(kind, list(rows.values()), ()) if rows else {}
        applied.update((key, row) for key, row in rows.items() if key not in failed)
        return set(failed)

    def _apply(
        self, kind: type[Row], puts: Sequence[Row], deletes: Sequence[Hashable]
    ) -> dict[Hashable, Failure]:
        """The failures by key. A driver that fails as a whole fails each row."""
        try:
            failures = self._drivers[kind].apply(kind, puts, deletes)
        except (FlyebpfError, OSError) as error:
            keys = [row.key for row in puts] + list(deletes)
            remedy = error.remedy if isinstance(error, FlyebpfError) else ""
            text = error.message if isinstance(error, FlyebpfError) else str(error)
            failures = [Failure(kind, key, text, remedy) for key in keys]
        return {failure.key: failure for failure in failures}

    def _compare(self, kind: type[Row]) -> None:
        try:
            self._ledger.compare(self._drivers[kind], kind, self._desired.rows[kind])
        except (FlyebpfError, OSError) as error:
            self._unreadable[kind] = str(error)
            log.warning("%s: cannot be read back: %s", kind.__name__, error)
        else:
            self._unreadable.pop(kind, None)
