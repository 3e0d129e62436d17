# SPDX-License-Identifier: Apache-2.0
"""``egress_policy``: where a VM's own packets may go."""

from __future__ import annotations

import socket
import struct
from collections.abc import Hashable, Sequence

from flyebpf.drivers.mapio import MapLike, explain, u32, write_all
from flyebpf.errors import KernelError
from flyebpf.model.rows import PolicyRow, Row
from flyebpf.reconcile.base import Failure

KEY = struct.Struct("=I4s")


def raw_key(prefix: str) -> bytes:
    address, _, bits = prefix.partition("/")
    return KEY.pack(int(bits), socket.inet_aton(address))


class PolicyPart:
    kind: type[Row] = PolicyRow

    def __init__(self, table: MapLike) -> None:
        self._table = table

    def read(self) -> dict[Hashable, object]:
        found: dict[Hashable, object] = {}
        for raw, value in self._table.items():
            bits, address = KEY.unpack(raw)
            found[f"{socket.inet_ntoa(address)}/{bits}"] = value
        return found

    def fingerprint(self, row: Row) -> object:
        assert isinstance(row, PolicyRow)
        return u32(row.reason)

    def apply(self, puts: Sequence[Row], deletes: Sequence[Hashable]) -> list[Failure]:
        rows = {raw_key(row.prefix): row for row in puts if isinstance(row, PolicyRow)}
        refused = write_all(self._table, [(raw, u32(row.reason)) for raw, row in rows.items()])
        failures = [
            explain("egress_policy", error).failure(PolicyRow, rows[raw].key)
            for raw, error in refused.items()
        ]
        for key in deletes:
            try:
                self._table.delete(raw_key(str(key)))
            except KernelError as error:
                failures.append(explain("egress_policy", error).failure(PolicyRow, key))
        return failures
