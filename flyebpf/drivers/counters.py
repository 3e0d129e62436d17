# SPDX-License-Identifier: Apache-2.0
"""What the programs count, summed over CPUs."""

from __future__ import annotations

import ctypes as ct
import random
import struct
from collections.abc import Mapping

from flyebpf.bpf.layout import FLOW_WAYS, DropStats, Flow, ServiceStats
from flyebpf.drivers.mapio import MapLike, u32
from flyebpf.model.reasons import COUNT_MAX, DROP_REASON_MAX

SAMPLE = 1024  # buckets looked at for an estimate of flows
SEAL = struct.Struct("=Q")


def totals(value: bytes, fields: int) -> tuple[int, ...]:
    """The fields (u64) of a per-CPU value, each summed over the CPUs."""
    numbers = struct.unpack(f"={len(value) // 8}Q", value)
    return tuple(sum(numbers[field::fields]) for field in range(fields))


class Counters:
    """Reads the maps of counts; safe from any thread."""

    def __init__(self, maps: Mapping[str, MapLike], buckets: int) -> None:
        """``buckets`` of ``flows``."""
        self._maps = maps
        self._buckets = buckets

    def service(self, index: int) -> tuple[int, ...]:
        """in packets, in bytes, out packets, out bytes, flows."""
        value = self._maps["service_stats"].lookup(u32(index)) or b""
        return totals(value, ct.sizeof(ServiceStats) // 8)

    def drops(self) -> dict[int, tuple[int, int]]:
        """Reason to (packets, bytes), of reasons that have dropped any."""
        fields = ct.sizeof(DropStats) // 8
        found: dict[int, tuple[int, int]] = {}
        for reason in range(DROP_REASON_MAX):
            packets, size = totals(self._maps["drops"].lookup(u32(reason)) or b"", fields)
            if packets:
                found[reason] = (packets, size)
        return found

    def counts(self) -> list[int]:
        """By number of ``enum count``."""
        table = self._maps["counts"]
        return [totals(table.lookup(u32(i)) or b"", 1)[0] for i in range(COUNT_MAX)]

    def flow_entries(self) -> int:
        """Entries of the flow table in use, estimated from a random sample of
        its buckets. Ended flows count until others take their place."""
        sample = min(SAMPLE, self._buckets)
        size = ct.sizeof(Flow)
        used = 0
        for bucket in random.sample(range(self._buckets), sample):
            value = self._maps["flows"].lookup(u32(bucket)) or b""
            used += sum(
                SEAL.unpack_from(value, way * size)[0] != 0
                for way in range(FLOW_WAYS)
                if len(value) > way * size
            )
        return used * self._buckets // sample
