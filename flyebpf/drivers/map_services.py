# SPDX-License-Identifier: Apache-2.0
"""``services`` and ``service_ranges``: (VIP, protocol, port) to a table."""

from __future__ import annotations

import struct
from collections.abc import Hashable, Sequence
from typing import cast

from flyebpf.bpf.layout import SERVICE_PROXY, SERVICE_REVERSE
from flyebpf.drivers.map_pools import Pools, no_pool
from flyebpf.drivers.map_ranges import RangeKey, Ranges
from flyebpf.drivers.map_service_ids import ServiceIds, ensure_ids, look_up
from flyebpf.drivers.map_tables import TablePart
from flyebpf.drivers.mapio import MapLike, UnappliedError, be16, explain, write_all
from flyebpf.errors import KernelError
from flyebpf.model.rows import Row, ServiceRow
from flyebpf.reconcile.base import Failure

SERVICE_KEY = struct.Struct("=I2sBx")  # vip, port, proto
SERVICE = struct.Struct("=II2sH4x")  # id, table, internal port, flags


class ServicePart:
    """(VIP, protocol, ports) to a table."""

    kind: type[Row] = ServiceRow

    def __init__(
        self, table: MapLike, ranges: Ranges, ids: ServiceIds, tables: TablePart, pools: Pools
    ) -> None:
        self._table = table
        self._ranges = ranges
        self._ids = ids
        self._tables = tables
        self._pools = pools

    def read(self) -> dict[Hashable, object]:
        found: dict[Hashable, object] = {}
        address = self._pools.address
        for raw, value in self._table.items():
            vip, port, proto = SERVICE_KEY.unpack(raw)
            number = int.from_bytes(port, "big")
            found[address(vip), proto, number, number] = value
        for key, content in self._ranges.read().items():
            if isinstance(key, RangeKey):
                found[address(key.vip), key.proto, key.first, key.last] = content
            else:
                found[key] = content
        self._ids.recount(ServiceRow, map(id_of, found.values()))
        return found

    def fingerprint(self, row: Row) -> object:
        assert isinstance(row, ServiceRow)
        try:
            return self._lower(row)
        except UnappliedError as error:
            return error.error

    def _lower(self, row: ServiceRow) -> bytes:
        table, index = self._tables.index(row.table), self._ids.find(row.service)
        if table is None:
            raise UnappliedError(f"table {row.table} of service {row.service} is not in the kernel")
        if index is None:
            raise UnappliedError(f"service {row.service} has no id")
        flags = (SERVICE_REVERSE if row.reverse else 0) | (SERVICE_PROXY if row.proxy else 0)
        return SERVICE.pack(index, table, be16(row.internal_port), flags)

    def apply(self, puts: Sequence[Row], deletes: Sequence[Hashable]) -> list[Failure]:
        rows = [row for row in puts if isinstance(row, ServiceRow)]
        failures = ensure_ids(self._ids, rows)
        failed = {failure.key for failure in failures}
        exact: dict[bytes, tuple[ServiceRow, bytes]] = {}
        for row in rows:
            if row.key in failed:
                continue
            try:
                self._sort_out(row, exact)
            except UnappliedError as error:
                failures.append(error.failure(ServiceRow, row.key))
        failures += self._write(exact)
        failures += [failure for key in deletes for failure in self._delete(key)]
        self._ids.free_idle()
        return failures

    def _sort_out(self, row: ServiceRow, exact: dict[bytes, tuple[ServiceRow, bytes]]) -> None:
        """Ranges are written at once; single ports are collected."""
        vip = self._pools.index(row.vip)
        if vip is None:
            raise no_pool(row.vip)
        value = self._lower(row)
        if row.first_port == row.last_port:
            exact[SERVICE_KEY.pack(vip, be16(row.first_port), row.proto)] = (row, value)
            return
        old = self._ranges.put(RangeKey(vip, row.proto, row.first_port, row.last_port), value)
        self._ids.move(ServiceRow, id_of(old), id_of(value))

    def _write(self, exact: dict[bytes, tuple[ServiceRow, bytes]]) -> list[Failure]:
        before = look_up(self._table, exact)
        refused = write_all(self._table, [(key, value) for key, (_, value) in exact.items()])
        for key, (_, value) in exact.items():
            if key not in refused:
                old = before.get(key)
                self._ids.move(ServiceRow, id_of(old), id_of(value))
        return [
            explain("services", error).failure(ServiceRow, exact[key][0].key)
            for key, error in refused.items()
        ]

    def _delete(self, key: Hashable) -> list[Failure]:
        try:
            old = self._remove(key)
        except KernelError as error:
            return [explain("services", error).failure(ServiceRow, key)]
        if old is not None:
            self._ids.move(ServiceRow, id_of(old), None)
        return []

    def _remove(self, key: Hashable) -> bytes | None:
        """Delete an entry; its old value."""
        if isinstance(key, bytes):
            return self._ranges.remove_stray(key)
        vip, proto, first, last = cast("tuple[str, int, int, int]", key)
        index = self._pools.index(vip)
        if index is None:
            return None
        if first != last:
            return self._ranges.remove(RangeKey(index, proto, first, last))
        raw = SERVICE_KEY.pack(index, be16(first), proto)
        old = self._table.lookup(raw)
        self._table.delete(raw)
        return old

    def purge(self, indexes: range) -> None:
        """No services at these addresses."""
        for key in list(self.read()):
            if isinstance(key, tuple) and self._pools.index(key[0]) in indexes:
                self._delete(key)


def id_of(value: object) -> int | None:
    """The service id in a value of the maps, or in one of :meth:`Ranges.read`."""
    raw = value[0] if isinstance(value, tuple) else value
    return int.from_bytes(raw[:4], "little") if isinstance(raw, bytes) and raw else None
