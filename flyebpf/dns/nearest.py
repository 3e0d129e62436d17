# SPDX-License-Identifier: Apache-2.0
"""How far regions are from each other, from what hosts measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median_low

from flyebpf.model.records import Latency

UNKNOWN = 1 << 62
"""Farther than every measured region."""


def overrides(texts: Iterable[str]) -> dict[frozenset[str], int]:
    """``"ams fra 8"`` (ms, both ways) to microseconds by pair of regions; texts
    as ``config.mesh.latency`` holds them, valid."""
    parts = [text.split() for text in texts]
    return {frozenset((a, b)): round(float(ms) * 1000) for a, b, ms in parts}


class Distances:
    """Regions by their distance from each region. Not thread safe."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        """``texts``: of ``config.mesh.latency``."""
        self._overrides = overrides(texts)
        self._measured: dict[str, dict[str, Mapping[str, int]]] = {}
        self._regions: dict[str, str] = {}
        self._known: dict[str, dict[str, int]] = {}

    def put(self, latency: Latency) -> None:
        self.remove(latency.host)
        self._regions[latency.host] = latency.region
        self._measured.setdefault(latency.region, {})[latency.host] = latency.microseconds

    def remove(self, host: str) -> None:
        region = self._regions.pop(host, None)
        if region is not None:
            self._known.pop(region, None)
            del self._measured[region][host]

    def from_region(self, region: str) -> Mapping[str, int]:
        """Other regions to microseconds: the median of what the hosts of
        ``region`` measured, or the configured value."""
        found = self._known.get(region)
        if found is None:
            found = self._known[region] = self._compute(region)
        return found

    def _compute(self, region: str) -> dict[str, int]:
        times: dict[str, list[int]] = {}
        for measured in self._measured.get(region, {}).values():
            for other, microseconds in measured.items():
                times.setdefault(other, []).append(microseconds)
        found = {other: median_low(values) for other, values in times.items()}
        for pair, microseconds in self._overrides.items():
            if region in pair:
                found.update(dict.fromkeys(pair - {region}, microseconds))
        found[region] = -1
        return found

    def order(self, region: str, others: Iterable[str]) -> list[str]:
        """``others`` nearest first; ``region`` is nearest to itself, and those
        that nobody measured come last, by name."""
        far = self.from_region(region)
        return sorted(others, key=lambda other: (far.get(other, UNKNOWN), other))
