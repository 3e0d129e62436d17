# SPDX-License-Identifier: Apache-2.0
"""Rows of health checks, and what follows from their results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from flyebpf.model.checkrows import CheckRow
from flyebpf.model.health import check_groups, checks_of
from flyebpf.model.proxyrows import ProxyTargetRow
from flyebpf.model.records import Machine, MachineState
from flyebpf.model.state import State
from flyebpf.plan.machines import misfit
from flyebpf.plan.services import Routes
from flyebpf.plan.site import Site


def check_names(state: State, app: str, service: int) -> tuple[str, ...]:
    """The checks that a service's traffic follows from."""
    deployment = state.deployments.get(app)
    found = checks_of(deployment) if deployment else ()
    return tuple(named.name for named in found if named.service == service)


def fails(state: State, machine: Machine, names: Iterable[str]) -> bool:
    """Whether one of these checks of the machine does. Before the first result it
    is taken as sound."""
    found = state.checks.get(machine.id)
    return found is not None and found.fails(names)


def plan_checks(site: Site, state: State, found: Routes, source: str) -> list[CheckRow]:
    """Of the app's machines on this host. ``source``: as in ``ProxyRow``."""
    deployment = state.deployments.get(found.app)
    if deployment is None or found.app not in state.apps:
        return []
    checks = list(checks_of(deployment))
    if not checks:
        return []
    return [
        CheckRow(machine.id, named.name, machine.private_ip, named.port, source, named.check)
        for machine in state.machines_of(found.app)
        if machine.host == site.config.host
        and machine.state is MachineState.STARTED
        and misfit(site, state, machine) is None
        for named in checks
        if machine.group in check_groups(deployment, named)
    ]


def check_targets(rows: Iterable[CheckRow]) -> Iterator[ProxyTargetRow]:
    """What the host may open connections to for these checks."""
    for row in rows:
        yield ProxyTargetRow(row.address, row.port, row.machine)
