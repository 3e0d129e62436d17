# SPDX-License-Identifier: Apache-2.0
"""Checks of internal DNS: the server, its resolvers, and an app's names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv6Address

from flyebpf.api.backend import DigAnswer
from flyebpf.doctor.check import Check, Finding, Patient, failed, ok, skipped, warning
from flyebpf.model.reasons import DropReason
from flyebpf.model.records import AddressKind, Host, Machine, MachineState
from flyebpf.model.sixpn import machine_address
from flyebpf.ops import addresses, machines, networks
from flyebpf.ops.transact import every

FULL = 0.9
SHOWN = 5
"""Names that a message lists at most."""
WORLD = (".", "NS")
"""A question that every resolver can answer, and no other name gives away."""
LOG = "journalctl -u flyebpf shows the daemon's log, which has the process' own lines"


# The host's server.


def look_at_process(patient: Patient) -> Iterator[Finding]:
    """Does the server run, and does it know what there is?"""
    found = patient.backend.dns()
    if found is None:
        yield failed(
            "the DNS process does not answer the daemon:"
            " only names that programs know are answered",
            LOG,
        )
    elif found["revision"] < 0:
        yield failed("the DNS process has not been told yet what there is", LOG)
    else:
        names = found["names"]
        yield ok(f"it knows {names['machines']} machines of {names['apps']} apps")


def look_at_faults(patient: Patient) -> Iterator[Finding]:
    """Exceptions that queries met in the server."""
    found = patient.backend.dns()
    if found is None:
        yield skipped("the DNS process does not answer")
    elif found["counts"]["faults"]:
        yield warning(
            f"{found['counts']['faults']} queries were answered with SERVFAIL"
            " because of a fault of the server itself",
            LOG + "; please report them",
        )
    else:
        yield ok("no query met a fault of the server itself")


def look_at_resolvers(patient: Patient) -> Iterator[Finding]:
    """Are there resolvers for the world's names, and do they answer?"""
    found = patient.backend.dns()
    if found is None:
        yield skipped("the DNS process does not answer")
        return
    upstreams = {name: failures for name, _, failures in found["upstreams"]}
    if not upstreams:
        yield failed(
            "no resolver is configured, and /etc/resolv.conf names none:"
            " no name of the world is found",
            "set dns.upstreams in the daemon's configuration, then systemctl reload flyebpf",
        )
        return
    away = [name for name, failures in upstreams.items() if failures]
    if away:
        say = failed if len(away) == len(upstreams) else warning
        yield say(
            f"{len(away)} of {len(upstreams)} resolvers did not answer when last asked:"
            f" {listed(away)}",
            f"dig @{away[0].rpartition(':')[0].strip('[]')} {' '.join(WORLD)},"
            " and see whether a firewall is between",
        )
    else:
        yield ok(f"none of {len(upstreams)} failed when last asked: {listed(upstreams)}")


def look_at_world(patient: Patient) -> Iterator[Finding]:
    """A question that has to be forwarded, as a machine would ask it."""
    known = networks.list_all(patient.store)
    if not known:
        yield skipped("there is no network yet in which to ask")
        return
    number = patient.network.number if patient.network else known[0].number
    found = patient.backend.dig(number, *WORLD, tcp=True)
    if found.rcode == "NOERROR":
        yield ok(f"forwarded and answered in {found.milliseconds:.0f} ms")
    else:
        yield warning(
            f"the resolvers say {found.rcode} to {' '.join(WORLD)}:"
            " machines may not find names of the world",
            "see the check dns-resolvers",
        )


def look_at_map(patient: Patient) -> Iterator[Finding]:
    """Is there room for names in the kernel?"""
    fill = patient.backend.status().fill.get("names")
    if fill is None:
        yield skipped("the daemon has not looked at its tables yet", "flyebpf status")
    elif fill.used >= FULL * fill.size:
        yield warning(
            f"{fill.used} of {fill.size} names in the kernel: what has no room is answered slower",
            f"raise {fill.setting} in the daemon's configuration",
        )
    else:
        yield ok(f"{fill.used} of {fill.size} names in the kernel")


def look_at_limit(patient: Patient) -> Iterator[Finding]:
    """Has a machine asked more than it may?"""
    dropped = {drop.reason: drop.packets for drop in patient.backend.drops()}
    count = dropped.get(DropReason.DNS_LIMIT, 0)
    if count:
        yield warning(
            f"{count} queries of machines that asked too much were dropped since the programs"
            " were loaded",
            "flyebpf drops, and see which machine asks without a pause",
        )
    else:
        yield ok("no machine has asked more than it may")


# An app's names.


