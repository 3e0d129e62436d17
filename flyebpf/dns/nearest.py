# SPDX-License-Identifier: Apache-2.0
"""How far regions are from each other: that of the asker is any of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flyebpf.model.nearest import Distances
from flyebpf.model.records import Latency


class Regions:
    """Regions by their distance from each region. Not thread safe."""

    def __init__(self, fixed: Iterable[str] = ()) -> None:
        """``fixed``: of ``config.mesh.latency``."""
        self._fixed = tuple(fixed)
        self._measured: dict[str, dict[str, Latency]] = {}
        self._regions: dict[str, str] = {}
        self._known: dict[str, Distances] = {}

    def put(self, latency: Latency) -> None:
        self.remove(latency.host)
        self._regions[latency.host] = latency.region
        self._known.pop(latency.region, None)
        self._measured.setdefault(latency.region, {})[latency.host] = latency

    def remove(self, host: str) -> None:
        region = self._regions.pop(host, None)
        if region is not None:
            self._known.pop(region, None)
            del self._measured[region][host]

    def _of(self, region: str) -> Distances:
        found = self._known.get(region)
        if found is None:
            measured = self._measured.get(region, {}).values()
            found = self._known[region] = Distances(region, measured, self._fixed)
        return found

    def from_region(self, region: str) -> Mapping[str, int]:
        """Regions to microseconds, as :class:`flyebpf.model.nearest.Distances`."""
        return self._of(region).microseconds

    def order(self, region: str, others: Iterable[str]) -> list[str]:
        """``others`` nearest first; ``region`` is nearest to itself, and those
        that nobody measured come last, by name."""
        return self._of(region).order(others)
