# SPDX-License-Identifier: Apache-2.0
"""Stops a machine that nobody needs, and keeps what hosts know of their use."""

from __future__ import annotations

from collections.abc import Sequence

from flyebpf.model.records import Host, Load, Machine, MachineState
from flyebpf.ops import power
from flyebpf.ops.transact import Tx, transact
from flyebpf.store.base import Store

GUARDED = 50
"""Machines that are looked at again: of so many, one more or less does not matter."""


def stop(store: Store, id: str, goal: MachineState, running: Sequence[str]) -> Machine | None:
    """Order the machine to be stopped or suspended, if these machines run as was seen,
    itself among them, and its host can; else None. Where it can only stop, it does."""

    def action(tx: Tx) -> Machine | None:
        others = [ident for ident in running if ident != id]
        for ident in (id, *others[:GUARDED]):
            machine = tx.get(Machine, ident)
            if machine is None or machine.state is not MachineState.STARTED:
                return None
        machine = tx.require(Machine, id)
        host = tx.get(Host, machine.host)
        wanted = goal if host is not None and _verb(goal) in host.commands else MachineState.STOPPED
        if host is None or machine.cordoned or _verb(wanted) not in host.commands:
            return None
        return power.order(tx, machine, wanted)

    return transact(store, action)


def _verb(goal: MachineState) -> str:
    return "suspend" if goal is MachineState.SUSPENDED else "stop"


def tell(store: Store, load: Load) -> None:
    """What this host's proxy knows, where that is news."""

    def action(tx: Tx) -> None:
        if (tx.get(Load, load.host) or Load(load.host)) != load:
            tx.put(load)

    transact(store, action)
