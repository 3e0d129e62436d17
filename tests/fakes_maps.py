# SPDX-License-Identifier: Apache-2.0
"""Maps in memory that behave as the kernel's do, full ones included."""

from __future__ import annotations

import ctypes as ct
import errno
from collections.abc import Callable, Iterator, Mapping, Sequence

from flyebpf.bpf.maps import MapSpec, MapType, map_specs
from flyebpf.config import DataplaneConfig
from flyebpf.drivers.map_vm_slots import VmSlots
from flyebpf.errors import KernelError

CPUS = 2
SMALL = DataplaneConfig(
    flows=64, services=64, machines=16, maglev_entries=8192, pool_addresses=1024, fragments=64
)


class FakeMap:
    """See :class:`flyebpf.bpf.libbpf.Map`. ``log`` holds every write in order;
    ``written`` is called after each."""

    def __init__(self, spec: MapSpec) -> None:
        self.spec = spec
        self.key_size = ct.sizeof(spec.key)
        self.per_cpu = spec.type is MapType.PERCPU_ARRAY
        self.is_array = spec.type in (MapType.ARRAY, MapType.PERCPU_ARRAY)
        self.value_size = ct.sizeof(spec.value)
        if self.per_cpu:
            self.value_size = (self.value_size + 7) // 8 * 8 * CPUS
        self.data: dict[bytes, bytes] = {}
        self.log: list[tuple[bytes, bytes | None]] = []
        self.written: Callable[[], None] = lambda: None

    def lookup(self, key: bytes) -> bytes | None:
        assert len(key) == self.key_size
        if self.is_array and int.from_bytes(key, "little") < self.spec.max_entries:
            return self.data.get(key, bytes(self.value_size))
        return self.data.get(key)

    def update(self, key: bytes, value: bytes) -> None:
        assert (len(key), len(value)) == (self.key_size, self.value_size), self.spec.name
        outside = self.is_array and int.from_bytes(key, "little") >= self.spec.max_entries
        grown = not self.is_array and key not in self.data
        if outside or (grown and len(self.data) >= self.spec.max_entries):
            number = errno.ENOSPC if self.spec.type is MapType.LPM_TRIE else errno.E2BIG
            raise KernelError(f"write the map {self.spec.name}", number=number)
        self.data[key] = value
        self.log.append((key, value))
        self.written()

    def delete(self, key: bytes) -> bool:
        assert len(key) == self.key_size
        assert not self.is_array, "entries of arrays cannot be deleted"
        self.log.append((key, None))
        self.written()
        return self.data.pop(key, None) is not None

    def update_batch(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        for key, value in pairs:
            self.update(key, value)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        if not self.is_array:
            yield from list(self.data.items())
            return
        for index in range(self.spec.max_entries):
            key = index.to_bytes(4, "little")
            yield key, self.data.get(key, bytes(self.value_size))

    def filled(self) -> Iterator[tuple[bytes, bytes]]:
        nothing = bytes(self.value_size)
        yield from [(key, value) for key, value in self.items() if value != nothing]


def slots_by_ifindex(maps: Mapping[str, FakeMap]) -> dict[int, int]:
    """What ``vm_slots`` holds."""
    table = maps["vm_slots"]
    entries = VmSlots(table, table.spec.max_entries).entries()
    return {ifindex: slot for _, ifindex, slot in entries}


def fake_maps(config: DataplaneConfig = SMALL) -> dict[str, FakeMap]:
    """All maps, at small sizes."""
    return {spec.name: FakeMap(spec) for spec in map_specs(config)}
