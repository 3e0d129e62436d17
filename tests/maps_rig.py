# SPDX-License-Identifier: Apache-2.0
"""The maps driver over maps in memory, and rows for it."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import partial

from flyebpf.bpf import layout
from flyebpf.drivers.bpf_maps import MapsDriver
from flyebpf.drivers.link import Link
from flyebpf.model.roworder import ROW_ORDER
from flyebpf.model.rows import Row, SettingsRow, SlotRow, TableRow
from flyebpf.reconcile.base import Failure
from tests.fakes_maps import SMALL, FakeMap, fake_maps

M1, M2, M3 = "11111111111111", "22222222222222", "33333333333333"
POOL = "203.0.113.0/24"
LINKS = {
    "eth0": Link(2, b"\2\0\0\0\0\2", True),
    "tap1": Link(11, b"\2\0\0\0\0\x11", True),
    "tap2": Link(12, b"\2\0\0\0\0\x12", False),
    "tap3": Link(13, b"\2\0\0\0\0\x13", True),
}


def size(count: int) -> int:
    return count if count <= 1 else 7 if count <= 3 else 31


def build(backends: Sequence[str], size: int) -> array[int]:
    return array("I", (i % len(backends) for i in range(size)))


class Rig:
    """A driver, its maps, its clock and its interfaces."""

    def __init__(self, maps: dict[str, FakeMap] | None = None) -> None:
        self.maps = maps or fake_maps()
        self.links = dict(LINKS)
        self.now = 0.0
        self.driver = MapsDriver(
            self.maps,
            SMALL,
            link_of=self.links.get,
            build_table=build,
            table_size=size,
            clock=lambda: self.now,
        )

    def reborn(self) -> Rig:
        """A daemon that starts on the same maps."""
        return Rig(self.maps)

    def put(self, *rows: Row) -> list[Failure]:
        failures: list[Failure] = []
        for kind in ROW_ORDER:
            chosen = [row for row in rows if type(row) is kind]
            if chosen:
                failures += self.driver.apply(kind, chosen, ())
        return failures

    def delete(self, *rows: Row) -> None:
        for kind in reversed(ROW_ORDER):
            keys = [row.key for row in rows if type(row) is kind]
            if keys:
                assert self.driver.apply(kind, (), keys) == []

    def drift(self, *rows: Row) -> list[Row]:
        """Rows that the kernel does not hold exactly, and nothing else is there."""
        self.driver.learn([row for row in rows if isinstance(row, TableRow)])
        bad: list[Row] = []
        for kind in self.driver.kinds:
            actual = self.driver.read(kind)
            wanted = {row.key: row for row in rows if type(row) is kind}
            bad += [
                row
                for key, row in wanted.items()
                if actual.pop(key, None) != self.driver.fingerprint(row)
            ]
            assert actual == {}, f"unexpected {kind.__name__}"
        return bad

    def watch(self, order: list[str], *names: str) -> None:
        """Note in ``order`` which of these maps is written to."""
        for name in names:
            self.maps[name].written = partial(order.append, name)

    def slot(self, index: int) -> layout.Slot:
        return layout.Slot.from_buffer_copy(
            self.maps["slots"].lookup(index.to_bytes(4, "little")) or b""
        )

    def service(self, vip: int, port: int, proto: int = 6) -> layout.Service | None:
        key = bytes(layout.ServiceKey(vip=vip, port=port, proto=proto))
        value = self.maps["services"].lookup(key)
        return layout.Service.from_buffer_copy(value) if value else None

    def table(self, index: int) -> list[int]:
        """The slots that a table leads to."""
        raw = self.maps["tables"].lookup(index.to_bytes(4, "little")) or b""
        table = layout.Table.from_buffer_copy(raw)
        entries = range(table.start, table.start + table.size)
        values = (self.maps["maglev"].lookup(i.to_bytes(4, "little")) or b"" for i in entries)
        return [int.from_bytes(value, "little") for value in values]

    def generation(self, service: int) -> int:
        raw = self.maps["service_states"].lookup(service.to_bytes(4, "little")) or b""
        return int.from_bytes(raw[:4], "little")


def settings(*pools: str) -> SettingsRow:
    return SettingsRow("settings", pools, "172.16.0.0/12", "100.64.0.0/12", ("eth0",), 2**63 + 5)


def slot(machine: str, number: int, *, live: bool = True) -> SlotRow:
    mac = f"02:aa:00:00:00:0{number}"
    addresses = (f"172.16.0.{2 * number}", f"172.16.0.{2 * number + 1}")
    return SlotRow(machine, f"tap{number}", mac, *addresses, live)
