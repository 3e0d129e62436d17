# SPDX-License-Identifier: Apache-2.0
"""First-fit allocation of runs of the ``maglev`` array."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable

QUARANTINE = 2.0
"""Seconds until a freed run is given out again. A program that found the run
in ``tables`` before it was freed is done with it within microseconds."""


class Segments:
    """Free runs, as parallel sorted lists of starts and sizes."""

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._capacity = capacity
        self._starts = [0]
        self._sizes = [capacity]
        self._waiting: deque[tuple[float, int, int]] = deque()

    @property
    def free(self) -> int:
        """Entries that are free, quarantined ones included."""
        return sum(self._sizes) + sum(size for _, _, size in self._waiting)

    def load(self, used: Iterable[tuple[int, int]]) -> set[tuple[int, int]]:
        """Start from these runs in use; those that overlap another one or the
        end of the array are not taken, and returned."""
        bad: set[tuple[int, int]] = set()
        self._starts, self._sizes = [], []
        self._waiting.clear()
        end = 0
        for start, size in sorted(used):
            if start < end or start + size > self._capacity:
                bad.add((start, size))
                continue
            self._append(end, start - end)
            end = start + size
        self._append(end, self._capacity - end)
        return bad

    def _append(self, start: int, size: int) -> None:
        if size > 0:
            self._starts.append(start)
            self._sizes.append(size)

    def allocate(self, size: int) -> int | None:
        """The start of a run of ``size`` entries, or None when none is free."""
        self._release()
        for place, room in enumerate(self._sizes):
            if room >= size:
                start = self._starts[place]
                if room == size:
                    del self._starts[place], self._sizes[place]
                else:
                    self._starts[place] += size
                    self._sizes[place] -= size
                return start
        return None

    def give_back(self, start: int, size: int) -> None:
        """Free a run, after its quarantine."""
        if size:
            self._waiting.append((self._clock() + QUARANTINE, start, size))

    def _release(self) -> None:
        now = self._clock()
        while self._waiting and self._waiting[0][0] <= now:
            _, start, size = self._waiting.popleft()
            self._insert(start, size)

    def _insert(self, start: int, size: int) -> None:
        place = bisect_left(self._starts, start)
        starts, sizes = self._starts, self._sizes
        if place < len(starts) and start + size == starts[place]:
            size += sizes[place]
            del starts[place], sizes[place]
        if place and starts[place - 1] + sizes[place - 1] == start:
            sizes[place - 1] += size
        else:
            starts.insert(place, start)
            sizes.insert(place, size)
