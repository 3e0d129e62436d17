# SPDX-License-Identifier: Apache-2.0
"""Machines that are started, stopped and suspended.

Where a machine's host has no commands for that, somebody else does it, and says so:
the state is what they say. Where it has, the state is an order first; the host reads
it in the store, runs its command and writes what has come of it. So anybody may
order it on any host, and an order that is taken back in time is not carried out.
"""

from __future__ import annotations

import time
from dataclasses import replace

from flyebpf.errors import InvalidError, UnavailableError
from flyebpf.model import names
from flyebpf.model.commands import GOALS, ORDERS
from flyebpf.model.records import Host, Machine, MachineState
from flyebpf.ops.transact import Tx, find, transact
from flyebpf.store.base import Store

LOOK = 1.0  # seconds to wait in the store at once


def request(store: Store, id: str, goal: MachineState | str) -> Machine:
    """Have the machine started, stopped or suspended, by its host if that has commands,
    else by having been told that it is. Raises InvalidError where its host has commands,
    but not this one."""
    wanted = goal_of(goal)
    ident = names.machine_id(id)
    return transact(store, lambda tx: order(tx, tx.require(Machine, ident), wanted))


def goal_of(text: MachineState | str) -> MachineState:
    """Raises InvalidError for what nobody can ask for."""
    known = list(ORDERS)
    for state in known:
        if state == text:
            return state
    hint = names.did_you_mean(str(text), known)
    raise InvalidError(
        f"machine state {names.quoted(str(text))} is not known",
        hint or f"use one of {', '.join(known)}",
    )


def order(tx: Tx, machine: Machine, goal: MachineState) -> Machine:
    """The machine with the order, or as it is where nothing is left to do."""
    ordered, verb, word = ORDERS[goal]
    host = tx.get(Host, machine.host)
    if host is None or not host.commands:
        changed = replace(machine, state=goal, error="")
    elif machine.state is goal:
        changed = replace(machine, error="")
    elif verb in host.commands:
        changed = replace(machine, state=ordered, error="")
    else:
        raise InvalidError(
            f"host {host.name!r} has no command by which machines are {word}",
            f"set machines.{verb} in its configuration",
        )
    if changed != machine:
        tx.put(changed)
    return changed


def report(
    store: Store, ordered: Machine, state: MachineState, *, error: str = ""
) -> Machine | None:
    """What has come of an order, unless there is another one by now, or the machine is
    gone or is another host's; the machine as it is after that. ``ordered``: as it was
    with the order."""

    def action(tx: Tx) -> Machine | None:
        machine = tx.get(Machine, ordered.id)
        if machine is None or (machine.host, machine.state) != (ordered.host, ordered.state):
            return machine
        changed = replace(machine, state=state, error=error)
        tx.put(changed)
        return changed

    return transact(store, action)


def settled(store: Store, id: str, patience: float) -> Machine:
    """Wait until the machine's host has carried out what was ordered. Raises
    UnavailableError when it fails, or takes longer."""
    deadline = time.monotonic() + patience
    while True:
        revision = store.revision()
        machine = find(store, Machine, names.machine_id(id))
        if machine.error:
            raise UnavailableError(
                f"machine {machine.id} is {machine.state}: {machine.error}",
                f"see the log of the daemon of host {machine.host!r}",
            )
        if machine.state not in GOALS:
            return machine
        left = deadline - time.monotonic()
        if left <= 0:
            raise UnavailableError(
                f"machine {machine.id} is still {machine.state} after {patience:g} s",
                f"see the log of the daemon of host {machine.host!r}; what was ordered "
                "is done when it can be",
            )
        store.wait(revision, min(left, LOOK))
