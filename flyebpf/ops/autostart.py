# SPDX-License-Identifier: Apache-2.0
"""Starts a machine because a client needs it: one, however many hosts have such clients."""

from __future__ import annotations

from collections.abc import Container, Sequence

from flyebpf.model.records import Host, Machine, MachineState, Wake
from flyebpf.ops import power
from flyebpf.ops.transact import Tx, transact
from flyebpf.store.base import Store


def wake(
    store: Store, service: str, candidates: Sequence[str], *, known: Container[str] = ()
) -> Machine | None:
    """Order the first of these machines that can be to be started; the machine to wait
    for, None where there is none. ``known``: machines that the caller knows of, and that
    are not enough, or not of use. One that another host has started meanwhile, and that
    is not among them, is the one to wait for; no second one is then."""

    def action(tx: Tx) -> Machine | None:
        last = tx.get(Wake, service)
        if last is not None and last.machine not in known:
            machine = tx.get(Machine, last.machine)
            if machine is not None and machine.state in _COMING:
                return machine
        for ident in candidates:
            machine = tx.get(Machine, ident)
            if machine is None or not _has_command(tx, machine):
                continue
            if machine.state not in _COMING:
                machine = power.order(tx, machine, MachineState.STARTED)
                tx.put(Wake(service, ident))
            return machine
        return None

    return transact(store, action)


_COMING = (MachineState.STARTING, MachineState.STARTED)


def _has_command(tx: Tx, machine: Machine) -> bool:
    host = tx.get(Host, machine.host)
    return host is not None and "start" in host.commands
