# SPDX-License-Identifier: Apache-2.0
"""``replies``: where a machine's replies come from when no flow tells."""

from __future__ import annotations

import socket
import struct
from collections.abc import Hashable, Sequence
from typing import cast

from flyebpf.bpf.layout import REPLY_IPV6, REPLY_UNIQUE
from flyebpf.drivers.map_service_ids import ServiceIds, ensure_ids, look_up
from flyebpf.drivers.map_slots import SlotPart
from flyebpf.drivers.mapio import MapLike, be16, explain, write_all
from flyebpf.errors import KernelError
from flyebpf.model.rows import ReplyRow, Row
from flyebpf.reconcile.base import Failure

REPLY_KEY = struct.Struct("=I2sBB")  # slot, port, proto, family
REPLY = struct.Struct("=16sI2sH")  # vip, service, port, flags
MAPPED = bytes(10) + b"\xff\xff"


class ReplyPart:
    """(machine, protocol, internal port) to the source of replies."""

    kind: type[Row] = ReplyRow

    def __init__(self, table: MapLike, ids: ServiceIds, slots: SlotPart) -> None:
        self._table = table
        self._ids = ids
        self._slots = slots

    def read(self) -> dict[Hashable, object]:
        found: dict[Hashable, object] = {}
        machines: dict[int, str] = {}
        for raw, value in self._table.items():
            slot, port, proto, family = REPLY_KEY.unpack(raw)
            if slot not in machines:
                machines[slot] = self._slots.machine(slot) or f"#{slot}"
            number = int.from_bytes(port, "big")
            found[machines[slot], proto, number, family == REPLY_IPV6] = value
        self._ids.recount(ReplyRow, (service_of(value) for value in found.values()))
        return found

    def fingerprint(self, row: Row) -> object:
        assert isinstance(row, ReplyRow)
        index = self._ids.find(row.service)
        return "no id" if index is None else self._lower(row, index)

    def _lower(self, row: ReplyRow, service: int) -> bytes:
        vip = packed(row.vip)
        return REPLY.pack(vip, service, be16(row.port), REPLY_UNIQUE if row.unique else 0)

    def apply(self, puts: Sequence[Row], deletes: Sequence[Hashable]) -> list[Failure]:
        rows = [row for row in puts if isinstance(row, ReplyRow)]
        failures = ensure_ids(self._ids, rows)
        failed = {failure.key for failure in failures}
        wanted: dict[bytes, tuple[ReplyRow, bytes]] = {}
        for row in rows:
            service = self._ids.find(row.service)
            if row.key in failed or service is None:
                continue
            raw = self._raw(row.key)
            if raw is None:
                failures.append(Failure(ReplyRow, row.key, f"machine {row.machine} has no slot"))
            else:
                wanted[raw] = (row, self._lower(row, service))
        failures += self._write(wanted)
        failures += [failure for key in deletes for failure in self._delete(key)]
        self._ids.free_idle()
        return failures

    def _write(self, wanted: dict[bytes, tuple[ReplyRow, bytes]]) -> list[Failure]:
        before = look_up(self._table, wanted)
        refused = write_all(self._table, [(key, value) for key, (_, value) in wanted.items()])
        for key, (_, value) in wanted.items():
            if key not in refused:
                old = before.get(key)
                self._ids.move(ReplyRow, service_of(old), service_of(value))
        return [
            explain("replies", error).failure(ReplyRow, wanted[key][0].key)
            for key, error in refused.items()
        ]

    def _raw(self, key: Hashable) -> bytes | None:
        machine, proto, port, ipv6 = cast("tuple[str, int, int, bool]", key)
        family = REPLY_IPV6 if ipv6 else 0
        slot = self._stray(machine) if machine.startswith("#") else self._slots.index(machine)
        return None if slot is None else REPLY_KEY.pack(slot, be16(port), proto, family)

    def _stray(self, name: str) -> int | None:
        """The slot of ``#<slot>``, if it still is nobody's."""
        slot = int(name[1:])
        return None if self._slots.machine(slot) else slot

    def _delete(self, key: Hashable) -> list[Failure]:
        raw = self._raw(key)
        old = self._table.lookup(raw) if raw else None
        if raw is None or old is None:
            return []
        try:
            self._table.delete(raw)
        except KernelError as error:
            return [explain("replies", error).failure(ReplyRow, key)]
        self._ids.move(ReplyRow, service_of(old), None)
        return []


def packed(vip: str) -> bytes:
    """An address as maps have it."""
    if ":" in vip:
        return socket.inet_pton(socket.AF_INET6, vip)
    return MAPPED + socket.inet_aton(vip)


def service_of(value: object) -> int | None:
    """The service id in a value of ``replies``."""
    return int.from_bytes(value[16:20], "little") if isinstance(value, bytes) else None
