# SPDX-License-Identifier: Apache-2.0
"""The other hosts: peers of the mesh devices, and the routes to them.

A device knows its peers by their keys, a row by the host's name. So a peer that
no row of this daemon's life has claimed is reported under its key; it is left
alone if a row claims it until the time has come to delete it.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from ipaddress import ip_network

from flyebpf.drivers.netlink_dumps import DeviceRoute
from flyebpf.drivers.netlink_mesh import Facts, MeshNetlink
from flyebpf.drivers.wireguard import (
    KEEPALIVE,
    SESSION_LIFE,
    Peer,
    PeerChange,
    canonical,
    split_endpoint,
)
from flyebpf.drivers.wireguard_devices import WireguardDevices
from flyebpf.drivers.wireguard_uapi import key_hex
from flyebpf.errors import FlyebpfError, InvalidError
from flyebpf.model.rows import MeshPeerRow, MeshRow, Row
from flyebpf.reconcile.base import Failure

METRIC, NOT_SENDING = 1024, 2
"""Of routes over the device to send with, and what others add. No two devices
ever have the same: a route would take the other one's place."""

KEY, ROUTE = "key ", "route "
Key = tuple[str, str]


class MeshPeers:
    """``meshes``: the rows of the devices, as applied."""

    def __init__(
        self, mesh: MeshNetlink, devices: WireguardDevices, meshes: Mapping[str, MeshRow]
    ) -> None:
        self._mesh = mesh
        self._devices = devices
        self._meshes = meshes
        self._rows: dict[Key, MeshPeerRow] = {}

    def _of(self, interface: str) -> dict[Key, MeshPeerRow]:
        return {key: row for key, row in self._rows.items() if row.interface == interface}

    def _peers(self, interface: str) -> dict[str, Peer]:
        """By public key; none on the plain underlay."""
        if interface not in self._devices.names():
            return {}
        return self._devices.read(interface).peers

    def read(self) -> dict[Hashable, object]:
        found: dict[Hashable, object] = {}
        routes = self._mesh.routes()
        for interface in set(self._meshes) | {row.interface for row in self._rows.values()}:
            facts = self._mesh.look(interface)
            if facts is not None:
                peers = self._peers(interface)
                found |= self._read(interface, peers, routes.get(facts.ifindex, set()))
        return found

    def _read(
        self, interface: str, peers: dict[str, Peer], routes: set[DeviceRoute]
    ) -> dict[Hashable, object]:
        found: dict[Hashable, object] = {}
        rows = self._of(interface)
        metric = self._metric(interface)
        ways = {route.cidr for route in routes if route.metric == metric}
        for key, row in rows.items():
            peer = peers.get(row.public_key) if row.public_key else Peer("")
            if peer is not None:
                allowed = peer.allowed if row.public_key else frozenset(row.allowed)
                reached = ways.intersection(row.allowed)
                found[key] = (row.public_key, settled(row, peer), allowed, reached)
        keys = {row.public_key for row in rows.values()}
        cidrs = {cidr for row in rows.values() for cidr in row.allowed}
        found |= {(interface, KEY + key): "unknown" for key in peers.keys() - keys}
        others = {r.cidr for r in routes if r.cidr not in cidrs or r.metric != metric}
        return found | {(interface, ROUTE + cidr): "unknown" for cidr in others}

    def fingerprint(self, row: Row) -> object:
        assert isinstance(row, MeshPeerRow)
        allowed = frozenset(row.allowed)
        return row.public_key, row.endpoint, allowed, allowed

    def put(self, rows: Sequence[MeshPeerRow]) -> list[Failure]:
        """Device by device: one reading and one writing of each."""
        failures: list[Failure] = []
        for interface in dict.fromkeys(row.interface for row in rows):
            of_it = [row for row in rows if row.interface == interface]
            try:
                failures += self._put(interface, of_it)
            except FlyebpfError as error:
                failures += [
                    Failure(MeshPeerRow, row.key, error.message, error.remedy) for row in of_it
                ]
        return failures

    def _put(self, interface: str, rows: list[MeshPeerRow]) -> list[Failure]:
        facts = self._mesh.look(interface)
        if facts is None or interface not in self._meshes:
            return [
                Failure(MeshPeerRow, row.key, f"mesh device {interface} is not there")
                for row in rows
            ]
        failures, good = [], []
        before = self._of(interface)
        self._rows.update(((row.interface, row.host), row) for row in rows)
        owners = self._owners(interface, {row.public_key for row in rows})
        for row in rows:
            try:
                check(row)
                check_key(row, owners)
                good.append(row)
            except InvalidError as error:
                failures.append(Failure(MeshPeerRow, row.key, error.message, error.remedy, True))
        if self._meshes[interface].underlay == "wireguard":
            peers = self._peers(interface)
            changes = [*self._leaving(before, peers), *self._changes(good, before, peers)]
            if changes:
                self._devices.write(interface, peers=changes)
        self._route(interface, facts, good, before)
        return failures

    def _owners(self, interface: str, keys: set[str]) -> dict[str, str]:
        """Who has each of these keys: of several hosts the one with the lowest
        number, whichever order they are heard of in."""
        rivals = [row for row in self._of(interface).values() if row.public_key in keys]
        rivals = [row for row in rivals if is_sound(row)]
        rivals.sort(key=seniority, reverse=True)
        return {row.public_key: row.host for row in rivals}

    def _leaving(
        self, before: dict[Key, MeshPeerRow], peers: dict[str, Peer]
    ) -> Iterable[PeerChange]:
        """Keys that hosts had before: first, as they hold the sources."""
        old = {row.public_key for row in before.values()}
        new = {row.public_key for row in self._rows.values()}
        return [PeerChange(key, remove=True) for key in (old - new) & peers.keys()]

    def _changes(
        self, rows: list[MeshPeerRow], before: dict[Key, MeshPeerRow], peers: dict[str, Peer]
    ) -> Iterable[PeerChange]:
        for row in rows:
            peer = peers.get(row.public_key, Peer(row.public_key))
            old = before.get((row.interface, row.host))
            moved = old is not None and old.endpoint != row.endpoint
            is_there = settled(row, peer) == row.endpoint and not moved
            change = PeerChange(
                row.public_key,
                endpoint=None if is_there else row.endpoint,
                allowed=None if peer.allowed == set(row.allowed) else canonical(row.allowed),
                keepalive=None if peer.keepalive == KEEPALIVE else KEEPALIVE,
            )
            if row.public_key not in peers or change != PeerChange(row.public_key):
                yield change

    def _metric(self, interface: str) -> int:
        row = self._meshes.get(interface)
        if row is None:
            return METRIC
        return METRIC + row.generation % 2 + (0 if row.sending else NOT_SENDING)

    def remeasure(self, interface: str) -> None:
        """Bring the routes over a device to its metric, new ones first."""
        facts = self._mesh.look(interface)
        metric = self._metric(interface)
        for route in self._mesh.routes().get(facts.ifindex, set()) if facts else ():
            if METRIC <= route.metric < METRIC + 2 * NOT_SENDING and route.metric != metric:
                self._mesh.add_route(interface, route._replace(metric=metric))
                self._mesh.drop_route(interface, route)

    def _route(
        self, interface: str, facts: Facts, rows: list[MeshPeerRow], before: dict[Key, MeshPeerRow]
    ) -> None:
        metric = self._metric(interface)
        have = self._mesh.routes().get(facts.ifindex, set())
        claimed = {cidr for row in self._of(interface).values() for cidr in row.allowed}
        dropped = {cidr for row in before.values() for cidr in row.allowed} - claimed
        for route in have:
            if route.cidr in dropped:
                self._mesh.drop_route(interface, route)
        for row in rows:
            for cidr in row.allowed:
                via = self._via(row, cidr, facts)
                route = DeviceRoute(facts.ifindex, cidr, via, metric)
                if route not in have:
                    self._mesh.add_route(interface, route)

    def _via(self, row: MeshPeerRow, cidr: str, facts: Facts) -> str:
        """The next hop on the plain underlay. An IPv6 prefix behind an IPv4
        next hop is on the link: only the host's own address is looked for."""
        if row.public_key or (":" in cidr) != (":" in row.endpoint):
            return ""
        return self._mesh.gateway(facts.ifindex, row.endpoint) or row.endpoint

    def delete(self, keys: Sequence[Hashable]) -> list[Failure]:
        """Device by device, too: a whole generation of keys goes at once."""
        pairs = [key for key in keys if isinstance(key, tuple)]
        failures = []
        for interface in dict.fromkeys(interface for interface, _ in pairs):
            names = [name for of, name in pairs if of == interface]
            try:
                self._delete(interface, names)
            except FlyebpfError as error:
                failures += [
                    Failure(MeshPeerRow, (interface, name), error.message, error.remedy)
                    for name in names
                ]
        return failures

    def _delete(self, interface: str, names: Sequence[str]) -> None:
        keys: set[str] = set()
        cidrs: set[str] = set()
        for name in names:
            row = self._rows.pop((interface, name), None)
            keys.add(row.public_key if row else name.removeprefix(KEY))
            cidrs.update(row.allowed if row else {name.removeprefix(ROUTE)})
        facts = self._mesh.look(interface)
        if facts is None:
            return
        left = self._of(interface).values()
        metric = self._metric(interface)
        claimed = {cidr for other in left for cidr in other.allowed}
        for route in self._mesh.routes().get(facts.ifindex, ()):
            if route.cidr in cidrs and (route.cidr not in claimed or route.metric != metric):
                self._mesh.drop_route(interface, route)
        gone = keys.intersection(self._peers(interface)) - {other.public_key for other in left}
        if gone:
            self._devices.write(interface, peers=[PeerChange(key, remove=True) for key in gone])


