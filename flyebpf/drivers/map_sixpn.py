# SPDX-License-Identifier: Apache-2.0
"""``sixpn``: this host's machines by the fields of their private addresses.

Each has two entries: one under its network, for 6PN, and one under network 0,
for what an edge sends to it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from flyebpf.drivers.mapio import MapLike, UnappliedError, explain, u32, write_all

KEY = struct.Struct("=II")

Key = tuple[int, int]
"""Network and number of the machine."""


class Sixpn:
    def __init__(self, table: MapLike) -> None:
        self._table = table

    def entries(self) -> dict[Key, int]:
        """Keys to slots."""
        return {unpack(raw): int.from_bytes(value, "little") for raw, value in self._table.items()}

    def get(self, key: Key) -> int | None:
        value = self._table.lookup(KEY.pack(*key))
        return None if value is None else int.from_bytes(value, "little")

    def write(self, pairs: Iterable[tuple[Key, int]]) -> dict[Key, UnappliedError]:
        """Enter slots; those that could not be, and why."""
        refused = write_all(self._table, [(KEY.pack(*key), u32(slot)) for key, slot in pairs])
        return {unpack(raw): explain("sixpn", error) for raw, error in refused.items()}

    def delete(self, key: Key, slot: int) -> None:
        """Unless it leads to another slot by now. Raises KernelError."""
        if self.get(key) == slot:
            self._table.delete(KEY.pack(*key))


def unpack(raw: bytes) -> Key:
    network, number = KEY.unpack(raw)
    return network, number
