# SPDX-License-Identifier: Apache-2.0
"""``vm_slots``: the slot behind each interface, an array of buckets.

A bucket holds the interfaces whose index has the same low bits. Ways are
written one at a time and never move, so that programs always find the others.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from flyebpf.bpf.layout import VM_SLOT_WAYS
from flyebpf.drivers.mapio import MapLike, UnappliedError, explain, u32, write_all

WAY = struct.Struct("=II")  # ifindex, slot
FREE = bytes(WAY.size)

Place = tuple[int, int]
"""Bucket and way."""

NOWHERE = (-1, -1)


class VmSlots:
    """``buckets``: a power of two, as in ``settings.vm_buckets``."""

    def __init__(self, table: MapLike, buckets: int) -> None:
        self._table = table
        self._buckets = buckets

    def entries(self) -> Iterator[tuple[Place, int, int]]:
        """Place, ifindex and slot of every entry."""
        for raw, value in self._table.filled():
            bucket = int.from_bytes(raw, "little")
            for way, (ifindex, slot) in enumerate(WAY.iter_unpack(value)):
                if ifindex or slot:
                    yield (bucket, way), ifindex, slot

    def is_found(self, place: Place, ifindex: int) -> bool:
        """Whether programs that look for ``ifindex`` find it at ``place``."""
        bucket, way = place
        ways = self._ways(bucket)
        return bucket == self._bucket(ifindex) and find(ways, ifindex) == way

    def at(self, place: Place) -> tuple[int, int]:
        """Ifindex and slot."""
        bucket, way = place
        ifindex, slot = WAY.unpack(self._ways(bucket)[way])
        return ifindex, slot

    def write(self, pairs: Iterable[tuple[int, int]]) -> dict[int, UnappliedError]:
        """Enter slots of interfaces; those that could not be, and why."""
        changed: dict[int, list[bytes]] = {}
        members: dict[int, list[int]] = {}
        failed: dict[int, UnappliedError] = {}
        for ifindex, slot in pairs:
            bucket = self._bucket(ifindex)
            ways = changed.get(bucket) or self._ways(bucket)
            way = find(ways, ifindex)
            if way is None and FREE not in ways:
                failed[ifindex] = crowded(ifindex)
                continue
            ways[ways.index(FREE) if way is None else way] = WAY.pack(ifindex, slot)
            changed[bucket] = ways
            members.setdefault(bucket, []).append(ifindex)
        values = [(u32(bucket), b"".join(ways)) for bucket, ways in changed.items()]
        for raw, error in write_all(self._table, values).items():
            for ifindex in members[int.from_bytes(raw, "little")]:
                failed[ifindex] = explain("vm_slots", error)
        return failed

    def delete(self, ifindex: int, slot: int) -> None:
        """This slot is not behind the interface any more; another one, which has
        come there, stays. Raises KernelError."""
        bucket = self._bucket(ifindex)
        ways = self._ways(bucket)
        gone = WAY.pack(ifindex, slot)
        if gone in ways:
            left = [FREE if way == gone else way for way in ways]
            self._table.update(u32(bucket), b"".join(left))

    def clear(self, place: Place) -> None:
        """Free a way, whatever is in it. Raises KernelError."""
        bucket, way = place
        ways = self._ways(bucket)
        ways[way] = FREE
        self._table.update(u32(bucket), b"".join(ways))

    def _bucket(self, ifindex: int) -> int:
        return ifindex & (self._buckets - 1)

    def _ways(self, bucket: int) -> list[bytes]:
        value = self._table.lookup(u32(bucket)) or FREE * VM_SLOT_WAYS
        return [value[at : at + WAY.size] for at in range(0, len(value), WAY.size)]


def find(ways: list[bytes], ifindex: int) -> int | None:
    """The first way that an interface has."""
    key = u32(ifindex)
    return next((number for number, way in enumerate(ways) if way[:4] == key), None)


def crowded(ifindex: int) -> UnappliedError:
    return UnappliedError(
        f"the bucket of interface index {ifindex} in the map vm_slots is full",
        "Make the interface anew, so that it gets another index, or raise "
        "dataplane.machines in the configuration and restart the daemon.",
        permanent=True,
    )
