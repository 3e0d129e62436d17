# SPDX-License-Identifier: Apache-2.0
"""How far regions are from one of them, from what its hosts measured."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median_low

from flyebpf.model.records import Latency

UNKNOWN = 1 << 62
"""Farther than every region that was measured."""

OWN = -1


class Distances:
    """From ``region`` to the others, in ``microseconds``; OWN to itself."""

    def __init__(self, region: str, measured: Iterable[Latency], fixed: Iterable[str]) -> None:
        """``measured`` by hosts of ``region``: the median of them counts.
        ``fixed``: as in ``config.mesh.latency``, ``"ams fra 8"`` (ms, both ways);
        what is there overrides measurements."""
        times: dict[str, list[int]] = {}
        for latency in measured:
            for other, microseconds in latency.microseconds.items():
                times.setdefault(other, []).append(microseconds)
        self.microseconds = {other: median_low(values) for other, values in times.items()}
        for text in fixed:
            one, other, milliseconds = text.split()
            if region in (one, other):
                self.microseconds[other if region == one else one] = round(
                    float(milliseconds) * 1000
                )
        self.microseconds[region] = OWN

    def key(self, region: str) -> tuple[int, str]:
        """Sorts the nearest first; those that nobody measured last, by name."""
        return (self.microseconds.get(region, UNKNOWN), region)

    def order(self, regions: Iterable[str]) -> list[str]:
        """The nearest first."""
        return sorted(regions, key=self.key)
