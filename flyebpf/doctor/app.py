# SPDX-License-Identifier: Apache-2.0
"""Checks of what an app says of itself: services, addresses, machines, and whether
this host has what they need."""

from __future__ import annotations

from flyebpf.doctor.check import Check, Finding, Patient, failed, ok, skipped, warning
from flyebpf.doctor.facts import SHOWN, Facts, Findings, facts, named
from flyebpf.model.records import Address, AddressKind, Machine, MachineState, Presence
from flyebpf.model.shared import forcing_https, misfit
from flyebpf.ops.transact import every


def look_at_services(patient: Patient) -> Findings:
    """Is there a service that addresses could lead to?"""
    found = facts(patient)
    if found.exposures:
        ports = ", ".join(named(exposure) for exposure in found.exposures[:SHOWN])
        yield ok(f"{len(found.exposures)} ports: {ports}")
        return
    cause = (
        "the app has never been deployed"
        if found.deployment is None
        else "its fly.toml has neither [http_service] nor [[services]]"
    )
    say = failed if found.addresses else warning
    yield say(
        f"no service is configured: {cause}; neither Anycast nor Flycast lead to it",
        f"add a service to its fly.toml, then flyebpf deploy -a {found.app}",
    )


def look_at_addresses(patient: Patient) -> Findings:
    """Is there an address for each service?"""
    found = facts(patient)
    if not found.exposures:
        yield skipped("the app has no service that an address could lead to")
        return
    usable = [a for a in found.addresses if a.type is not AddressKind.EGRESS]
    if not usable:
        yield failed("no IP address is allocated: nobody reaches its services", _allocate(found))
        return
    lost = [exposure for exposure in found.exposures if not found.carrying(exposure)]
    for exposure in lost:
        why = misfit(exposure.service, exposure.port) or "no address of the app carries it"
        yield failed(
            f"{named(exposure)} is at none of its addresses: {why}",
            f"flyebpf ips allocate-v4 -a {found.app}, or change the service's handlers",
        )
    if not lost:
        yield ok(", ".join(f"{a.address} ({a.type})" for a in usable[:SHOWN]))


def _allocate(found: Facts) -> str:
    """The command that gives its services an address."""
    shared = found.proxied and any(
        misfit(exposure.service, exposure.port) is None for exposure in found.exposures
    )
    return f"flyebpf ips allocate-v4 {'--shared ' if shared else ''}-a {found.app}"


def look_at_machines(patient: Patient) -> Findings:
    """Is there a machine for each service that new connections can go to?"""
    found = facts(patient)
    if not found.machines:
        yield failed(
            "the app has no machine: HTTP clients get 503, others no connection",
            f"flyebpf machines add -a {found.app}",
        )
        return
    stopped = [m for m in found.machines if m.state is not MachineState.STARTED]
    if len(stopped) == len(found.machines):
        yield failed(
            f"none of its {len(stopped)} machines is started",
            f"flyebpf machines start {stopped[0].id}",
        )
        return
    wrong = list(_unserved(found, _away(patient, found)))
    yield from (failed(*words) for words in wrong)
    if not wrong:
        yield ok(f"{len(found.started())} of {len(found.machines)} machines are started")


def _away(patient: Patient, found: Facts) -> dict[str, str]:
    """Hosts that new connections cannot go to, and why."""
    present = {presence.host for presence in every(patient.store, Presence)}
    away = {}
    for machine in found.machines:
        host = found.hosts.get(machine.host)
        if host is None:
            away[machine.host] = "is gone"
        elif host.drained:
            away[machine.host] = "is drained"
        elif present and host.name not in present and host.name != found.here:
            away[machine.host] = "is away: its daemon says nothing"
    return away


