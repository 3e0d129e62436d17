# SPDX-License-Identifier: Apache-2.0
"""The newest changes of an etcd cluster, as far as one client has heard."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from flyebpf.store.base import Change, CompactedError
from flyebpf.store.etcdkeys import RawChange

MOST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class _Step:
    """One transaction."""

    revision: int
    changes: tuple[RawChange, ...]
    size: int


class Buffer:
    """Whole transactions, in order, without a gap after ``floor``. Not thread
    safe. At least the newest transaction is kept, and beside it at most ``kept``
    changes and MOST_BYTES of text."""

    def __init__(self, kept: int) -> None:
        self.floor = 0
        self.last = 0  # revision of the newest change
        self._kept = kept
        self._steps: deque[_Step] = deque()
        self._count = self._bytes = 0

    def reset(self, floor: int) -> None:
        """What was before ``floor`` is not known any more."""
        self._steps.clear()
        self._count = self._bytes = 0
        self.floor = self.last = floor

    def add(self, changes: Iterable[RawChange]) -> None:
        """Take in changes in the order of their revisions."""
        for revision, group in groupby(changes, lambda change: change.revision):
            if revision <= self.last:
                continue
            found = tuple(group)
            step = _Step(revision, found, sum(len(change.text or "") for change in found))
            self._steps.append(step)
            self._count += len(found)
            self._bytes += step.size
            self.last = revision
        while len(self._steps) > 1 and (self._count > self._kept or self._bytes > MOST_BYTES):
            oldest = self._steps.popleft()
            self._count -= len(oldest.changes)
            self._bytes -= oldest.size
            self.floor = oldest.revision

    def after(self, since: int, limit: int) -> list[Change]:
        """Changes after ``since``, ``limit`` or more so that the last transaction
        is whole. Raises CompactedError when some are not here any more."""
        if since < self.floor:
            raise CompactedError(
                f"the changes after revision {since} are not kept (they are from {self.floor} on)",
                "take a new snapshot",
            )
        steps: list[_Step] = []
        for step in reversed(self._steps):
            if step.revision <= since:
                break
            steps.append(step)
        found: list[Change] = []
        for step in reversed(steps):
            if len(found) >= limit:
                break
            found += [change.decoded() for change in step.changes]
        return found
