# SPDX-License-Identifier: Apache-2.0
"""Does the app listen, in its machines, where its services lead to?

Nobody enters a machine. It is asked as clients ask it: at its private IPv4 address by
a connection as the proxy's, at its 6PN address by a segment as the host's services',
and on the way of clients without the proxy by a first packet at the uplink.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flyebpf.api.probes import Probes, Reply, Way
from flyebpf.doctor.check import Check, Finding, Patient, failed, ok, skipped, warning
from flyebpf.doctor.facts import Facts, Findings, facts, named, of_machine, together
from flyebpf.model.records import AddressKind, Machine
from flyebpf.plan.services import Exposure

OTHERS = (
    *(80, 443, 1323, 2368, 3000, 3001, 3306, 4000, 4321, 5000, 5173, 5432, 5678, 6379),
    *(7860, 8000, 8001, 8008, 8080, 8081, 8090, 8443, 8787, 8888, 9000, 9090, 27017),
)
"""Ports on which an app listens that was meant for another one."""
MACHINES = 32
"""Machines of this host that are asked at most."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of asking a machine at a TCP port; None: it could not be asked.
    ``other``: a port at which it takes connections, where it refuses those."""

    machine: Machine
    port: int
    v4: Reply | None
    v6: Reply
    other: int = 0


def look_at_listening(patient: Patient) -> Findings:
    """TCP: at the expected port, and on the addresses that are needed."""
    found = facts(patient)
    wanted = _wanted(found)
    if not wanted:
        yield skipped("no started machine of this host serves a TCP port of the app")
        return
    probes = patient.backend.probes

    def ask(item: tuple[Machine, int, Exposure]) -> Asked:
        return _ask(found, probes, *item)

    for (_, _, exposure), asked in zip(wanted, together(ask, wanted), strict=True):
        yield _said(found, exposure, asked)
    yield from _elsewhere(found)


def _wanted(found: Facts) -> list[tuple[Machine, int, Exposure]]:
    """Machines of this host and the ports that services lead to, once each; of the
    services the one that needs most."""
    wanted: dict[tuple[str, int], tuple[Machine, int, Exposure]] = {}
    for exposure in sorted(found.exposures, key=lambda e: not found.by_proxy(e)):
        for machine in found.serving(exposure):
            if machine.host == found.here and exposure.protocol == "tcp":
                key = (machine.id, exposure.internal_port)
                wanted.setdefault(key, (machine, exposure.internal_port, exposure))
    return list(wanted.values())[:MACHINES]


def _ask(found: Facts, probes: Probes, machine: Machine, port: int, exposure: Exposure) -> Asked:
    v4 = None
    if found.proxied and found.by_proxy(exposure):
        v4 = probes.private(machine.private_ip, port)
    address = found.sixpn[machine.id]
    v6 = probes.sixpn(address, [port])[port]
    other = 0
    if Reply.OPEN not in (v4, v6) and Reply.REFUSED in (v4, v6):
        more = dict.fromkeys((*(e.internal_port for e in found.exposures), *OTHERS))
        more.pop(port, None)
        replies = probes.sixpn(address, list(more))
        other = next((at for at, reply in replies.items() if reply is Reply.OPEN), 0)
    return Asked(machine, port, v4, v6, other)


def _said(found: Facts, exposure: Exposure, asked: Asked) -> Finding:
    where = f"{of_machine(asked.machine)}, port {asked.port}"
    listen = f"have the app listen on [::]:{asked.port}, which takes IPv4 too"
    if asked.v4 is None:
        return _said_6pn(exposure, where, listen, asked)
    if asked.v4 is Reply.OPEN:
        if asked.v6 is Reply.OPEN:
            return ok(f"{where}: it listens, on IPv4 and IPv6")
        return warning(
            f"{where}: it listens on IPv4 alone (0.0.0.0): services lead there, but other machines"
            " of its network, who call its 6PN address, are refused",
            listen,
        )
    if asked.v6 is Reply.OPEN:
        return failed(
            f"{where}: it is bound to the wrong address family: it listens on IPv6 alone, and"
            " the proxy reaches machines at their private IPv4 address",
            listen,
        )
    return _nobody(where, listen, exposure, asked)


def _nobody(where: str, listen: str, exposure: Exposure, asked: Asked) -> Finding:
    if asked.other:
        return failed(
            f"{where}: nobody listens there, but something does on port {asked.other}: the wrong"
            " port",
            f"set internal_port = {asked.other} in the fly.toml and deploy it, or {listen}",
        )
    if asked.v4 is Reply.SILENT:
        return failed(
            f"{where}: the machine does not answer: it hangs, or has a firewall of its own",
            "see the machine's console",
        )
    return failed(
        f"{where}: not listening: the app does not run, listens on another port,"
        " or on 127.0.0.1 alone",
        f"in the machine: ss -tln; {listen}",
    )


def _said_6pn(exposure: Exposure, where: str, listen: str, asked: Asked) -> Finding:
    """What only the kernel leads to is asked for at the uplink too."""
    if asked.v6 is Reply.OPEN:
        return ok(f"{where}: it listens on IPv6")
    if asked.other:
        return _nobody(where, listen, exposure, asked)
    return warning(
        f"{where}: it does not listen on IPv6: other machines of its network, who call its 6PN"
        " address, are refused",
        listen,
    )


def _elsewhere(found: Facts) -> Findings:
    others = sorted({m.host for m in found.started() if m.host != found.here})
    if others:
        yield skipped(
            f"its machines on {', '.join(others[:5])} are not asked from here",
            f"on those hosts: flyebpf doctor -a {found.app}",
        )


def look_at_edge(patient: Patient) -> Findings:
    """Services that the kernel serves: to the machines, and their answers back."""
    found = facts(patient)
    pairs = [
        (exposure, address.address)
        for exposure in found.exposures
        for address in found.carrying(exposure)
        if address.type in (AddressKind.V4, AddressKind.V6) and not exposure.proxy
    ]
    if not pairs or not found.started():
        yield skipped("the kernel serves no port of the app, or no machine is started")
        return
    for exposure, address in pairs[:MACHINES]:
        for edge in patient.backend.probes.edge(address, exposure.protocol, exposure.first):
            where = f"{named(exposure)} at {address}"
            if edge.way is Way.MACHINE:
                yield _answered(found, exposure, where, edge.address, edge.reply)
            elif edge.way is Way.HOST:
                yield _led(found, where, edge.host)
            else:
                yield _lost(found, where, edge.way, edge.reasons)


def _answered(
    found: Facts, exposure: Exposure, where: str, address: str, reply: Reply | None
) -> Finding:
    port = exposure.internal_port
    machine = _owner(found, address)
    who = of_machine(machine) if machine else address
    udp = exposure.protocol == "udp"
    six = ":" in address
    expected = f"[::]:{port}" if six else f"{'fly-global-services' if udp else '0.0.0.0'}:{port}"
    if reply is Reply.OPEN:
        return ok(f"{where}: {who} answers")
    if reply is Reply.SILENT and udp:
        return ok(f"{where}: {who} gets it; it does not answer an empty datagram")
    if reply is Reply.SILENT:
        return failed(
            f"{where}: {who} gets a client's first packet and does not answer: it hangs,"
            " or has a firewall of its own",
            "see the machine's console, and flyebpf drops",
        )
    return failed(
        f"{where}: {who} says that nobody listens at {expected}: the app does not run, listens on"
        f" another port, on {'IPv4' if six else 'IPv6'} or on 127.0.0.1 alone",
        f"have the app listen on {expected}",
    )


def _owner(found: Facts, address: str) -> Machine | None:
    for machine in found.machines:
        if address in (machine.private_ip, machine.services_ip, found.sixpn.get(machine.id)):
            return machine
    return None


def _led(found: Facts, where: str, number: int) -> Finding:
    names = [host.name for host in found.hosts.values() if host.number == number]
    name = names[0] if names else f"number {number}"
    return ok(f"{where}: led to machines on host {name}")


def _lost(found: Facts, where: str, way: Way, reasons: Sequence[str]) -> Finding:
    if way is Way.RESET:
        return failed(
            f"{where}: clients are reset, as no machine can take them",
            f"flyebpf machines list -a {found.app}",
        )
    if way is Way.STACK:
        return failed(
            f"{where}: the programs do not know it, or have no room to send to machines",
            "flyebpf status --wait, and what it says of pools and uplinks",
        )
    why = f" ({', '.join(reasons)})" if reasons else ""
    return failed(f"{where}: clients' packets are dropped{why}", "flyebpf status --wait")


CHECKS = (
    Check("app-listening", look_at_listening, of_app=True),
    Check("app-edge", look_at_edge, of_app=True),
)
