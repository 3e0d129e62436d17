# SPDX-License-Identifier: Apache-2.0
"""Per-CPU values are summed, and the flow table is estimated."""

from __future__ import annotations

import struct

from flyebpf.bpf import layout
from flyebpf.bpf.maps import flow_buckets
from flyebpf.drivers.counters import Counters
from tests.fakes_maps import SMALL, fake_maps

BUCKETS = flow_buckets(SMALL)


def test_sums_over_cpus() -> None:
    maps = fake_maps()
    maps["service_stats"].update(
        b"\3\0\0\0", struct.pack("=10Q", 1, 2, 3, 4, 5, 10, 20, 30, 40, 50)
    )
    maps["drops"].update(b"\6\0\0\0", struct.pack("=4Q", 1, 60, 2, 120))
    maps["counts"].update(b"\1\0\0\0", struct.pack("=2Q", 7, 8))
    counters = Counters(maps, BUCKETS)
    assert counters.service(3) == (11, 22, 33, 44, 55)
    assert counters.service(4) == (0, 0, 0, 0, 0)
    assert counters.drops() == {6: (3, 180)}
    assert counters.counts()[:3] == [0, 15, 0]


def test_flow_entries() -> None:
    maps = fake_maps()
    counters = Counters(maps, BUCKETS)
    assert counters.flow_entries() == 0
    bucket = layout.FlowBucket()
    bucket.way[0].seal = 5
    bucket.way[3].seal = 6
    for index in range(BUCKETS // 2):
        maps["flows"].update(index.to_bytes(4, "little"), bytes(bucket))
    assert counters.flow_entries() == BUCKETS, "two of four ways in half of the buckets"