def look_at_app_name(patient: Patient) -> Iterator[Finding]:
    """``<app>.internal``: all started machines whose host is there, and no other."""
    assert patient.app is not None
    name = f"{patient.app.name}.internal"
    known = addressed(patient)
    wanted = {
        address: machine.id
        for address, machine in known.items()
        if machine.state is MachineState.STARTED
    }
    found = ask(patient, name)
    got = set(data_of(found))
    if found.rcode != "NOERROR":
        yield failed(f"{name} is {found.rcode}", "flyebpf status shows what has not been applied")
    elif strange := got - wanted.keys():
        yield failed(
            f"{name} leads to {listed(strange)}, which no started machine has",
            "flyebpf status --wait, then flyebpf doctor again",
        )
    elif not known:
        yield warning(f"{name} has no address: the app has no machine", "flyebpf machines add")
    elif not wanted:
        yield warning(
            f"{name} has no address: none of its {len(known)} machines is started",
            f"flyebpf machines start {next(iter(known.values())).id}",
        )
    elif missing := [ident for address, ident in wanted.items() if address not in got]:
        yield failed(
            f"{name} leaves out {len(missing)} started machines: {listed(missing)}",
            "flyebpf hosts list shows whether their host is drained or away",
        )
    else:
        yield ok(f"{name} leads to {len(got)} machines")


def look_at_machine_names(patient: Patient) -> Iterator[Finding]:
    """``<id>.vm.<app>.internal`` and back, of machines that are in answers."""
    assert patient.app is not None
    own = f"{patient.app.name}.internal"
    answered = set(data_of(ask(patient, own)))
    found = [(address, m) for address, m in addressed(patient).items() if address in answered]
    wrong = []
    for address, machine in found[:SHOWN]:
        name = f"{machine.id}.vm.{own}"
        forward = data_of(ask(patient, name))
        back = data_of(ask(patient, IPv6Address(address).reverse_pointer, "PTR"))
        if forward != [address] or back != [f"{name}."]:
            wrong.append(machine.id)
    if wrong:
        yield failed(
            f"names of machines do not lead there and back: {listed(wrong)}",
            f"flyebpf dig {wrong[0]}.vm.{own}",
        )
    elif found:
        yield ok(f"own names of {len(found[:SHOWN])} machines lead there and back")
    else:
        yield skipped("no machine is in the answers")


def look_at_flycast(patient: Patient) -> Iterator[Finding]:
    """``<app>.flycast``, on each network where the app has such an address."""
    assert patient.app is not None
    name = f"{patient.app.name}.flycast"
    wanted: dict[int, set[str]] = {}
    for record in addresses.list_all(patient.store, patient.app.name):
        if record.type is AddressKind.PRIVATE_V6:
            number = int.from_bytes(IPv6Address(record.address).packed[2:6], "big")
            wanted.setdefault(number, set()).add(record.address)
    known = {network.number: network.ident for network in networks.list_all(patient.store)}
    for number, expected in wanted.items():
        got = set(data_of(patient.backend.dig(number, name, "AAAA", tcp=True)))
        where = f"{name} on network {known.get(number, number)}"
        if got == expected:
            yield ok(f"{where} leads to {listed(got)}")
        else:
            yield failed(
                f"{where} leads to {listed(got) or 'nothing'} instead of {listed(expected)}",
                "flyebpf status shows what has not been applied",
            )
    if not wanted:
        yield skipped(
            "the app has no Flycast address",
            f"flyebpf ips allocate-v6 --private -a {patient.app.name}",
        )


def ask(patient: Patient, name: str, kind: str = "AAAA") -> DigAnswer:
    """In the app's network."""
    assert patient.network is not None
    return patient.backend.dig(patient.network.number, name, kind, tcp=True)


def data_of(found: DigAnswer) -> list[str]:
    return [record.data for record in found.answers]


def addressed(patient: Patient) -> dict[str, Machine]:
    """The app's machines by their addresses; those of a host that is gone have none."""
    assert patient.app is not None
    assert patient.network is not None
    numbers = {host.name: host.number for host in every(patient.store, Host)}
    return {
        machine_address(patient.network.number, numbers[machine.host], machine.number): machine
        for machine in machines.list_all(patient.store, patient.app.name)
        if machine.host in numbers
    }


def listed(names: Iterable[str]) -> str:
    """The first of them by name."""
    found = sorted(names)
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more


CHECKS = (
    Check("dns-process", look_at_process),
    Check("dns-faults", look_at_faults),
    Check("dns-world", look_at_world),
    Check("dns-resolvers", look_at_resolvers),  # after one question at least
    Check("dns-map", look_at_map),
    Check("dns-limit", look_at_limit),
    Check("dns-app", look_at_app_name, of_app=True),
    Check("dns-machines", look_at_machine_names, of_app=True),
    Check("dns-flycast", look_at_flycast, of_app=True),
)