def settled(row: MeshPeerRow, peer: Peer) -> str:
    """The row's endpoint when the peer is there, or has roamed from there and
    its session lives; else where the device takes it to be."""
    if peer.endpoint == row.endpoint or not row.public_key:
        return row.endpoint
    return row.endpoint if time.time() - peer.handshake < SESSION_LIFE else peer.endpoint


def check(row: MeshPeerRow) -> None:
    """Raises InvalidError for what must not get as far as the device."""
    canonical(row.allowed)
    if row.public_key:
        key_hex(row.public_key)
        split_endpoint(row.endpoint)


def is_sound(row: MeshPeerRow) -> bool:
    try:
        check(row)
    except InvalidError:
        return False
    return True


def check_key(row: MeshPeerRow, owners: Mapping[str, str]) -> None:
    """Raises InvalidError where the key is another host's."""
    owner = owners.get(row.public_key, row.host) if row.public_key else row.host
    if owner != row.host:
        raise InvalidError(
            f"hosts {row.host} and {owner} have one WireGuard key",
            "Their state folders are copies: remove mesh-*.key of one, and restart it.",
        )


def seniority(row: MeshPeerRow) -> tuple[int, str]:
    """By the host's number, which is in its first prefix."""
    return int(ip_network(row.allowed[0]).network_address) if row.allowed else 0, row.host
