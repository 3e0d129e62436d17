# SPDX-License-Identifier: Apache-2.0
"""Rows of an app: its VIPs, its services, and the tables that they choose from."""

from __future__ import annotations

from flyebpf.model.records import Machine, MachineState
from flyebpf.model.rows import ServiceRow, TableRow, VipRow
from flyebpf.model.state import State
from flyebpf.plan.checks import check_names, fails
from flyebpf.plan.hosts import Hosts
from flyebpf.plan.machines import misfit
from flyebpf.plan.services import Exposure, Routes
from flyebpf.plan.site import Plan, Site


def plan_app(site: Site, state: State, hosts: Hosts, found: Routes) -> Plan:
    """The rows of owner ``("app", name)``."""
    plan = Plan(problems=list(found.problems))
    if not found.all_vips:
        return plan
    ranges = any(exposure.first < exposure.last for exposure in found.exposures)
    plan.rows += [VipRow(vip, found.app, ranges) for vip in found.all_vips]
    if found.exposures:
        _tables(plan, site, state, hosts, found)
        for exposure in found.exposures:
            plan.rows += _services(found, exposure)
    return plan


def _tables(plan: Plan, site: Site, state: State, hosts: Hosts, found: Routes) -> None:
    by_name = {exposure.table(found.app): exposure for exposure in found.exposures}
    usable = [m for m in state.machines_of(found.app) if _takes_new_flows(site, state, hosts, m)]
    for name, exposure in by_name.items():
        checks = check_names(state, found.app, exposure.number) if exposure.service.checks else ()
        sound = [m for m in usable if m.group in exposure.groups and not fails(state, m, checks)]
        members = _members(hosts, sound)
        plan.rows.append(TableRow(name, tuple(m.id for m in members)))


def _takes_new_flows(site: Site, state: State, hosts: Hosts, machine: Machine) -> bool:
    return (
        hosts.can_be_chosen(machine.host)
        and machine.state is MachineState.STARTED
        and not machine.cordoned
        and misfit(site, state, machine) is None
    )


def _members(hosts: Hosts, usable: list[Machine]) -> list[Machine]:
    """The nearest on hosts that are there. If there is none, those on hosts whose
    daemon is gone: that says little about their machines, and nobody is better."""
    there = [machine for machine in usable if hosts.is_there(machine.host)]
    return _nearest(hosts, there or usable)


def _nearest(hosts: Hosts, machines: list[Machine]) -> list[Machine]:
    """Those in the nearest region that has one. It is the host's that counts:
    round trips were measured to there."""
    far = [hosts.distance(machine.host) for machine in machines]
    nearest = min(far, default=None)
    return [machine for machine, region in zip(machines, far, strict=True) if region == nearest]


def _services(found: Routes, exposure: Exposure) -> list[ServiceRow]:
    """The service on each VIP. Of IPv6 every flow is told apart by ``reverse``: it
    costs a reply less than to look for the only way that leads to its machine."""
    table = exposure.table(found.app)
    reverse = found.needs_reverse(exposure)
    return [
        ServiceRow(
            vip=vip,
            proto=exposure.proto,
            first_port=exposure.first,
            last_port=exposure.last,
            service=exposure.counter(found.app, vip),
            table=table,
            internal_port=exposure.internal_port,
            reverse=reverse or vip in found.vips6,
            proxy=exposure.proxy,
        )
        for vip in found.all_vips
    ]
