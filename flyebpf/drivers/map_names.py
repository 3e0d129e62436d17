# SPDX-License-Identifier: Apache-2.0
"""``names``: what the programs at machines' interfaces answer by themselves."""

from __future__ import annotations

import struct
from collections.abc import Hashable, Sequence

from flyebpf.bpf.layout import NAME_ADDRESSES
from flyebpf.drivers.mapio import MapLike, explain, write_all
from flyebpf.errors import KernelError
from flyebpf.model.rows import NameRow, Row
from flyebpf.reconcile.base import Failure

KEY = struct.Struct("=I4x16s")  # network, hash
VALUE = struct.Struct(f"=II{16 * NAME_ADDRESSES}s")  # count, sum, addresses
RECORD = bytes.fromhex("c00c001c0001000000050010")
"""An answer's record before its address: a pointer to the question's name, AAAA,
IN, a TTL of 5 seconds, 16 bytes."""
_WORDS = struct.Struct("=14H")


class NamePart:
    kind: type[Row] = NameRow

    def __init__(self, table: MapLike) -> None:
        self._table = table
        self._used: set[bytes] = set()

    def read(self) -> dict[Hashable, object]:
        found = dict(self._table.items())
        self._used = set(found)
        return {KEY.unpack(raw): value for raw, value in found.items()}

    def used(self) -> int:
        """Entries that are in use."""
        return len(self._used)

    def fingerprint(self, row: Row) -> object:
        assert isinstance(row, NameRow)
        return value_of(row.addresses)

    def apply(self, puts: Sequence[Row], deletes: Sequence[Hashable]) -> list[Failure]:
        """A name that could not be written is left out: the server answers it."""
        failures: list[Failure] = []
        pairs: dict[bytes, tuple[NameRow, bytes]] = {}
        for row in puts:
            assert isinstance(row, NameRow)
            pairs[raw_key(row.key)] = (row, value_of(row.addresses))
        refused = write_all(self._table, [(raw, value) for raw, (_, value) in pairs.items()])
        self._used |= pairs.keys() - refused.keys()
        for raw, error in refused.items():
            failures.append(explain("names", error).failure(NameRow, pairs[raw][0].key))
            failures += self._delete(pairs[raw][0].key)
        for key in deletes:
            failures += self._delete(key)
        return failures

    def _delete(self, key: Hashable) -> list[Failure]:
        raw = raw_key(key)
        try:
            self._table.delete(raw)
        except KernelError as error:
            return [explain("names", error).failure(NameRow, key)]
        self._used.discard(raw)
        return []


def raw_key(key: Hashable) -> bytes:
    """The map's key for a row's."""
    assert isinstance(key, tuple)
    return KEY.pack(*key)


def value_of(addresses: Sequence[bytes]) -> bytes:
    """The map's value for a name with these addresses, at most 8."""
    return VALUE.pack(len(addresses), records_sum(addresses), b"".join(addresses))


def records_sum(addresses: Sequence[bytes]) -> int:
    """All records' 16-bit words as they stand in memory, folded (RFC 1071)."""
    total = sum(sum(_WORDS.unpack(RECORD + address)) for address in addresses)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total
