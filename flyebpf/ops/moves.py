# SPDX-License-Identifier: Apache-2.0
"""Machines that move to another interface or host."""

from __future__ import annotations

from dataclasses import replace

from flyebpf.config import DaemonConfig
from flyebpf.errors import ConflictError, InvalidError
from flyebpf.model import names
from flyebpf.model.records import Host, Interface, Machine
from flyebpf.ops import private
from flyebpf.ops.machines import vm_interface
from flyebpf.ops.transact import Tx, transact
from flyebpf.store.base import Store


def move(
    store: Store,
    config: DaemonConfig,
    id: str,
    *,
    interface: str,
    host: str | None = None,
    mac: str | None = None,
) -> Machine:
    """Say that the machine is behind ``interface`` of ``host`` from now on.

    It keeps its id, number and state. On another host it gets that host's
    region, two addresses of that host's private block, and another 6PN address,
    as the host is a field of it. ``host`` is this one, and the MAC stays, unless
    given. Raises NotFoundError for a machine or host that is not there and
    ConflictError when the interface belongs to another machine.
    """
    ident = names.machine_id(id)
    target = names.host_name(host or config.host)
    wanted = _interface(config, target, interface)
    address = None if mac is None else names.mac_address(mac)

    def action(tx: Tx) -> Machine:
        machine = tx.require(Machine, ident)
        there = tx.require(Host, target)
        moved = replace(machine, interface=wanted, mac=address or machine.mac)
        if machine.host != there.name:
            moved = _settle(tx, moved, there)
        if moved != machine:
            _occupy(tx, machine, moved)
            tx.put(moved)
        return moved

    return transact(store, action)


def _interface(config: DaemonConfig, host: str, name: str) -> str:
    """Only this host's uplinks are known here; another host refuses its own when
    it meets the record."""
    if host == config.host:
        return vm_interface(config, name)
    interface = names.interface_name(name)
    if interface == "lo":
        raise InvalidError(
            "interface 'lo' is the loopback interface", "name the interface that leads to the VM"
        )
    return interface


def _settle(tx: Tx, machine: Machine, host: Host) -> Machine:
    """The machine with what it gets from its new host."""
    private.give_back(tx, machine)
    return replace(
        machine,
        host=host.name,
        region=host.region,
        private_ip=private.take(tx, host, machine.id),
        services_ip=private.take(tx, host, machine.id),
    )


def _occupy(tx: Tx, before: Machine, after: Machine) -> None:
    """Take the new interface and leave the old one."""
    taken = Interface(after.host, after.interface, after.id)
    holder = tx.get(Interface, taken.ident)
    if holder is not None and holder.machine != after.id:
        raise ConflictError(
            f"interface {after.interface!r} of host {after.host!r} belongs to machine "
            f"{holder.machine}; machine {after.id} was not moved",
            f"use another interface, or remove it first: `flyebpf machines remove "
            f"{holder.machine}`",
        )
    left = tx.get(Interface, f"{before.host}/{before.interface}")
    if left is not None and left.machine == before.id and left.ident != taken.ident:
        tx.delete(Interface, left.ident)
    tx.put(taken)
