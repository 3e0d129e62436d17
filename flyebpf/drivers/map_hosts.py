# SPDX-License-Identifier: Apache-2.0
"""``hosts``: the other hosts, by number, and the device that leads to each; and what
they look like to machines as proxies (``proxies``)."""

from __future__ import annotations

import struct
from collections.abc import Hashable, Sequence
from ipaddress import ip_address
from socket import inet_aton

from flyebpf.drivers.link import LinkOf
from flyebpf.drivers.mapio import MapLike, UnappliedError, explain, u32, write_all
from flyebpf.errors import KernelError
from flyebpf.model.rows import HostRow, Row
from flyebpf.reconcile.base import Failure

OWN = 0
HOST = struct.Struct("=16sI4x")  # next_hop, ifindex
MAPPED = bytes(10) + b"\xff\xff"


class HostPart:
    kind: type[Row] = HostRow

    def __init__(self, table: MapLike, proxies: MapLike, link_of: LinkOf) -> None:
        """``proxies``: address to the host's number; 0 is this host's own."""
        self._table = table
        self._proxies = proxies
        self._link_of = link_of

    def read(self) -> dict[Hashable, object]:
        hosts = {int.from_bytes(raw, "little"): value for raw, value in self._table.items()}
        proxies: dict[int, list[bytes]] = {}
        for address, number in self._proxies.items():
            proxies.setdefault(int.from_bytes(number, "little"), []).append(address)
        proxies.pop(OWN, None)
        return {
            number: (hosts.get(number), *proxies.get(number, ()))
            for number in hosts.keys() | proxies.keys()
        }

    def fingerprint(self, row: Row) -> object:
        assert isinstance(row, HostRow)
        value = self._lower(row)
        if value is None:
            return "no interface"
        return (value, inet_aton(row.proxy)) if row.proxy else (value,)

    def _lower(self, row: HostRow) -> bytes | None:
        """The entry; None without its device."""
        link = self._link_of(row.interface)
        return None if link is None else HOST.pack(packed(row.next_hop), link.ifindex)

    def apply(self, puts: Sequence[Row], deletes: Sequence[Hashable]) -> list[Failure]:
        """Where the device does not exist nothing is sent."""
        failures: list[Failure] = []
        wanted: dict[bytes, tuple[HostRow, bytes]] = {}
        for row in puts:
            assert isinstance(row, HostRow)
            value = self._lower(row)
            if value is not None:
                wanted[u32(row.number)] = (row, value)
                continue
            failures += self._delete(row.number) or [no_device(row).failure(HostRow, row.key)]
        failures += self._set_proxies([row for row, _ in wanted.values()])
        pairs = [(raw, value) for raw, (_, value) in wanted.items()]
        for raw, error in write_all(self._table, pairs).items():
            failures.append(explain("hosts", error).failure(HostRow, wanted[raw][0].key))
        for key in deletes:
            assert isinstance(key, int)
            failures += self._delete(key)
        return failures

    def _set_proxies(self, rows: Sequence[HostRow]) -> list[Failure]:
        """Each host's proxy, and no other address as that."""
        wanted = {u32(row.number): inet_aton(row.proxy) for row in rows if row.proxy}
        numbers = {u32(row.number): row for row in rows}
        try:
            for address, number in list(self._proxies.items()):
                if number in numbers and wanted.get(number) != address:
                    self._proxies.delete(address)
        except KernelError as error:
            return [explain("proxies", error).failure(HostRow, row.key) for row in rows]
        pairs = [(address, number) for number, address in wanted.items()]
        numbers_of = {address: numbers[number] for address, number in pairs}
        return [
            explain("proxies", error).failure(HostRow, numbers_of[raw].key)
            for raw, error in write_all(self._proxies, pairs).items()
        ]

    def _delete(self, number: int) -> list[Failure]:
        try:
            for address, of in list(self._proxies.items()):
                if of == u32(number):
                    self._proxies.delete(address)
            self._table.delete(u32(number))
        except KernelError as error:
            return [explain("hosts", error).failure(HostRow, number)]
        return []


def packed(address: str) -> bytes:
    """16 bytes, IPv4 mapped; zeros for none."""
    if not address:
        return bytes(16)
    parsed = ip_address(address)
    return parsed.packed if parsed.version == 6 else MAPPED + parsed.packed


def no_device(row: HostRow) -> UnappliedError:
    return UnappliedError(
        f"mesh device {row.interface}, which leads to host {row.name}, does not exist",
        "`flyebpf status` says why it could not be made, or what mesh.interface has to name.",
        permanent=True,
    )
