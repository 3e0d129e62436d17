# SPDX-License-Identifier: Apache-2.0
"""Rows of a machine: its guarded interface, its slot, where replies come from."""

from __future__ import annotations

from collections.abc import Iterator

from flyebpf.model.records import Machine
from flyebpf.model.rows import InterfaceRow, ReplyRow, SlotRow
from flyebpf.model.state import State
from flyebpf.plan.hosts import Hosts
from flyebpf.plan.networks import FIRST_MACHINE, LAST_MACHINE, network_number
from flyebpf.plan.prefixes import parse_ipv4
from flyebpf.plan.services import Exposure, Router, Routes
from flyebpf.plan.site import Plan, Site


def plan_machine(site: Site, state: State, router: Router, hosts: Hosts, ident: str) -> Plan:
    """The rows of owner ``("machine", id)``.

    A machine of this host that cannot be planned gets no slot, so nothing
    reaches it; its interface is guarded all the same, unless it is another's.
    """
    plan = Plan()
    machine = state.machines.get(ident)
    if machine is None:
        return plan
    if machine.host != site.config.host:
        _plan_remote(plan, state, router, hosts, machine)
        return plan
    problem = misfit(site, state, machine)
    if problem is not None:
        plan.problems.append(problem)
        if not _interface_taken(site, state, machine):
            plan.rows.append(InterfaceRow(machine.interface, ident, machine.mac, ()))
        return plan
    live = machine.state.is_live
    addresses = (machine.private_ip, machine.services_ip)
    sixpn = _sixpn(plan, state, hosts, machine)
    plan.rows.append(SlotRow(ident, machine.interface, machine.mac, *addresses, live, *sixpn))
    plan.rows.append(InterfaceRow(machine.interface, ident, machine.mac, addresses))
    found = router.routes(state, machine.app)
    plan.rows += _replies(found, machine)
    return plan


def _sixpn(plan: Plan, state: State, hosts: Hosts, machine: Machine) -> tuple[int, int, int]:
    """Network, host and number of a machine of this host. A network of 0 isolates
    it; a host without a number says so itself."""
    number, problem = network_number(state, machine.app)
    if problem is not None:
        plan.problems.append(f"machine {machine.id} has no 6PN address: {problem}")
    if not hosts.number:
        number = 0
    return number, hosts.number, machine.number


def _plan_remote(plan: Plan, state: State, router: Router, hosts: Hosts, machine: Machine) -> None:
    """Of another host: packets for its app's services may have to go there,
    whether it is in a table now or was when a flow began."""
    host = hosts.accepted(machine.host)
    if host is None or misfit(hosts.site, state, machine) is not None:
        return
    found = router.routes(state, machine.app)
    if any(
        machine.group in exposure.groups and (found.all_vips or found.by_proxy(exposure))
        for exposure in found.exposures
    ):
        live = machine.state.is_live
        plan.rows.append(
            SlotRow(
                *(machine.id, "", "", "", "", live, 0, host.number, machine.number), remote=True
            )
        )


def misfit(site: Site, state: State, machine: Machine) -> str | None:
    """Why packets must not be delivered to a machine, or None.

    Of several that claim one interface, address or number the one that was there
    first (the lowest number, then id) keeps it: a later record cannot take its
    packets over.
    """
    if not FIRST_MACHINE <= machine.number <= LAST_MACHINE:
        return (
            f"machine {machine.id}: {machine.number} is no machine's number: "
            f"remove the machine and add it again"
        )
    for address in (machine.private_ip, machine.services_ip):
        number = parse_ipv4(address)
        if number is None or site.private is None or number not in site.private:
            return (
                f"machine {machine.id}: address {address} is not in the private prefix "
                f"{site.config.private.prefix}: remove the machine and add it again"
            )
    if machine.private_ip == machine.services_ip:
        return (
            f"machine {machine.id}: {machine.private_ip} is both its private address and "
            f"its fly-global-services address: remove the machine and add it again"
        )
    if not _on_uplink(site, machine) and state.is_undisputed(machine):
        return None
    if _interface_taken(site, state, machine):
        return (
            f"machine {machine.id}: interface {machine.interface} is an uplink or belongs to "
            f"an older machine: remove the machine and add it with its own interface"
        )
    return _taken(state, machine)


def _taken(state: State, machine: Machine) -> str | None:
    """What of the machine belongs to one that was there before it."""
    first = _first(state.machines_with_number(machine.number))
    if first is not machine:
        return (
            f"machine {machine.id}: number {machine.number} belongs to machine {first.id}: "
            f"remove the machine and add it again"
        )
    for address in (machine.private_ip, machine.services_ip):
        first = _first(state.machines_with_ip(address))
        if first is not machine:
            return (
                f"machine {machine.id}: address {address} belongs to machine {first.id}: "
                f"remove the machine and add it again"
            )
    return None


def _interface_taken(site: Site, state: State, machine: Machine) -> bool:
    at = state.machines_at(machine.host, machine.interface)
    return _on_uplink(site, machine) or _first(at) is not machine


def _on_uplink(site: Site, machine: Machine) -> bool:
    """Only this host's are known here."""
    return machine.interface in site.config.uplinks and machine.host == site.config.host


def _first(machines: list[Machine]) -> Machine:
    return min(machines, key=lambda machine: (machine.number, machine.id))


def _replies(found: Routes, machine: Machine) -> Iterator[ReplyRow]:
    """One row for each internal port that the machine's group serves.

    Where several ways lead to a port the row names the first of the services
    on the oldest address; flows that exist are counted under their own. Of IPv6
    there are always several.
    """
    first: dict[tuple[int, int], Exposure] = {}
    for exposure in found.exposures:
        if machine.group in exposure.groups and not exposure.proxy:
            first.setdefault((exposure.proto, exposure.internal_port), exposure)
    for (proto, internal_port), exposure in first.items():
        for vip in (*found.vips[:1], *found.vips6[:1]):
            ways = found.ways[machine.group, proto, internal_port]
            yield ReplyRow(
                machine=machine.id,
                proto=proto,
                internal_port=internal_port,
                vip=vip,
                port=exposure.first,
                service=exposure.counter(found.app, vip),
                unique=vip in found.vips and ways == 1,
            )
