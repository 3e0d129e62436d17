# SPDX-License-Identifier: Apache-2.0
"""Rows of an app: its VIPs, its services, and the tables that they choose from."""

from __future__ import annotations

from flyebpf.model.records import Machine, MachineState
from flyebpf.model.rows import ServiceRow, TableRow, VipRow
from flyebpf.model.state import State
from flyebpf.plan.machines import misfit
from flyebpf.plan.services import Exposure, Routes, routes
from flyebpf.plan.site import Plan, Site


def plan_app(site: Site, state: State, app: str) -> Plan:
    """The rows of owner ``("app", name)``."""
    plan = Plan()
    found = routes(site, state, app, plan.problems)
    if found is None:
        if state.addresses_of(app) or app in state.deployments:
            plan.problems.append(
                f"app {app} is missing or unreadable, so its addresses lead nowhere: "
                f"create it again, or release its addresses"
            )
        return plan
    ranges = any(exposure.first < exposure.last for exposure in found.exposures)
    plan.rows += [VipRow(vip, app, ranges) for vip in found.vips]
    if found.vips:
        _tables(plan, site, state, found)
        plan.rows += [_service(found, e, vip) for e in found.exposures for vip in found.vips]
    return plan


def _tables(plan: Plan, site: Site, state: State, found: Routes) -> None:
    by_name = {exposure.table(found.app): exposure.groups for exposure in found.exposures}
    if not by_name:
        return
    usable = [m for m in state.machines_of(found.app) if _takes_new_flows(site, state, m)]
    for name, groups in by_name.items():
        plan.rows.append(TableRow(name, tuple(m.id for m in usable if m.group in groups)))


def _takes_new_flows(site: Site, state: State, machine: Machine) -> bool:
    """Machines of other hosts join here once packets can be sent to them."""
    return (
        machine.host == site.config.host
        and machine.state is MachineState.STARTED
        and not machine.cordoned
        and misfit(site, state, machine) is None
    )


def _service(found: Routes, exposure: Exposure, vip: str) -> ServiceRow:
    return ServiceRow(
        vip=vip,
        proto=exposure.proto,
        first_port=exposure.first,
        last_port=exposure.last,
        service=exposure.counter(found.app),
        table=exposure.table(found.app),
        internal_port=exposure.internal_port,
        reverse=found.needs_reverse(exposure),
        proxy=exposure.proxy,
    )
