# SPDX-License-Identifier: Apache-2.0
"""Starts a machine because a client needs it: one, however many hosts have such clients."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from flyebpf.model.records import Host, Machine, MachineState, Wake
from flyebpf.ops import power
from flyebpf.ops.transact import Tx, transact
from flyebpf.store.base import Store


@dataclass(frozen=True, slots=True)
class Started:
    """A machine that runs or will. ``from_rest``: it was ordered now and did not run
    before, so whatever takes connections there is what was started."""

    machine: Machine
    from_rest: bool = False


def wake(
    store: Store, service: str, candidates: Sequence[str], *, known: Container[str] = ()
) -> Started | None:
    """Order the first of these machines that can be to be started; the machine to wait
    for, None where there is none. ``known``: machines that the caller knows of, and that
    are not enough, or not of use. One that another host has started meanwhile, and that
    is not among them, is the one to wait for; no second one is then."""

    def action(tx: Tx) -> Started | None:
        last = tx.get(Wake, service)
        if last is not None and last.machine not in known:
            machine = tx.get(Machine, last.machine)
            if machine is not None and machine.state in _COMING:
                return Started(machine)
        for ident in candidates:
            machine = tx.get(Machine, ident)
            if machine is None or not _has_command(tx, machine):
                continue
            if machine.state in _COMING:
                return Started(machine)
            tx.put(Wake(service, ident))
            ordered = power.order(tx, machine, MachineState.STARTED)
            return Started(ordered, from_rest=not machine.state.is_live)
        return None

    return transact(store, action)


_COMING = (MachineState.STARTING, MachineState.STARTED)


def _has_command(tx: Tx, machine: Machine) -> bool:
    host = tx.get(Host, machine.host)
    return host is not None and "start" in host.commands
