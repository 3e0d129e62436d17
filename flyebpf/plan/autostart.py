# SPDX-License-Identifier: Apache-2.0
"""Which machine of an app is started for a client that waits."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from flyebpf.model.records import Machine, MachineState
from flyebpf.model.state import State
from flyebpf.plan.hosts import Hosts
from flyebpf.plan.machines import misfit
from flyebpf.plan.site import Site

_QUICK = {
    MachineState.STOPPING: 0,  # its VM is still there, as a rule
    MachineState.SUSPENDING: 0,
    MachineState.SUSPENDED: 1,
    MachineState.STOPPED: 2,
}


@dataclass(frozen=True, slots=True)
class Choice:
    """Of a service's machines, each list with the best one first. ``running``: serve
    clients now; ``starting``: will; ``candidates``: could be started."""

    running: tuple[Machine, ...]
    starting: tuple[Machine, ...]
    candidates: tuple[Machine, ...]


def choose(site: Site, state: State, hosts: Hosts, app: str, groups: Container[str]) -> Choice:
    """The nearest region's machines come first; then those that are there soonest."""
    running, starting, candidates = [], [], []
    for machine in state.machines_of(app):
        if machine.group not in groups or machine.cordoned:
            continue
        if not hosts.can_be_chosen(machine.host) or misfit(site, state, machine) is not None:
            continue
        if machine.state is MachineState.STARTED:
            running.append(machine)
        elif not hosts.is_there(machine.host) or not hosts.has_command(machine.host, "start"):
            continue
        elif machine.state is MachineState.STARTING:
            starting.append(machine)
        else:
            candidates.append(machine)

    def rank(machine: Machine) -> tuple[object, ...]:
        quick = _QUICK.get(machine.state, 0)
        return (hosts.distance(machine.host), bool(machine.error), quick, machine.id)

    def near(machine: Machine) -> tuple[object, ...]:
        return (not hosts.is_there(machine.host), *rank(machine))

    return Choice(
        tuple(sorted(running, key=near)),
        tuple(sorted(starting, key=rank)),
        tuple(sorted(candidates, key=rank)),
    )
