# SPDX-License-Identifier: Apache-2.0
"""The mesh devices of this host: guarded first, then up, then addressed."""

from __future__ import annotations

from collections.abc import Hashable

from flyebpf.drivers.mesh_tools import (
    OWN_SETTINGS,
    PLACES,
    SETTINGS,
    Tools,
    are_set,
    write_settings,
)
from flyebpf.drivers.netlink_mesh import Facts
from flyebpf.errors import FlyebpfError
from flyebpf.model.rows import MeshRow, Row
from flyebpf.reconcile.base import Failure
from flyebpf.wireguardkeys import public_half

ROLE = "mesh_tc"
PLAIN = "plain"


class MeshDevices:
    """``rows``: of the devices, as applied, or as found when asked for."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._netlink = tools.netlink
        self._mesh = tools.mesh
        self._devices = tools.devices
        self.rows: dict[str, MeshRow] = {}

    def read(self) -> dict[Hashable, object]:
        """Devices that we made are known by their group or process, others by
        our filter, looked for where a row was applied or an address is ours."""
        found: dict[Hashable, object] = {}
        made = self._devices.names()
        for name in made | set(self.rows) | self._mesh.mesh_addressed():
            facts = self._mesh.look(name)
            if facts is None:
                continue
            guards = self._tools.guards(name, facts)
            if name in made and not self._is_peers(guards[0]):
                found[name] = self._state(name, facts, guards, made=True)
            elif f":{ROLE}:" in guards[0]:
                found[name] = self._state(name, facts, guards, made=False)
        return found

    def _is_peers(self, guard: str) -> bool:
        return ":peer_tc:" in guard

    def _state(self, name: str, facts: Facts, guards: tuple[str, ...], *, made: bool) -> object:
        key, port = "", 0
        if made:
            try:
                device = self._devices.read(name)
            except FlyebpfError as error:
                return error.message
            key = public_half(device.private_key) if device.private_key else ""
            port = device.port
        addresses: frozenset[str] = frozenset(self._mesh.addresses(facts.ifindex))
        row = self.rows.get(name)
        if not made and row is not None:  # others than ours are not our business
            addresses &= frozenset(row.addresses)
        settings = are_set(name, OWN_SETTINGS if made else SETTINGS)
        settings = settings and (not made or self._devices.has_room(name))
        mtu = facts.mtu if made else self._enough(facts.mtu, row)
        return guards, facts.up, mtu, key, port, addresses, settings

    def _enough(self, mtu: int, row: MeshRow | None) -> int:
        return row.mtu if row is not None and mtu >= row.mtu else mtu

    def fingerprint(self, row: Row) -> object:
        assert isinstance(row, MeshRow)
        self.rows.setdefault(row.interface, row)  # of an earlier daemon, in place
        key = "" if row.underlay == PLAIN else self._tools.keys.public(row.generation)
        guards = self._tools.wanted(ROLE)
        return guards, True, row.mtu, key, row.port, frozenset(row.addresses), True

    def put(self, row: MeshRow) -> Failure | None:
        try:
            failure = None
            if row.underlay == PLAIN:
                failure = self._plain(row)
            else:
                self._wireguard(row)
        except FlyebpfError as error:
            return Failure(MeshRow, row.key, error.message, error.remedy)
        if failure is None:
            self.rows[row.interface] = row
        return failure

    def _wireguard(self, row: MeshRow) -> None:
        name = row.interface
        facts = self._tools.device(name, ROLE)
        self._tools.set_up(name, row.generation, row.port)
        if facts.mtu != row.mtu:
            self._mesh.configure(name, facts.ifindex, mtu=row.mtu)
        write_settings(name, OWN_SETTINGS)
        self._address(row, facts, exact=True)
        self._devices.make_room(name)

    def _plain(self, row: MeshRow) -> Failure | None:
        facts = self._mesh.look(row.interface)
        if facts is None:
            return Failure(
                MeshRow,
                row.key,
                f"mesh interface {row.interface} does not exist",
                "Create it, or correct mesh.interface in the configuration.",
                permanent=True,
            )
        self._tools.guard(row.interface, facts, ROLE)
        write_settings(row.interface, SETTINGS)
        self._address(row, facts, exact=False)
        if facts.mtu < row.mtu:
            return Failure(
                MeshRow,
                row.key,
                f"mesh interface {row.interface} has an MTU of {facts.mtu}, mesh.mtu is {row.mtu}",
                f"Raise it (ip link set {row.interface} mtu {row.mtu}), or lower mesh.mtu.",
                permanent=True,
            )
        return None

    def _address(self, row: MeshRow, facts: Facts, *, exact: bool) -> None:
        name, ifindex = row.interface, facts.ifindex
        if not facts.up:
            self._mesh.configure(name, ifindex, state="up")
        have, wanted = self._mesh.addresses(ifindex), set(row.addresses)
        before = self.rows.get(name)
        ours = have if exact else have.intersection(before.addresses if before else ())
        for cidr in ours - wanted:
            self._mesh.drop_address(name, ifindex, cidr)
        for cidr in wanted - have:
            self._mesh.add_address(name, ifindex, cidr)

    def delete(self, name: str) -> Failure | None:
        """A device that we made goes; of another one, what we added to it."""
        try:
            facts = self._mesh.look(name)
            if facts and self._is_peers(self._netlink.filter(name, facts.ifindex)):
                return None  # it has become the one for users' peers
            if name in self._devices.names():
                self._devices.delete(name)
            elif facts is not None:
                row = self.rows.get(name)
                own = self._mesh.own_addresses(facts.ifindex)
                for cidr in own | set(row.addresses if row else ()):
                    self._mesh.drop_address(name, facts.ifindex, cidr)
                for route in self._mesh.routes().get(facts.ifindex, ()):
                    self._mesh.drop_route(name, route)
                for at in PLACES:
                    self._netlink.unguard(name, facts.ifindex, at=at)
        except FlyebpfError as error:
            return Failure(MeshRow, name, error.message, error.remedy)
        self.rows.pop(name, None)
        return None
