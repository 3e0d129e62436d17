# SPDX-License-Identifier: Apache-2.0
"""The driver of the host port: the one place where the host's own services and
private networks meet.

A pair of devices. What programs redirect into the near one comes into the host's
stack from there; what the stack sends into private networks leaves by it, comes in
at the far one, and there ``host_tc`` decides who gets it. Both are ours by their
link group.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

from flyebpf.bpf.program import Program
from flyebpf.drivers.mesh_tools import Settings, are_set, write_settings
from flyebpf.drivers.netlink_dumps import DeviceRoute
from flyebpf.drivers.netlink_io import Netlink, filter_name
from flyebpf.drivers.netlink_mesh import Facts
from flyebpf.drivers.netlink_pairs import HOST_GROUP, IFF_NOARP, PairNetlink
from flyebpf.errors import ConflictError, FlyebpfError
from flyebpf.model.rows import HostPortRow, Row
from flyebpf.model.sixpn import HOST_PORT, HOST_PORT_FAR
from flyebpf.reconcile.base import Failure

ROLE = "host_tc"
METRIC = 1024  # what the kernel gives IPv6 routes
NEAR_SETTINGS: Settings = {
    ("ipv6", "disable_ipv6"): "0",
    ("ipv6", "addr_gen_mode"): "1",  # no link-local address, and no multicast of it
    ("ipv6", "accept_ra"): "0",
    ("ipv6", "accept_redirects"): "0",
    ("ipv6", "accept_source_route"): "-1",
    ("ipv6", "router_solicitations"): "0",
}
FAR_SETTINGS: Settings = {("ipv6", "disable_ipv6"): "1"}


class HostPortDriver:
    """``created`` is told the names of devices that are made."""

    name = "host port"
    kinds: tuple[type[Row], ...] = (HostPortRow,)

    def __init__(self, programs: Mapping[str, Program], created: Callable[[str], None]) -> None:
        self._programs = programs
        self._created = created
        self._netlink = Netlink()
        self._pairs = PairNetlink()
        self._hold = False

    def hold(self, on: bool) -> None:
        """As :meth:`flyebpf.drivers.netlink.NetlinkDriver.hold`."""
        self._hold = on

    def close(self) -> None:
        """The devices stay."""
        self._netlink.close()
        self._pairs.close()

    def read(self, kind: type[Row]) -> dict[Hashable, object]:
        near, far = self._pairs.look(HOST_PORT), self._pairs.look(HOST_PORT_FAR)
        if near is None or far is None or {near.group, far.group} != {HOST_GROUP}:
            return {}
        routes = self._pairs.routes().get(near.ifindex, set())
        state = (
            HOST_PORT_FAR,
            self._netlink.filter(HOST_PORT_FAR, far.ifindex),
            near.up and far.up,
            bool(self._pairs.flags(near) & IFF_NOARP),
            frozenset(self._pairs.addresses(near.ifindex)),
            frozenset(route.cidr for route in routes),
            are_set(HOST_PORT, NEAR_SETTINGS) and are_set(HOST_PORT_FAR, FAR_SETTINGS),
        )
        return {HOST_PORT: state}

    def fingerprint(self, row: Row) -> object:
        assert isinstance(row, HostPortRow)
        guard = filter_name(ROLE, self._programs[ROLE])
        addresses, routes = frozenset(row.addresses), frozenset((row.route,))
        return row.far, guard, True, True, addresses, routes, True

    def apply(
        self, kind: type[Row], puts: Sequence[Row], deletes: Sequence[Hashable]
    ) -> list[Failure]:
        failures = []
        for key in deletes:
            try:
                self._delete(str(key))
            except FlyebpfError as error:
                failures.append(Failure(HostPortRow, key, error.message, error.remedy))
        for row in puts:
            assert isinstance(row, HostPortRow)
            try:
                self._put(row)
            except FlyebpfError as error:
                failures.append(Failure(HostPortRow, row.key, error.message, error.remedy))
        return failures

    def _put(self, row: HostPortRow) -> None:
        """The far end is guarded before either is up."""
        near, far = self._pair(row)
        write_settings(row.far, FAR_SETTINGS)
        write_settings(row.interface, NEAR_SETTINGS)
        self._guard(row.far, far)
        if not self._pairs.flags(near) & IFF_NOARP:
            self._pairs.without_arp(row.interface, near)
        for name, facts in ((row.far, far), (row.interface, near)):
            if not facts.up:
                self._pairs.configure(name, facts.ifindex, state="up")
        self._address(row, near)

    def _pair(self, row: HostPortRow) -> tuple[Facts, Facts]:
        """Both devices, made if they are not there."""
        names = (row.interface, row.far)
        found = [self._pairs.look(name) for name in names]
        for name, facts in zip(names, found, strict=True):
            if facts is not None and facts.group != HOST_GROUP:
                raise ConflictError(
                    f"there is an interface {name} that is not flyebpf's",
                    "Rename or remove it: without it machines have no DNS.",
                )
        near, far = found
        if near is None or far is None:
            for name in names:
                self._pairs.delete(name)
            self._pairs.create_pair(*names)
            for name in names:
                self._created(name)
            near, far = (self._pairs.look(name) for name in names)
        if near is None or far is None:
            raise ConflictError(
                f"the devices {row.interface} and {row.far} went away while they were made",
                "See what else on this host removes interfaces.",
            )
        return near, far

    def _guard(self, name: str, far: Facts) -> None:
        program = self._programs[ROLE]
        found = self._netlink.filter(name, far.ifindex)
        if found != filter_name(ROLE, program) and not (found and self._hold):
            self._netlink.guard(name, far.ifindex, program, ROLE)

    def _address(self, row: HostPortRow, near: Facts) -> None:
        name, ifindex = row.interface, near.ifindex
        have, wanted = self._pairs.addresses(ifindex), set(row.addresses)
        for cidr in wanted - have:
            self._pairs.add_address(name, ifindex, cidr)
        for cidr in have - wanted:
            self._pairs.drop_address(name, ifindex, cidr)
        routes = self._pairs.routes().get(ifindex, set())
        if row.route not in {route.cidr for route in routes}:
            self._pairs.add_route(name, DeviceRoute(ifindex, row.route, "", METRIC))
        for route in routes:
            if route.cidr != row.route:
                self._pairs.drop_route(name, route)

    def _delete(self, name: str) -> None:
        facts = self._pairs.look(name)
        if facts is not None and facts.group == HOST_GROUP:
            self._pairs.delete(name)