def _unserved(found: Facts, away: dict[str, str]) -> list[tuple[str, str]]:
    """Message and remedy for each process group's services without a machine."""
    wrong: dict[tuple[str, ...], tuple[str, str]] = {}
    for exposure in found.exposures:
        serving = found.serving(exposure)
        groups = ", ".join(exposure.groups)
        if not serving:
            wrong[exposure.groups] = (
                f"{named(exposure)} is of process group {groups}, which has no started machine",
                f"flyebpf machines add -a {found.app} --group {exposure.groups[0]}",
            )
        elif all(machine.cordoned for machine in serving):
            wrong[exposure.groups] = (
                f"all {len(serving)} started machines of process group {groups} are cordoned:"
                " they get no new connections",
                f"flyebpf machines uncordon {serving[0].id}",
            )
        elif all(machine.cordoned or machine.host in away for machine in serving):
            wrong[exposure.groups] = _on_hosts(serving, away)
    return list(wrong.values())


def _on_hosts(serving: list[Machine], away: dict[str, str]) -> tuple[str, str]:
    name = next(machine.host for machine in serving if machine.host in away)
    remedy = f"flyebpf hosts undrain {name}" if away[name] == "is drained" else "flyebpf hosts list"
    return f"its machines are on host {name}, which {away[name]}", remedy


def look_at_proxy(patient: Patient) -> Findings:
    """Does what needs the proxy have one on this host?"""
    found = facts(patient)
    needing = [
        *(named(exposure) for exposure in found.exposures if exposure.proxy),
        *(a.address for a in found.addresses if a.type in _PROXYS),
    ]
    if not needing:
        yield skipped("nothing of the app needs the proxy")
    elif not found.proxied:
        yield failed(
            f"this host has no proxy, which {needing[0]} needs",
            'set proxy.engine = "envoy" in the configuration of all hosts,'
            " then systemctl restart flyebpf",
        )
    else:
        yield _is_up(patient)


_PROXYS = (AddressKind.SHARED_V4, AddressKind.PRIVATE_V6)


def _is_up(patient: Patient) -> Finding:
    said = patient.backend.proxy()
    wrong = [p for p in patient.backend.status().problems if p.object == "proxy"]
    if said is None or not said["up"]:
        why = wrong[0].message if wrong else "it is being started"
        return failed(
            f"Envoy does not serve on this host: {why}",
            "flyebpf status --wait, and see envoy.log beside the daemon's socket",
        )
    if wrong:
        return warning(f"Envoy serves, but: {wrong[0].message}", wrong[0].remedy)
    return ok("Envoy serves on this host")


def look_at_flycast(patient: Patient) -> Findings:
    """Who may call its Flycast addresses, and may they be served at all?"""
    found = facts(patient)
    own = patient.network.ident if patient.network else ""
    private = [a for a in found.addresses if a.type is AddressKind.PRIVATE_V6]
    if not private:
        yield skipped(
            "the app has no Flycast address",
            f"flyebpf ips allocate-v6 --private -a {found.app}",
        )
        return
    services = found.deployment.services if found.deployment else ()
    for port in forcing_https(services):
        yield failed(
            f"{port} forces https, which Flycast cannot: its callers have no certificate to trust",
            f"set force_https = false there, then flyebpf deploy -a {found.app}",
        )
    for address in private:
        yield _callers(address, own, found)


def _callers(address: Address, own: str, found: Facts) -> Finding:
    callers = f"{address.org}/{address.network}"
    if callers == own:
        return ok(f"{address.address} can be called from network {own}, the app's own, alone")
    if any(f"{a.org}/{a.network}" == own for a in found.addresses):
        return ok(f"{address.address} can be called from network {callers} alone")
    return warning(
        f"{address.address} can be called from network {callers} alone: not from another network,"
        f" nor from the app's own, {own}",
        f"flyebpf ips allocate-v6 --private -a {found.app} gives it one that its own can call",
    )


CHECKS = (
    Check("app-services", look_at_services, of_app=True),
    Check("app-addresses", look_at_addresses, of_app=True),
    Check("app-machines", look_at_machines, of_app=True),
    Check("app-proxy", look_at_proxy, of_app=True),
    Check("app-callers", look_at_flycast, of_app=True),
)
