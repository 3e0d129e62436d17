# SPDX-License-Identifier: Apache-2.0
"""What the parts of the maps driver share: writing maps and saying why not."""

from __future__ import annotations

import errno
from collections.abc import Hashable, Iterator, Sequence
from typing import Protocol

from flyebpf.errors import KernelError
from flyebpf.model.rows import Row
from flyebpf.reconcile.base import Failure

SIZED_BY = {
    "vips": "pool_addresses",
    "services": "services",
    "service_ranges": "services",
    "service_states": "services",
    "tables": "services",
    "replies": "services",
    "proxy_ports": "services",
    "binds": "services",
    "ids": "services",
    "maglev": "maglev_entries",
    "slots": "machines",
    "vm_slots": "machines",
    "sixpn": "machines",
    "hosts": "hosts",
    "names": "names",
}
"""The key under [dataplane] that gives each map its size."""

Pair = tuple[bytes, bytes]


class MapLike(Protocol):
    """The part of :class:`flyebpf.bpf.libbpf.Map` that drivers use."""

    def lookup(self, key: bytes) -> bytes | None: ...

    def update(self, key: bytes, value: bytes) -> None: ...

    def delete(self, key: bytes) -> bool: ...

    def update_batch(self, pairs: Sequence[Pair]) -> None: ...

    def items(self) -> Iterator[Pair]: ...

    def filled(self) -> Iterator[Pair]: ...


class Part(Protocol):
    """A part of the maps driver: one kind of rows (see ``reconcile.base``)."""

    kind: type[Row]

    def read(self) -> dict[Hashable, object]: ...

    def fingerprint(self, row: Row) -> object: ...

    def apply(self, puts: Sequence[Row], deletes: Sequence[Hashable]) -> list[Failure]: ...


class UnappliedError(Exception):
    """A row cannot be lowered now: what is missing, and what to do."""

    def __init__(self, error: str, remedy: str = "", *, permanent: bool = False) -> None:
        super().__init__(error)
        self.error = error
        self.remedy = remedy
        self.permanent = permanent

    def failure(self, kind: type[Row], key: Hashable) -> Failure:
        return Failure(kind, key, self.error, self.remedy, self.permanent)


def full(name: str) -> UnappliedError:
    """The map ``name`` has no room."""
    size = SIZED_BY.get(name)
    remedy = f"Raise dataplane.{size} in the configuration and restart the daemon." if size else ""
    return UnappliedError(f"the map {name} is full", remedy)


def explain(name: str, error: KernelError) -> UnappliedError:
    """Why the kernel refused to write the map ``name``."""
    if error.number in (errno.E2BIG, errno.ENOSPC, errno.ENOMEM):
        return full(name)
    return UnappliedError(error.message, error.remedy)


def write_all(table: MapLike, pairs: Sequence[Pair]) -> dict[bytes, KernelError]:
    """Write ``pairs`` in batches; the keys that the kernel refused, and why."""
    try:
        table.update_batch(pairs)
    except KernelError:
        return write_each(table, pairs)
    return {}


def write_each(table: MapLike, pairs: Sequence[Pair]) -> dict[bytes, KernelError]:
    """After a batch failed: one by one, to know which entries do not fit."""
    refused: dict[bytes, KernelError] = {}
    for key, value in pairs:
        try:
            table.update(key, value)
        except KernelError as error:
            refused[key] = error
    return refused


def u32(value: int) -> bytes:
    """An index as the kernel wants it."""
    return value.to_bytes(4, "little")


def be16(port: int) -> bytes:
    """A port as packets have it."""
    return port.to_bytes(2, "big")
