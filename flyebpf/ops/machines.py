# SPDX-License-Identifier: Apache-2.0
"""Machines: VMs behind interfaces of a host."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from flyebpf.config import DaemonConfig
from flyebpf.errors import ConflictError, ExhaustedError, InvalidError, NotFoundError
from flyebpf.model import names
from flyebpf.model.health import MachineChecks
from flyebpf.model.records import (
    App,
    Cluster,
    Host,
    Interface,
    Machine,
)
from flyebpf.ops import private
from flyebpf.ops.cluster import require_cluster, require_host
from flyebpf.ops.guest import environment, hosts_file, mtu, resolv_conf
from flyebpf.ops.transact import Tx, every, find, transact
from flyebpf.store.base import Store

__all__ = [
    "add",
    "environment",
    "get",
    "hosts_file",
    "list_all",
    "mtu",
    "remove",
    "resolv_conf",
    "set_cordoned",
    "set_metadata",
    "unset_metadata",
]

_LAST_NUMBER = 2**32 - 1


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The validated arguments of :func:`add`. ``id`` empty: a new one."""

    app: str
    host: str
    interface: str
    mac: str
    name: str
    group: str
    region: str
    metadata: dict[str, str]
    id: str

    def differences(self, machine: Machine) -> list[str]:
        """The arguments that ``machine`` was not added with."""
        keys = ("app", "mac", "name", "group", "region", "metadata", "id")
        given = [key for key in keys if key != "id" or self.id]
        return [key for key in given if getattr(self, key) != getattr(machine, key)]


def add(
    store: Store,
    config: DaemonConfig,
    app: str,
    *,
    interface: str,
    mac: str,
    name: str = "",
    group: str = names.DEFAULT_GROUP,
    region: str | None = None,
    metadata: Mapping[str, str] | None = None,
    id: str | None = None,
) -> Machine:
    """Register the VM behind ``interface`` of this host as a started machine.

    ``region`` is the host's unless given. The machine gets two private IPv4
    addresses of the host's block and a number. Adding again with equal
    arguments returns the machine that is there; ConflictError when the
    interface or the id belongs to another one. ExhaustedError: the block is full.
    """
    wanted = _Wanted(
        app=names.app_name(app),
        host=config.host,
        interface=vm_interface(config, interface),
        mac=names.mac_address(mac),
        name=names.machine_name(name),
        group=names.group_name(group),
        region=names.region(region or config.region),
        metadata=names.metadata(metadata or {}),
        id=names.machine_id(id) if id is not None else "",
    )
    return transact(store, lambda tx: _add(tx, wanted))


def get(store: Store, id: str) -> Machine:
    """The machine; NotFoundError if there is none."""
    return find(store, Machine, names.machine_id(id))


def list_all(store: Store, app: str | None = None) -> list[Machine]:
    """All machines, or an app's; NotFoundError if there is no such app."""
    if app is None:
        return every(store, Machine)
    return every(store, Machine, app=find(store, App, names.app_name(app)).name)


def set_cordoned(store: Store, id: str, cordoned: bool) -> Machine:
    """Keep new flows away from the machine (True), or let them in again."""
    return _update(store, id, lambda machine: replace(machine, cordoned=cordoned))


def set_metadata(store: Store, id: str, values: Mapping[str, str]) -> Machine:
    """Add to the machine's metadata, replacing values of keys that are there."""

    def change(machine: Machine) -> Machine:
        return replace(machine, metadata=names.metadata({**machine.metadata, **values}))

    return _update(store, id, change)


def unset_metadata(store: Store, id: str, keys: Iterable[str]) -> Machine:
    """Remove keys, all or none; NotFoundError for one that is not there."""
    wanted = set(keys)

    def change(machine: Machine) -> Machine:
        for key in sorted(wanted - machine.metadata.keys()):
            raise NotFoundError(
                f"machine {machine.id} has no metadata key {names.quoted(key)}",
                names.did_you_mean(key, machine.metadata)
                or f"`flyebpf machines show {machine.id}` lists its metadata",
            )
        kept = {key: value for key, value in machine.metadata.items() if key not in wanted}
        return replace(machine, metadata=kept)

    return _update(store, id, change)


