# SPDX-License-Identifier: Apache-2.0
"""``proxy_ports``: the ports of machines that proxies may open connections to."""

from __future__ import annotations

import struct
from collections.abc import Hashable, Sequence

from flyebpf.drivers.map_slots import SlotPart
from flyebpf.drivers.mapio import MapLike, be16, explain, u32, write_all
from flyebpf.errors import KernelError
from flyebpf.model.proxyrows import ProxyTargetRow
from flyebpf.model.rows import Row
from flyebpf.reconcile.base import Failure

KEY = struct.Struct("=I2s2x")  # slot, port
VALUE = u32(1)


class ProxyPortPart:
    kind: type[Row] = ProxyTargetRow

    def __init__(self, table: MapLike, slots: SlotPart) -> None:
        self._table = table
        self._slots = slots
        self._keys: dict[bytes, Hashable] = {}
        self._raws: dict[Hashable, bytes] = {}

    def read(self) -> dict[Hashable, object]:
        """What we have not written ourselves is called by its bytes."""
        return {self._keys.get(raw, raw): value for raw, value in self._table.items()}

    def fingerprint(self, row: Row) -> object:
        return VALUE

    def apply(self, puts: Sequence[Row], deletes: Sequence[Hashable]) -> list[Failure]:
        failures: list[Failure] = []
        wanted: dict[bytes, Row] = {}
        for row in puts:
            assert isinstance(row, ProxyTargetRow)
            slot = self._slots.index(row.machine)
            if slot is None:
                failures.append(Failure(ProxyTargetRow, row.key, "the machine has no slot"))
            else:
                wanted[KEY.pack(slot, be16(row.port))] = row
        refused = write_all(self._table, [(raw, VALUE) for raw in wanted])
        for raw, row in wanted.items():
            if raw in refused:
                failures.append(
                    explain("proxy_ports", refused[raw]).failure(ProxyTargetRow, row.key)
                )
            else:
                failures += self._take(raw, row.key)
        for key in deletes:
            failures += self._delete(key)
        return failures

    def _take(self, raw: bytes, key: Hashable) -> list[Failure]:
        """The entry is this row's; of one that it had before nothing is left."""
        before = self._raws.get(key)
        self._keys[raw], self._raws[key] = key, raw
        if before is None or before == raw or self._keys.get(before) != key:
            return []
        return self._drop(before, key)

    def _delete(self, key: Hashable) -> list[Failure]:
        if isinstance(key, bytes):
            return [] if key in self._keys else self._drop(key, key)
        raw = self._raws.get(key)
        failures = [] if raw is None else self._drop(raw, key)
        if not failures:
            self._raws.pop(key, None)
        return failures

    def _drop(self, raw: bytes, key: Hashable) -> list[Failure]:
        try:
            self._table.delete(raw)
        except KernelError as error:
            return [explain("proxy_ports", error).failure(ProxyTargetRow, key)]
        self._keys.pop(raw, None)
        return []
