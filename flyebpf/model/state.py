# SPDX-License-Identifier: Apache-2.0
"""The whole state in memory: decoded records and the indexes over them.

Indexes are kept record by record, so that one change costs the same whatever
the size of the state. Bookkeeping kinds are not held: they only serve
allocation, and machines carry the same addresses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from flyebpf import collector
from flyebpf.errors import InvalidError
from flyebpf.model import names
from flyebpf.model.codec import decode
from flyebpf.model.records import (
    BOOKKEEPING,
    Address,
    AnyRecord,
    App,
    Cluster,
    Deployment,
    Host,
    Machine,
    Network,
    Organization,
)


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


class Index:
    """Words to sets of record ids, small where a word has one id only."""

    __slots__ = ("_ids",)

    def __init__(self) -> None:
        self._ids: dict[object, str | set[str]] = {}

    def add(self, word: object, id: str) -> None:
        have = self._ids.get(word)
        if have is None:
            self._ids[word] = id
        elif isinstance(have, set):
            have.add(id)
        elif have != id:
            self._ids[word] = {have, id}

    def discard(self, word: object, id: str) -> None:
        have = self._ids.get(word)
        if isinstance(have, set):
            have.discard(id)
            if len(have) == 1:
                self._ids[word] = have.pop()
        elif have == id:
            del self._ids[word]

    def __getitem__(self, word: object) -> list[str]:
        """The ids of ``word``, sorted; empty when there are none."""
        have = self._ids.get(word)
        if have is None:
            return []
        return sorted(have) if isinstance(have, set) else [have]

    def __contains__(self, word: object) -> bool:
        return word in self._ids

    def only(self, word: object, id: str) -> bool:
        """Whether ``id`` is the only one of ``word``."""
        return self._ids.get(word) == id

    def words(self) -> Iterable[object]:
        return self._ids.keys()


class State:
    """Every record of the store at ``revision``, decoded.

    ``quarantined``: (kind, id) to why that record cannot be used; to all
    lookups it does not exist. ``version`` is another number after every
    change. Not thread safe.
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
        self.hosts: dict[str, Host] = {}
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
            Cluster.kind: self._clusters,
        }
        self._machines_by_app = Index()
        self._machines_by_host = Index()
        self._machines_by_interface = Index()
        self._machines_by_ip = Index()
        self._addresses_by_app = Index()

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

    def machines_at(self, host: str, interface: str) -> list[Machine]:
        """The machines that claim an interface of a host: one, if all is well."""
        return [self.machines[ident] for ident in self._machines_by_interface[(host, interface)]]

    def machines_with_ip(self, address: str) -> list[Machine]:
        """The machines that claim a private IPv4: one, if all is well."""
        return [self.machines[ident] for ident in self._machines_by_ip[address]]

    def has_addresses(self, app: str) -> bool:
        return app in self._addresses_by_app

    def is_undisputed(self, machine: Machine) -> bool:
        """Whether nobody else claims the machine's interface or addresses."""
        return (
            self._machines_by_interface.only((machine.host, machine.interface), machine.id)
            and self._machines_by_ip.only(machine.private_ip, machine.id)
            and self._machines_by_ip.only(machine.services_ip, machine.id)
        )

    def addresses_of(self, app: str) -> list[Address]:
        """The app's addresses of every kind, by text."""
        return [self.addresses[ident] for ident in self._addresses_by_app[app]]

    def app_names(self) -> list[str]:
        """Apps, then names that addresses, deployments or machines give as one."""
        indexes = (self._addresses_by_app, self._machines_by_app)
        named = (str(word) for index in indexes for word in index.words())
        return list(dict.fromkeys((*self.apps, *self.deployments, *named)))

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
        if isinstance(record, Machine | Address):
            for index, word in self._words(record):
                index.add(word, ident)
        return record

    def _drop(self, kind: str, id: str) -> None:
        self.quarantined.pop((kind, id), None)
        record = self._tables.get(kind, {}).pop(id, None)
        if isinstance(record, Machine | Address):
            for index, word in self._words(record):
                index.discard(word, id)

    def _words(self, record: Machine | Address) -> tuple[tuple[Index, object], ...]:
        if isinstance(record, Address):
            return ((self._addresses_by_app, record.app),)
        return (
            (self._machines_by_app, record.app),
            (self._machines_by_host, record.host),
            (self._machines_by_interface, (record.host, record.interface)),
            (self._machines_by_ip, record.private_ip),
            (self._machines_by_ip, record.services_ip),
        )

    def counts(self) -> Mapping[str, int]:
        """Usable records of each kind."""
        return {kind: len(table) for kind, table in self._tables.items()}


def _check_machine(machine: Machine) -> None:
    """What the kernel's structures are made from has the form that they need;
    ``ops`` writes nothing else. Raises InvalidError."""
    names.machine_id(machine.id)
    names.interface_name(machine.interface)
    if names.mac_address(machine.mac) != machine.mac:
        raise InvalidError(f"MAC address {names.quoted(machine.mac)} is not in canonical form")
