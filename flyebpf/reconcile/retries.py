# SPDX-License-Identifier: Apache-2.0
"""When to try a failed row again: later and later."""

from __future__ import annotations

import heapq
from itertools import count

from flyebpf.reconcile.desired import RowId

FIRST_DELAY = 0.5
MAX_DELAY = 60.0


class Retries:
    """Due times of rows, in seconds of the caller's clock."""

    def __init__(self) -> None:
        self._attempts: dict[RowId, int] = {}
        self._due: dict[RowId, int] = {}
        self._heap: list[tuple[float, int, RowId]] = []
        self._tickets = count()

    def later(self, row_id: RowId, now: float) -> None:
        """Schedule another attempt after a failed one."""
        attempt = self._attempts.get(row_id, 0)
        self._attempts[row_id] = attempt + 1
        delay = min(FIRST_DELAY * 2 ** min(attempt, 16), MAX_DELAY)
        ticket = next(self._tickets)
        self._due[row_id] = ticket
        heapq.heappush(self._heap, (now + delay, ticket, row_id))

    def cancel(self, row_id: RowId) -> None:
        """Do not wake this row; its number of attempts stays."""
        self._due.pop(row_id, None)

    def forget(self, row_id: RowId) -> None:
        """The row succeeded, or is another one now."""
        self._due.pop(row_id, None)
        self._attempts.pop(row_id, None)

    def take_due(self, now: float) -> list[RowId]:
        """Rows whose time has come; they are no longer scheduled."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            _, ticket, row_id = heapq.heappop(self._heap)
            if self._due.get(row_id) == ticket:
                del self._due[row_id]
                found.append(row_id)
        return found

    def next_due(self) -> float | None:
        """When the next row is due; None when none is scheduled."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][1]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None
