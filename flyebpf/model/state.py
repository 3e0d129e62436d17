# SPDX-License-Identifier: Apache-2.0
"""The whole state in memory: decoded records and the indexes over them.

Indexes are kept record by record, so that one change costs the same whatever
the size of the state. Bookkeeping kinds are not held: they only serve
allocation, and machines carry the same addresses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from flyebpf import collector
from flyebpf.errors import InvalidError
from flyebpf.model import fleet, names
from flyebpf.model.acme import AcmeChallenge, AcmeName
from flyebpf.model.certificates import Certificate, KeyPair, SelfSigned
from flyebpf.model.codec import decode
from flyebpf.model.health import MachineChecks
from flyebpf.model.index import Index
from flyebpf.model.records import (
    BOOKKEEPING,
    Address,
    AnyRecord,
    App,
    Cluster,
    Deployment,
    Host,
    HostStatus,
    Latency,
    Load,
    Machine,
    Network,
    Organization,
    Presence,
    WireguardPeer,
)
from flyebpf.model.seats import Seats
from flyebpf.model.vault import Vault


class StoredRecord(Protocol):
    """A record as stores keep it (``flyebpf.store.base.Entry``)."""

    @property
    def kind(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def body(self) -> dict[str, Any]: ...


class RecordChange(Protocol):
    """A record written, or deleted where ``body`` is None (``store.base.Change``)."""

    @property
    def revision(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def body(self) -> dict[str, Any] | None: ...


@dataclass(frozen=True, slots=True)
class Update:
    """What a change did to the state: the record before and after it.

    None: absent, or there but quarantined.
    """

    kind: str
    id: str
    before: AnyRecord | None
    after: AnyRecord | None


class State:
    """Every record of the store at ``revision``, decoded.

    ``quarantined``: (kind, id) to why that record cannot be used; to all
    lookups it does not exist. ``version`` is another number after every
    change. ``fleet``: the hosts' tables; ``seats``: who has machines where;
    ``vault``: certificates. Not thread safe.
    """

    def __init__(self) -> None:
        self.revision = 0
        self.version = 0
        self.orgs: dict[str, Organization] = {}
        self.networks: dict[str, Network] = {}
        self.apps: dict[str, App] = {}
        self.machines: dict[str, Machine] = {}
        self.deployments: dict[str, Deployment] = {}
        self.addresses: dict[str, Address] = {}
        self.fleet = fleet.Fleet()
        self.hosts = self.fleet.hosts
        self.vault = Vault()
        self.checks: dict[str, MachineChecks] = {}
        self.host_status: dict[str, HostStatus] = {}
        self.loads: dict[str, Load] = {}
        self.wireguard_peers: dict[str, WireguardPeer] = {}
        self.quarantined: dict[tuple[str, str], str] = {}
        self._clusters: dict[str, Cluster] = {}
        self._tables: dict[str, dict[str, Any]] = {
            Organization.kind: self.orgs,
            Network.kind: self.networks,
            App.kind: self.apps,
            Machine.kind: self.machines,
            Deployment.kind: self.deployments,
            Address.kind: self.addresses,
            Host.kind: self.hosts,
            HostStatus.kind: self.host_status,
            Load.kind: self.loads,
            Presence.kind: self.fleet.presences,
            Latency.kind: self.fleet.latencies,
            WireguardPeer.kind: self.wireguard_peers,
            Certificate.kind: self.vault.certificates,
            KeyPair.kind: self.vault.pairs,
            SelfSigned.kind: self.vault.self_signed,
            MachineChecks.kind: self.checks,
            AcmeName.kind: self.vault.acme_names,
            AcmeChallenge.kind: self.vault.challenges,
            Cluster.kind: self._clusters,
        }
        self.seats = Seats()
        self._machines_by_app = Index()
        self._machines_by_host = Index()
        self._machines_by_interface = Index()
        self._machines_by_ip = Index()
        self._machines_by_number = Index()
        self._addresses_by_app = Index()
        self._addresses_by_network = Index()
        self._apps_by_network = Index()
        self._networks_by_number = Index()
        self._peers_by_host = Index()
        self._peers_by_key = Index()
        self._peers_by_address = Index()

    @classmethod
    def load(cls, revision: int, entries: Iterable[StoredRecord]) -> State:
        """The state of a snapshot. What cannot be decoded is quarantined."""
        state = cls()
        with collector.paused():
            for entry in entries:
                state._put(entry.kind, entry.id, entry.body)
        state.revision = revision
        return state

    def apply(self, change: RecordChange) -> Update:
        """Take in one change and say what it did.

        A change older than the state is ignored: before and after are equal.
        """
        kind, ident = change.kind, change.id
        before = self._tables.get(kind, {}).get(ident)
        if change.revision < self.revision:
            return Update(kind, ident, before, before)
        self.revision = change.revision
        self.version += 1
        self._drop(kind, ident)
        if change.body is None:
            return Update(kind, ident, before, None)
        return Update(kind, ident, before, self._put(kind, ident, change.body))

    @property
    def cluster(self) -> Cluster | None:
        return self._clusters.get("cluster")

    def machines_of(self, app: str) -> list[Machine]:
        """The app's machines on all hosts, by id."""
        return [self.machines[ident] for ident in self._machines_by_app[app]]

    def machines_on(self, host: str) -> list[Machine]:
        """The machines of a host, by id."""
        return [self.machines[ident] for ident in self._machines_by_host[host]]

    def count_machines_on(self, host: str) -> int:
        """Without looking at each; from any thread."""
        return self._machines_by_host.count(host)

    def count_peers_at(self, host: str) -> int:
        """Users' peers that connect to a host; from any thread."""
        return self._peers_by_host.count(host)

    def machines_at(self, host: str, interface: str) -> list[Machine]:
        """The machines that claim an interface of a host: one, if all is well."""
        return [self.machines[ident] for ident in self._machines_by_interface[(host, interface)]]

    def machines_with_ip(self, address: str) -> list[Machine]:
        """The machines that claim a private IPv4: one, if all is well."""
        return [self.machines[ident] for ident in self._machines_by_ip[address]]

    def has_addresses(self, app: str) -> bool:
        return app in self._addresses_by_app

    def is_undisputed(self, machine: Machine) -> bool:
        """Whether nobody else claims the machine's interface, addresses or
        number."""
        return (
            self._machines_by_interface.only((machine.host, machine.interface), machine.id)
            and self._machines_by_ip.only(machine.private_ip, machine.id)
            and self._machines_by_ip.only(machine.services_ip, machine.id)
            and self._machines_by_number.only(machine.number, machine.id)
        )

    def addresses_of(self, app: str) -> list[Address]:
        """The app's addresses of every kind, by text."""
        return [self.addresses[ident] for ident in self._addresses_by_app[app]]

    def addresses_on(self, network: str) -> list[Address]:
        """The Flycast addresses whose callers are on a network (``org/name``)."""
        return [self.addresses[ident] for ident in self._addresses_by_network[network]]

    def app_names(self) -> list[str]:
        """Apps, then names that addresses, deployments or machines give as one."""
        indexes = (self._addresses_by_app, self._machines_by_app)
        named = (str(word) for index in indexes for word in index.words())
        return list(dict.fromkeys((*self.apps, *self.deployments, *named)))

    def network_of(self, app: str) -> Network | None:
        """The network that an app is bound to; None where app or network is
        missing."""
        record = self.apps.get(app)
        return None if record is None else self.networks.get(network_of(record))

    def apps_in(self, network: str) -> list[str]:
        """The apps bound to a network (``org/name``), by name."""
        return self._apps_by_network[network]

    def networks_with_number(self, number: int) -> list[Network]:
        """The networks that claim a number: one, if all is well."""
        return [self.networks[ident] for ident in self._networks_by_number[number]]

    def machines_with_number(self, number: int) -> list[Machine]:
        """The machines that claim a number: one, if all is well."""
        return [self.machines[ident] for ident in self._machines_by_number[number]]

    def peers_at(self, host: str) -> list[WireguardPeer]:
        """Users' peers that connect to a host, by id."""
        return [self.wireguard_peers[ident] for ident in self._peers_by_host[host]]

    def peers_like(self, peer: WireguardPeer) -> list[WireguardPeer]:
        """The other peers of its gateway that claim its key or its address: none,
        if all is well."""
        found = set(self._peers_by_key[(peer.host, peer.public_key)])
        found.update(self._peers_by_address[(peer.host, peer.address)])
        found.discard(peer.ident)
        return [self.wireguard_peers[ident] for ident in sorted(found)]

    def _put(self, kind: str, id: str, body: dict[str, Any]) -> AnyRecord | None:
        if kind in BOOKKEEPING:
            return None
        try:
            record = decode(kind, body)
            if record.ident != id:
                raise InvalidError(f"its body is that of {record.ident!r}")
            if isinstance(record, Machine):
                _check_machine(record)
        except InvalidError as error:
            self.quarantined[kind, id] = error.message
            return None
        ident = record.ident  # its own string, so that the store's can go
        self._tables[kind][ident] = record
        if kind in fleet.KINDS:
            self.fleet.add(record)
        self.seats.add(record)
        self.vault.add(record)
        for index, word in self._words(record):
            index.add(word, ident)
        return record

    def _drop(self, kind: str, id: str) -> None:
        self.quarantined.pop((kind, id), None)
        record = self._tables.get(kind, {}).pop(id, None)
        if record is None:
            return
        if kind in fleet.KINDS:
            self.fleet.discard(record)
        self.seats.discard(record)
        self.vault.discard(record)
        for index, word in self._words(record):
            index.discard(word, id)

    def _words(self, record: AnyRecord) -> tuple[tuple[Index, object], ...]:
        match record:
            case Machine():
                return (
                    (self._machines_by_app, record.app),
                    (self._machines_by_host, record.host),
                    (self._machines_by_interface, (record.host, record.interface)),
                    (self._machines_by_ip, record.private_ip),
                    (self._machines_by_ip, record.services_ip),
                    (self._machines_by_number, record.number),
                )
            case Address():
                return (
                    (self._addresses_by_app, record.app),
                    (self._addresses_by_network, f"{record.org}/{record.network}"),
                )
            case App():
                return ((self._apps_by_network, network_of(record)),)
            case Network():
                return ((self._networks_by_number, record.number),)
            case WireguardPeer():
                return (
                    (self._peers_by_host, record.host),
                    (self._peers_by_key, (record.host, record.public_key)),
                    (self._peers_by_address, (record.host, record.address)),
                )
        return ()

    def stored(self, kinds: Iterable[str]) -> dict[str, int]:
        """Records of each kind in the store, those that cannot be used too."""
        unusable = Counter(kind for kind, _ in self.quarantined)
        return {kind: len(self._tables[kind]) + unusable[kind] for kind in kinds}

    def counts(self) -> Mapping[str, int]:
        """Usable records of each kind."""
        return {kind: len(table) for kind, table in self._tables.items()}


def network_of(app: App) -> str:
    """The ident of the network that an app is bound to."""
    return f"{app.org}/{app.network}"


def _check_machine(machine: Machine) -> None:
    """What the kernel's structures are made from has the form that they need;
    ``ops`` writes nothing else. Raises InvalidError."""
    names.machine_id(machine.id)
    names.interface_name(machine.interface)
    if names.mac_address(machine.mac) != machine.mac:
        raise InvalidError(f"MAC address {names.quoted(machine.mac)} is not in canonical form")
