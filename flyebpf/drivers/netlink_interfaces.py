# SPDX-License-Identifier: Apache-2.0
"""The VMs' interfaces: guarded first, then up, then reachable.

An interface that is ours has our link group. What it needs is made in an order
in which nothing a VM sends passes unguarded, and undone in the reverse order.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Hashable, Mapping

from flyebpf.bpf.program import Program
from flyebpf.drivers import sysctl
from flyebpf.drivers.link import Link, LinkOf
from flyebpf.drivers.netlink_dumps import IFF_ALLMULTI, IFF_UP
from flyebpf.drivers.netlink_io import (
    EGRESS,
    GROUP,
    HANDLE,
    INGRESS,
    SECOND,
    THIRD,
    Netlink,
    filter_name,
)
from flyebpf.errors import FlyebpfError, KernelError
from flyebpf.model.rows import InterfaceRow, Row
from flyebpf.reconcile.base import Failure

log = logging.getLogger(__name__)
ROLES = {
    "vm6_tc": (INGRESS, THIRD),
    "dns": (INGRESS, SECOND),
    "vm_tc": (INGRESS, HANDLE),
    "vm_out": (EGRESS, HANDLE),
}
"""What guards an interface, and where: what the VM sends, at first to vm_tc and what
that leaves of it to dns, and then to vm6_tc; what it is about to get, to vm_out."""


class Interfaces:
    """Guards the interfaces of VMs; creates none.

    ``hold``: interfaces that an older program guards keep it, for as long as
    the new programs' maps are not filled.
    """

    def __init__(self, netlink: Netlink, link_of: LinkOf, programs: Mapping[str, Program]) -> None:
        self._netlink = netlink
        self._link_of = link_of
        self._programs = programs
        self.hold = False
        self._routes: dict[int, set[str]] | None = None  # ours, as far as known

    def read(self) -> dict[Hashable, object]:
        """Three dumps, and two questions for each interface of ours."""
        routes = self._routes = self._dump_routes()
        neighbours: dict[int, set[tuple[str, str]]] = {}
        for ifindex, address, mac in self._netlink.neighbours():
            if address in routes.get(ifindex, ()):  # others are somebody else's
                neighbours.setdefault(ifindex, set()).add((address, mac))
        return {
            name: (
                self._guards(name, ifindex),
                up,
                self._without_ipv6(name),
                frozenset(routes.get(ifindex, ())),
                frozenset(neighbours.get(ifindex, ())),
            )
            for name, ifindex, group, up in self._netlink.links()
            if group == GROUP
        }

    def _dump_routes(self) -> dict[int, set[str]]:
        routes: dict[int, set[str]] = {}
        for ifindex, address in self._netlink.routes():
            routes.setdefault(ifindex, set()).add(address)
        return routes

    def _known_routes(self, ifindex: int) -> set[str]:
        """Our routes over an interface; asks the kernel only the first time,
        because its answer is always about all interfaces."""
        if self._routes is None:
            self._routes = self._dump_routes()
        return self._routes.setdefault(ifindex, set())

    def fingerprint(self, row: Row) -> object:
        assert isinstance(row, InterfaceRow)
        return (
            tuple(filter_name(role, self._programs[role]) for role in ROLES),
            True,
            True,
            frozenset(row.addresses),
            frozenset((address, row.mac) for address in row.addresses),
        )

    def put(self, row: InterfaceRow) -> Failure | None:
        link = self._link_of(row.interface)
        if link is None:
            return Failure(
                InterfaceRow,
                row.key,
                f"interface {row.interface} of machine {row.machine} does not exist",
                "Create it, or remove the machine; it is picked up when it appears.",
                permanent=True,
            )
        try:
            self._guard(row, link)
            self._address(row, link)
        except FlyebpfError as error:
            return Failure(InterfaceRow, row.key, error.message, error.remedy)
        return None

    def _guard(self, row: InterfaceRow, link: Link) -> None:
        name, ifindex = row.interface, link.ifindex
        was_up, _, group = self._netlink.link(name, ifindex)
        guards = dict(zip(ROLES, self._guards(name, ifindex), strict=True))
        if was_up and not guards["vm_tc"]:
            log.warning(
                "interface %s of machine %s was up before it was guarded", name, row.machine
            )
        held = self.hold and any(guards.values())
        for role, found in guards.items():
            program = self._programs[role]
            if found != filter_name(role, program) and not held:
                parent, at = ROLES[role]
                self._netlink.guard(name, ifindex, program, role, parent, at=at)
        if group != GROUP:  # setting it again would be an event that ends up here
            # A VM asks for its gateway's MAC in multicast frames (RFC 4861), which
            # a NIC keeps to itself while the host's stack has not asked for them.
            self._netlink.set_link(
                name, ifindex, group=GROUP, flags=IFF_ALLMULTI, change=IFF_ALLMULTI
            )
        sysctl.write(sysctl.interface("ipv6", name, "disable_ipv6"), "1")
        if not was_up:
            self._netlink.set_link(name, ifindex, state="up")

    def _guards(self, name: str, ifindex: int) -> tuple[str, ...]:
        """Our filters, in the order of ROLES; "" for one that is not there."""
        return tuple(self._netlink.filter(name, ifindex, *place) for place in ROLES.values())

    def _address(self, row: InterfaceRow, link: Link) -> None:
        """A route needs an interface that is up, so this comes last."""
        known = self._known_routes(link.ifindex)
        for address in known.difference(row.addresses):
            self._netlink.drop_address(row.interface, link.ifindex, address)
            known.discard(address)
        for address in row.addresses:
            self._netlink.add_address(row.interface, link.ifindex, address, row.mac)
            known.add(address)

    def _without_ipv6(self, name: str) -> bool:
        return sysctl.read(sysctl.interface("ipv6", name, "disable_ipv6")) in ("", "1")

    def delete(self, name: str) -> Failure | None:
        """Down before the guard goes. A VM that keeps its interface gets
        nothing through it."""
        link = self._link_of(name)
        if link is None:
            return None
        try:
            known = self._known_routes(link.ifindex)
            for address in list(known):
                self._netlink.drop_address(name, link.ifindex, address)
                known.discard(address)
            change = IFF_UP | IFF_ALLMULTI
            self._netlink.set_link(name, link.ifindex, group=0, flags=0, change=change)
            for place in ROLES.values():
                self._netlink.unguard(name, link.ifindex, *place)
        except FlyebpfError as error:
            if isinstance(error, KernelError) and error.number == errno.ENODEV:
                return None  # it vanished meanwhile, and all this with it
            return Failure(InterfaceRow, name, error.message, error.remedy)
        return None
