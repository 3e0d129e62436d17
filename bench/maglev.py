# SPDX-License-Identifier: Apache-2.0
"""Maglev tables: build time, balance, and disruption.

``python -m bench.maglev [--json]``. *Disruption* is the share of entries
that change their backend although it was neither removed nor is the new one.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter

from bench.rig import report
from flyebpf.plan import maglev

SEED = 0x5EED
SIZES = (2, 16, 17, 100, 256, 257, 1000)
REPEATS = 5


def names(count: int) -> list[str]:
    return [f"{number:014x}" for number in range(count)]


def build_ms(backends: list[str], size: int) -> float:
    """The median of some builds, in ms."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        maglev.build(backends, size, SEED)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000


def imbalance(backends: list[str], size: int) -> float:
    """The fullest backend's entries over the mean."""
    shares = Counter(maglev.build(backends, size, SEED))
    return max(shares.values()) / (size / len(backends))


def removal(backends: list[str], size: int) -> float:
    """Entries that move beyond those that must when one goes, in percent: the
    worst of some removals. Adding that one again moves the same entries."""
    before = maglev.build(backends, size, SEED)
    worst = 0
    for gone in {0, len(backends) // 2, len(backends) - 1}:
        left = backends[:gone] + backends[gone + 1 :]
        after = maglev.build(left, size, SEED)
        pairs = zip(before, after, strict=True)
        moved = sum(1 for a, b in pairs if a != gone and backends[a] != left[b])
        worst = max(worst, moved)
    return 100 * worst / size


COLUMNS = ("backends", "entries", "build ms", "max / mean", "disruption %")


def main() -> None:
    rows = []
    for count in SIZES:
        backends, size = names(count), maglev.table_size(count)
        rows.append(
            (
                count,
                size,
                round(build_ms(backends, size), 2),
                round(imbalance(backends, size), 4),
                round(removal(backends, size), 3),
            )
        )
    report("Maglev tables", COLUMNS, rows)


if __name__ == "__main__":
    main()
