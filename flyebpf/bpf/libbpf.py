# SPDX-License-Identifier: Apache-2.0
"""Maps as objects over their file descriptors, and what all BPF objects share.

Keys and values are ``bytes`` of exactly the map's sizes. A per-CPU map's value
is the concatenation of one value (padded to 8 bytes) for each possible CPU.
All failures are :class:`flyebpf.errors.KernelError`.
"""

from __future__ import annotations

import ctypes as ct
import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from flyebpf.bpf.maps import MapSpec, MapType
from flyebpf.bpf.syscalls import (
    BPF_ANY,
    BatchOpts,
    MapCreateOpts,
    MapInfo,
    check,
    libbpf,
    possible_cpus,
)
from flyebpf.errors import KernelError

BATCH = 4096
ENOTSUPP = 524  # the kernel's own: the map type has no batch operations


class Descriptor:
    """Owns a file descriptor of a BPF object."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The object pinned at ``path``."""
        fd = libbpf().bpf_obj_get(os.fsencode(path))
        return cls(check(fd, f"open the pin {path}"))

    def pin(self, path: str | Path) -> None:
        """Pin it at ``path``, which must not exist."""
        check(libbpf().bpf_obj_pin(self.fd, os.fsencode(path)), f"pin {path}")

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_info(fd: int, info: ct.Structure, what: str) -> None:
    """Fill ``info`` by BPF_OBJ_GET_INFO_BY_FD."""
    size = ct.c_uint32(ct.sizeof(info))
    check(
        libbpf().bpf_obj_get_info_by_fd(fd, ct.byref(info), ct.byref(size)),
        f"read the info of {what}",
    )


@dataclass(frozen=True, slots=True)
class MapShape:
    """Type and sizes (bytes, entries) of a map in the kernel."""

    type: int
    key_size: int
    value_size: int
    max_entries: int


