# SPDX-License-Identifier: Apache-2.0
"""Distances from each region, kept while hosts publish what they measured."""

from __future__ import annotations

from flyebpf.dns.nearest import Regions
from flyebpf.model.records import Latency

ALL = ("ams", "fra", "iad", "nrt")


def test_what_a_second_host_of_a_region_measured_counts_at_once() -> None:
    regions = Regions()
    regions.put(Latency("h1", "ams", {"fra": 9000}))
    assert regions.order("ams", ALL) == ["ams", "fra", "iad", "nrt"]
    regions.put(Latency("h2", "ams", {"iad": 5000, "fra": 9000}))
    assert regions.order("ams", ALL) == ["ams", "iad", "fra", "nrt"]
    regions.put(Latency("h2", "fra", {"iad": 5000}))
    assert regions.order("ams", ALL) == ["ams", "fra", "iad", "nrt"], "it has moved"
    regions.remove("h1")
    assert regions.from_region("ams") == {"ams": -1}


def test_what_is_configured_counts_for_both_ends() -> None:
    regions = Regions(("nrt ams 100", "fra nrt 0.5"))
    regions.put(Latency("h1", "ams", {"nrt": 1, "fra": 200_000}))
    assert regions.order("ams", ALL) == ["ams", "nrt", "fra", "iad"]
    assert regions.order("nrt", ALL) == ["nrt", "fra", "ams", "iad"]
    assert regions.from_region("fra") == {"nrt": 500, "fra": -1}