def remove(store: Store, id: str) -> Machine:
    """Forget the machine and free the interface and private addresses that are its own."""
    ident = names.machine_id(id)

    def action(tx: Tx) -> Machine:
        machine = tx.require(Machine, ident)
        tx.delete(Machine, ident)
        tx.delete(MachineChecks, ident)
        interface = tx.get(Interface, f"{machine.host}/{machine.interface}")
        if interface is not None and interface.machine == ident:
            tx.delete(Interface, interface.ident)
        private.give_back(tx, machine)
        return machine

    return transact(store, action)


def _update(store: Store, id: str, change: Callable[[Machine], Machine]) -> Machine:
    """Write what ``change`` makes of the machine, if that differs."""
    ident = names.machine_id(id)

    def action(tx: Tx) -> Machine:
        machine = tx.require(Machine, ident)
        changed = change(machine)
        if changed != machine:
            tx.put(changed)
        return changed

    return transact(store, action)


def vm_interface(config: DaemonConfig, name: str) -> str:
    """An interface of this host that can lead to a VM; raises InvalidError."""
    interface = names.interface_name(name)
    if interface == "lo" or interface in config.uplinks:
        what = "the loopback interface" if interface == "lo" else "an uplink of this host"
        raise InvalidError(
            f"interface {interface!r} is {what}", "name the interface that leads to the VM"
        )
    return interface


def _add(tx: Tx, wanted: _Wanted) -> Machine:
    app = tx.require(App, wanted.app)
    host = require_host(tx, wanted.host)
    holder = tx.get(Interface, f"{wanted.host}/{wanted.interface}")
    if holder is not None:
        return _as_it_is(tx.require(Machine, holder.machine), wanted)
    machine = _new_machine(tx, host, wanted)
    tx.put(machine)
    tx.put(Interface(wanted.host, wanted.interface, machine.id))
    tx.touch(app)  # so that destroying the app at the same time sees the machine
    return machine


def _as_it_is(machine: Machine, wanted: _Wanted) -> Machine:
    different = wanted.differences(machine)
    if not different:
        return machine
    key = different[0]
    raise ConflictError(
        f"interface {wanted.interface!r} of host {wanted.host!r} belongs to machine {machine.id} "
        f"of app {machine.app!r}, whose {key} is {getattr(machine, key)!r}, "
        f"not {getattr(wanted, key)!r}",
        f"use another interface, or remove it first: `flyebpf machines remove {machine.id}`",
    )


def _new_machine(tx: Tx, host: Host, wanted: _Wanted) -> Machine:
    ident = wanted.id or secrets.token_hex(7)
    if wanted.id and (other := tx.get(Machine, ident)) is not None:
        raise ConflictError(
            f"machine {ident} exists already, on {other.interface!r} of host {other.host!r}",
            "leave the id out to get a new one",
        )
    return Machine(
        id=ident,
        app=wanted.app,
        host=host.name,
        region=wanted.region,
        interface=wanted.interface,
        mac=wanted.mac,
        private_ip=private.take(tx, host, ident),
        services_ip=private.take(tx, host, ident),
        number=_next_number(tx),
        name=wanted.name,
        group=wanted.group,
        metadata=wanted.metadata,
    )


def _next_number(tx: Tx) -> int:
    cluster: Cluster = require_cluster(tx)
    if cluster.next_machine > _LAST_NUMBER:
        raise ExhaustedError(
            "all 2^32 machine numbers have been used", "start a new cluster with an empty store"
        )
    tx.put(replace(cluster, next_machine=cluster.next_machine + 1))
    return cluster.next_machine