class Map(Descriptor):
    """A BPF map."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        info = MapInfo()
        read_info(fd, info, "a map")
        self.id: int = info.id
        self.name: str = info.name.decode()
        self.shape = MapShape(info.type, info.key_size, info.value_size, info.max_entries)
        self.per_cpu = info.type == MapType.PERCPU_ARRAY
        size = info.value_size
        self.value_size = (size + 7) // 8 * 8 * possible_cpus() if self.per_cpu else size

    @classmethod
    def create(cls, spec: MapSpec) -> Map:
        """A new map of this type, layout and size."""
        opts = MapCreateOpts(sz=ct.sizeof(MapCreateOpts), map_flags=spec.flags)
        fd = libbpf().bpf_map_create(
            int(spec.type),
            spec.name[:15].encode(),
            ct.sizeof(spec.key),
            ct.sizeof(spec.value),
            spec.max_entries,
            ct.byref(opts),
        )
        return cls(check(fd, f"create the map {spec.name}"))

    def matches(self, spec: MapSpec) -> bool:
        """Whether it has the spec's type and sizes."""
        return self.shape == MapShape(
            int(spec.type), ct.sizeof(spec.key), ct.sizeof(spec.value), spec.max_entries
        )

    def lookup(self, key: bytes) -> bytes | None:
        """The value, or None."""
        value = ct.create_string_buffer(self.value_size)
        result = libbpf().bpf_map_lookup_elem(self.fd, self.as_key(key), value)
        if result == -errno.ENOENT:
            return None
        check(result, f"read the map {self.name}")
        return value.raw

    def update(self, key: bytes, value: bytes, flags: int = BPF_ANY) -> None:
        """Write one entry."""
        result = libbpf().bpf_map_update_elem(
            self.fd, self.as_key(key), self.as_value(value), ct.c_uint64(flags)
        )
        check(result, f"write the map {self.name}")

    def delete(self, key: bytes) -> bool:
        """Delete one entry; False when it was not there."""
        result = libbpf().bpf_map_delete_elem(self.fd, self.as_key(key))
        if result == -errno.ENOENT:
            return False
        check(result, f"delete from the map {self.name}")
        return True

    def update_batch(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        """Write many entries; entries before a failing one are written."""
        for start in range(0, len(pairs), BATCH):
            self._update_chunk(pairs[start : start + BATCH])

    def _update_chunk(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        if self.shape.type == MapType.LPM_TRIE and len(pairs) < 2:
            for key, value in pairs:
                self.update(key, value)
            return
        keys = b"".join(self.as_key(key) for key, _ in pairs)
        values = b"".join(self.as_value(value) for _, value in pairs)
        count = ct.c_uint32(len(pairs))
        opts = BatchOpts(sz=ct.sizeof(BatchOpts), elem_flags=BPF_ANY)
        result = libbpf().bpf_map_update_batch(
            self.fd, keys, values, ct.byref(count), ct.byref(opts)
        )
        if result == -ENOTSUPP:
            for key, value in pairs:
                self.update(key, value)
            return
        check(result, f"write {len(pairs)} entries of the map {self.name}")

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every entry, read in batches; arrays in index order."""
        if self.per_cpu or self.shape.type == MapType.LPM_TRIE:
            yield from self._items_one_by_one()
        else:
            yield from self._items_batched()

    def filled(self) -> Iterator[tuple[bytes, bytes]]:
        """The entries that are not all zero: what is in use of an array. The
        rest is skipped a batch at a time."""
        size, nothing = self.shape.value_size, bytes(self.shape.value_size)
        for keys, values in self._batches():
            if values.count(0) == len(values):
                continue
            for key, value in pieces(keys, self.shape.key_size, values, size):
                if value != nothing:
                    yield key, value

    def keys(self) -> Iterator[bytes]:
        """Every key."""
        size = self.shape.key_size
        key: bytes | None = None
        following = ct.create_string_buffer(size)
        while libbpf().bpf_map_get_next_key(self.fd, key, following) == 0:
            key = following.raw[:size]
            yield key

    def _items_one_by_one(self) -> Iterator[tuple[bytes, bytes]]:
        for key in list(self.keys()):
            value = self.lookup(key)
            if value is not None:
                yield key, value

    def _items_batched(self) -> Iterator[tuple[bytes, bytes]]:
        for keys, values in self._batches():
            yield from pieces(keys, self.shape.key_size, values, self.shape.value_size)

    def _batches(self) -> Iterator[tuple[bytes, bytes]]:
        """The keys of many entries, one after the other, and their values."""
        key_size, value_size = self.shape.key_size, self.value_size
        room = BATCH
        position: ct.Array[ct.c_char] | None = None
        following = ct.create_string_buffer(max(key_size, 8))
        while True:
            keys = ct.create_string_buffer(key_size * room)
            values = ct.create_string_buffer(value_size * room)
            count = ct.c_uint32(room)
            opts = BatchOpts(sz=ct.sizeof(BatchOpts))
            result = libbpf().bpf_map_lookup_batch(
                self.fd, position, following, keys, values, ct.byref(count), ct.byref(opts)
            )
            if result == -errno.ENOSPC:  # a hash bucket with more than fits
                room *= 2
                continue
            if result not in (0, -errno.ENOENT):
                check(result, f"read the map {self.name}")
            yield keys.raw[: count.value * key_size], values.raw[: count.value * value_size]
            if result == -errno.ENOENT:
                return
            position = ct.create_string_buffer(following.raw, len(following))

    def as_key(self, key: bytes) -> bytes:
        if len(key) != self.shape.key_size:
            raise KernelError(
                f"map {self.name}: key of {len(key)} bytes, expected {self.shape.key_size}"
            )
        return key

    def as_value(self, value: bytes) -> bytes:
        if len(value) != self.value_size:
            raise KernelError(
                f"map {self.name}: value of {len(value)} bytes, expected {self.value_size}"
            )
        return value


def pieces(
    keys: bytes, key_size: int, values: bytes, value_size: int
) -> Iterator[tuple[bytes, bytes]]:
    """The entries of a batch."""
    for place in range(len(keys) // key_size):
        key = keys[place * key_size : (place + 1) * key_size]
        yield key, values[place * value_size : (place + 1) * value_size]
