# SPDX-License-Identifier: Apache-2.0
"""The driver of network interfaces: uplinks and the VMs' own."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

from flyebpf.bpf.program import Program
from flyebpf.drivers.link import LinkOf
from flyebpf.drivers.netlink_interfaces import Interfaces
from flyebpf.drivers.netlink_io import Netlink
from flyebpf.drivers.netlink_uplinks import Uplinks
from flyebpf.model.rows import InterfaceRow, Row, UplinkRow
from flyebpf.reconcile.base import Failure


class NetlinkDriver:
    """``links``: folder of the pinned XDP links. ``programs`` by name."""

    name = "netlink"
    kinds: tuple[type[Row], ...] = (InterfaceRow, UplinkRow)

    def __init__(self, links: Path, link_of: LinkOf, programs: Mapping[str, Program]) -> None:
        self._netlink = Netlink()
        self._interfaces = Interfaces(self._netlink, link_of, programs)
        self.uplinks = Uplinks(links, self._netlink, link_of, programs)

    def hold(self, on: bool) -> None:
        """While on, no program that guards or serves is replaced by a new one:
        for the time in which the new programs' maps are filled."""
        self._interfaces.hold = on

    def close(self) -> None:
        """Nothing that is attached is touched."""
        self._netlink.close()

    def _part(self, kind: type[Row]) -> Interfaces | Uplinks:
        return self._interfaces if kind is InterfaceRow else self.uplinks

    def read(self, kind: type[Row]) -> dict[Hashable, object]:
        return self._part(kind).read()

    def fingerprint(self, row: Row) -> object:
        return self._part(type(row)).fingerprint(row)

    def apply(
        self, kind: type[Row], puts: Sequence[Row], deletes: Sequence[Hashable]
    ) -> list[Failure]:
        failures: list[Failure | None] = []
        for row in puts:
            if isinstance(row, InterfaceRow):
                failures.append(self._interfaces.put(row))
            elif isinstance(row, UplinkRow):
                failures.append(self.uplinks.put(row))
        failures += [self._part(kind).delete(str(key)) for key in deletes]
        return [failure for failure in failures if failure is not None]
