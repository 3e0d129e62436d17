# SPDX-License-Identifier: Apache-2.0
"""Which machines nobody needs."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

from flyebpf.model.records import Deployment, Machine, MachineState, Service

OFF, SUSPEND = "off", "suspend"


@dataclass(frozen=True, slots=True)
class Use:
    """Of a machine, by all proxies: requests or connections in flight. One that had
    none for a while has no use."""

    active: int = 0


@dataclass(frozen=True, slots=True)
class Stop:
    """``machine`` is to be stopped, as long as all of ``running``, itself among them,
    run."""

    machine: Machine
    goal: MachineState
    running: tuple[Machine, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """What the services of a process group say together. ``soft``: the lowest limit."""

    goal: MachineState
    least: int
    soft: int


def policy(services: Sequence[Service]) -> Policy | None:
    """None where one of them wants its machines to run, or there is none."""
    if not services or any(service.auto_stop == OFF for service in services):
        return None
    suspend = all(service.auto_stop == SUSPEND for service in services)
    return Policy(
        MachineState.SUSPENDED if suspend else MachineState.STOPPED,
        max(service.min_machines_running for service in services),
        min(service.concurrency.soft_limit for service in services),
    )


def services_of(deployment: Deployment, group: str) -> list[Service]:
    """Those that a process group serves."""
    named = deployment.processes if len(deployment.processes) == 1 else ()
    return [service for service in deployment.services if group in (service.processes or named)]


def surplus(
    deployment: Deployment,
    machines: Sequence[Machine],
    uses: Mapping[str, Use],
    unfit: Container[str] = (),
) -> Iterator[Stop]:
    """At most one machine of each region and process group: of those that run, but for
    the ones over the soft limit and one more. A lone one only if nobody uses it. What
    is just being started or stopped is waited for. ``unfit``: those that get no clients
    now, as their checks fail, say, go first."""
    places: dict[tuple[str, str], list[Machine]] = {}
    for machine in machines:
        if not machine.cordoned and machine.state.is_live:
            places.setdefault((machine.region, machine.group), []).append(machine)
    for (region, group), found in sorted(places.items()):
        rules = policy(services_of(deployment, group))
        if rules is None or any(one.state is not MachineState.STARTED for one in found):
            continue
        kept = rules.least if deployment.primary_region in ("", region) else 0
        chosen = _choose(found, uses, rules.soft, unfit)
        if chosen is not None and len(found) > kept:
            yield Stop(chosen, rules.goal, tuple(found))


def _choose(
    running: Sequence[Machine], uses: Mapping[str, Use], soft: int, unfit: Container[str]
) -> Machine | None:
    if len(running) == 1:
        return None if running[0].id in uses else running[0]
    over = sum(uses[one.id].active >= soft for one in running if one.id in uses)
    if len(running) - (over + 1) < 1:
        return None

    def worth(one: Machine) -> tuple[object, ...]:
        return one.id not in unfit, _active(uses, one), one.id in uses, one.id

    return min(running, key=worth)


def _active(uses: Mapping[str, Use], machine: Machine) -> int:
    use = uses.get(machine.id)
    return use.active if use is not None else 0
