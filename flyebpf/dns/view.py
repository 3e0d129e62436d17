# SPDX-License-Identifier: Apache-2.0
"""What exists, indexed for questions: records in, names out.

One record written or deleted costs the same whatever the size of the whole:
per-app tables are made at the first question after a change, and only the most
recently asked ones are kept. Records may come in any order.
"""

from __future__ import annotations

from collections.abc import Iterable
from sys import intern

from flyebpf.dns.nearest import Regions
from flyebpf.dns.sites import Sites
from flyebpf.dns.tables import AppTable, Flycast, Peer, Place, Vm, is_of, packed_of
from flyebpf.model.index import Index
from flyebpf.model.records import (
    Address,
    AddressKind,
    AnyRecord,
    App,
    Host,
    Latency,
    Machine,
    MachineState,
    Network,
    Presence,
    WireguardPeer,
)
from flyebpf.model.sixpn import MACHINE_SUFFIX, machine_base
from flyebpf.model.state import Update

TABLES_KEPT = 4096
LISTS_KEPT = 256
KINDS = frozenset(
    kind.kind for kind in (Address, App, Host, Latency, Machine, Network, Presence, WireguardPeer)
)
"""Kinds of records that names are made of; others need not be fed."""


class View:
    """Not thread safe."""

    def __init__(self, latency: Iterable[str] = ()) -> None:
        """``latency``: of ``config.mesh``, overrides what was measured."""
        self.distances = Regions(latency)
        self._sites = Sites()
        self._apps: dict[str, str] = {}
        self._apps_by_network = Index()
        self._vms: dict[str, Vm] = {}
        self._vms_by_app = Index()
        self._vms_by_number = Index()
        self._peers: dict[str, Peer] = {}
        self._peers_by_network = Index()
        self._peers_by_name = Index()
        self._peers_by_address: dict[bytes, str] = {}
        self._flycast: dict[bytes, Flycast] = {}
        self._flycast_by_app = Index()
        self._tables: dict[str, AppTable] = {}
        self._lists: dict[str, tuple[int, dict[str, tuple[bytes, ...]]]] = {}

    # Records in.

    def take(self, update: Update) -> None:
        """What a change did to the state."""
        if update.after is None:
            self.remove(update.kind, update.id)
        else:
            self.put(update.after)

    def put(self, record: AnyRecord) -> None:
        """Write a record. Kinds that names are not made of are ignored."""
        if isinstance(record, Machine):
            self._put_machine(record)
        elif isinstance(record, App):
            self._put_app(record)
        elif isinstance(record, Address):
            self._put_address(record)
        elif isinstance(record, WireguardPeer):
            self._put_peer(record)
        elif isinstance(record, Latency):
            self.distances.put(record)
        elif isinstance(record, Network | Host | Presence):
            self._sites.put(record)

    def remove(self, kind: str, id: str) -> None:
        """Delete a record, if it is there."""
        if kind == Machine.kind:
            self._remove_machine(id)
        elif kind == App.kind:
            self._remove_app(id)
        elif kind == Address.kind:
            self._remove_address(id)
        elif kind == WireguardPeer.kind:
            self._remove_peer(id)
        elif kind == Latency.kind:
            self.distances.remove(id)
        elif kind in (Network.kind, Host.kind, Presence.kind):
            self._sites.remove(kind, id)

    def _put_machine(self, record: Machine) -> None:
        self._remove_machine(record.id)
        vm = Vm(
            record.id,
            intern(record.app),
            intern(record.host),
            intern(record.region),
            intern(record.group),
            record.number,
            record.state is MachineState.STARTED,
            record.metadata or None,
        )
        self._vms[vm.id] = vm
        self._vms_by_app.add(vm.app, vm.id)
        self._vms_by_number.add(vm.number, vm.id)
        self._forget(vm.app)

    def _remove_machine(self, id: str) -> None:
        vm = self._vms.pop(id, None)
        if vm is not None:
            self._vms_by_app.discard(vm.app, id)
            self._vms_by_number.discard(vm.number, id)
            self._forget(vm.app)

    def _forget(self, app: str) -> None:
        """What was made from an app's records is not valid any more."""
        self._tables.pop(app, None)
        self._lists.pop(self._apps.get(app, ""), None)

    def _put_app(self, record: App) -> None:
        self._remove_app(record.name)
        network = intern(f"{record.org}/{record.network}")
        self._apps[intern(record.name)] = network
        self._apps_by_network.add(network, record.name)
        self._forget(record.name)

    def _remove_app(self, name: str) -> None:
        self._forget(name)
        network = self._apps.pop(name, None)
        if network is not None:
            self._apps_by_network.discard(network, name)

    def _put_address(self, record: Address) -> None:
        self._remove_address(record.address)
        packed = packed_of(record.address)
        if packed is not None and record.type is AddressKind.PRIVATE_V6:
            self._flycast[packed] = Flycast(record.app, f"{record.org}/{record.network}")
            self._flycast_by_app.add((packed[:6], record.app), record.address)

    def _remove_address(self, address: str) -> None:
        packed = packed_of(address)
        found = self._flycast.pop(packed, None) if packed else None
        if packed is not None and found is not None:
            self._flycast_by_app.discard((packed[:6], found.app), address)

    def _put_peer(self, record: WireguardPeer) -> None:
        self._remove_peer(record.ident)
        # The peer uses ::2 of its prefix (`model.sixpn.peer_address`).
        packed = packed_of(record.address.partition("/")[0])
        if packed is None:
            return
        address = packed[:15] + bytes([MACHINE_SUFFIX])
        peer = Peer(f"{record.org}/{record.network}", record.name, address)
        self._peers[record.ident] = peer
        self._peers_by_network.add(peer.network, record.ident)
        self._peers_by_name.add((peer.network, peer.name.lower()), record.ident)
        self._peers_by_address[peer.address] = record.ident
        self._lists.pop(peer.network, None)

    def _remove_peer(self, id: str) -> None:
        peer = self._peers.pop(id, None)
        if peer is not None:
            self._peers_by_network.discard(peer.network, id)
            self._peers_by_name.discard((peer.network, peer.name.lower()), id)
            self._peers_by_address.pop(peer.address, None)
            self._lists.pop(peer.network, None)

    # Questions.

    def app_in(self, number: int, app: str) -> bool:
        """Whether there is such an app in the network of a number."""
        network = self._apps.get(app)
        return network is not None and self._sites.number(network) == number

    def apps_of(self, number: int) -> list[str]:
        """The apps of a network, by name."""
        network = self._sites.network_ident(number)
        return [] if network is None else self._apps_by_network[network]

    def table(self, app: str) -> AppTable:
        """The machines of an app that exists."""
        table = self._tables.get(app)
        if table is None or table.epoch != self._sites.epoch:
            table = AppTable(self._sites.epoch, self.places(app))
            self._tables.pop(app, None)
            if len(self._tables) >= TABLES_KEPT:
                del self._tables[next(iter(self._tables))]
            self._tables[app] = table
        return table

    def lists(self, number: int) -> dict[str, tuple[bytes, ...]]:
        """Where rdata of a network's lists is kept until something in it
        changes; a new one for a network that does not exist."""
        network = self._sites.network_ident(number)
        if network is None:
            return {}
        epoch, found = self._lists.get(network, (self._sites.epoch, {}))
        if epoch != self._sites.epoch:
            found = {}
        self._lists.pop(network, None)
        if len(self._lists) >= LISTS_KEPT:
            del self._lists[next(iter(self._lists))]
        self._lists[network] = (self._sites.epoch, found)
        return found

    def places(self, app: str) -> list[Place]:
        """The machines of an app that exists, by id."""
        network = self._sites.number(self._apps.get(app, "")) or 0
        found = []
        for ident in self._vms_by_app[app]:
            vm = self._vms[ident]
            host = self._sites.host(vm.host)
            if host is None:
                continue
            try:
                base = machine_base(network, host.number, vm.number)
            except ValueError:  # a hand wrote one of the records
                continue
            address = (base | MACHINE_SUFFIX).to_bytes(16, "big")
            found.append(Place(vm, address, vm.started and self._sites.answers(host)))
        return found

    def place_of(self, number: int, address: bytes) -> Place | None:
        """The machine of a network that has an address."""
        for ident in self._vms_by_number[int.from_bytes(address[10:14], "big")]:
            app = self._vms[ident].app
            if self.app_in(number, app):
                for place in self.table(app).places:
                    if place.address == address:
                        return place
        return None

    def peers_of(self, number: int) -> list[Peer]:
        """The users' peers of a network, by id."""
        network = self._sites.network_ident(number)
        found = (self._peers[ident] for ident in self._peers_by_network[network])
        return [peer for peer in found if is_of(number, peer.address)] if network else []

    def peer(self, number: int, name: str) -> Peer | None:
        """A network's peer by its name in lower case."""
        ids = self._peers_by_name[self._sites.network_ident(number), name]
        found = (self._peers[ident] for ident in ids)
        return next((peer for peer in found if is_of(number, peer.address)), None)

    def peer_at(self, number: int, address: bytes) -> Peer | None:
        """The peer of a network that has an address."""
        peer = self._peers.get(self._peers_by_address.get(address, ""))
        return peer if peer and self._sites.number(peer.network) == number else None

    def flycast(self, number: int, app: str) -> list[bytes]:
        """The Flycast addresses of an app on a network."""
        prefix = b"\xfd\xaa" + number.to_bytes(4, "big")
        found = map(packed_of, self._flycast_by_app[prefix, app])
        return [address for address in found if address and self.flycast_at(address)]

    def flycast_of(self, number: int) -> dict[str, list[bytes]]:
        """All Flycast addresses on a network, by app. Looks at those of every
        network: for full passes only."""
        prefix = b"\xfd\xaa" + number.to_bytes(4, "big")
        apps = {one.app for address, one in self._flycast.items() if address[:6] == prefix}
        named = {app: self.flycast(number, app) for app in sorted(apps)}
        return {app: found for app, found in named.items() if found}

    def flycast_at(self, address: bytes) -> str | None:
        """The app that has a Flycast address. One that is not of the network which
        its record names would be another tenant's: it has none."""
        found = self._flycast.get(address)
        if found is None or address[:2] != b"\xfd\xaa":
            return None
        number = int.from_bytes(address[2:6], "big")
        return found.app if self._sites.number(found.callers) == number else None

    def region_of(self, host: int) -> str:
        """The region of a host's number; empty for an unknown one."""
        return self._sites.region_of(host)

    def counts(self) -> dict[str, int]:
        """Records by kind that names are made of."""
        return {
            "networks": self._sites.networks(),
            "apps": len(self._apps),
            "machines": len(self._vms),
            "peers": len(self._peers),
            "flycast": len(self._flycast),
        }
