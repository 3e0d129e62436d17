# SPDX-License-Identifier: Apache-2.0
"""Rows of names: what machines' interfaces answer without the DNS server.

Only of networks that have machines on this host, because nobody else asks here,
and only names of one to eight addresses; everything else is the server's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv6Address

from flyebpf.model.namehash import fits, name_hash
from flyebpf.model.records import AddressKind, App, Machine, MachineState
from flyebpf.model.rows import NameRow
from flyebpf.model.sixpn import MACHINE_SUFFIX, machine_base, network_nameserver
from flyebpf.model.state import State, network_of
from flyebpf.plan.networks import callers_number, network_number
from flyebpf.plan.site import Plan

MOST = 8
"""Addresses of a name that the programs answer."""
LISTS = ("global", "vms", "regions")
"""Words before an app's name that mean something else than a region."""


def nameservers(state: State, host: str) -> list[str]:
    """The servers' addresses in networks that have users' peers at a host."""
    found = {f"{peer.org}/{peer.network}" for peer in state.peers_at(host)}
    networks = [state.networks[ident] for ident in sorted(found) if ident in state.networks]
    servers = []
    for network in networks:
        try:
            servers.append(network_nameserver(network.number))
        except ValueError:  # the peers' own rows say so
            continue
    return servers


def plan_names(state: State, here: str, name: str) -> Plan:
    """The rows of owner ``("names", app)``."""
    plan = Plan()
    app = state.apps.get(name)
    if app is None:
        return plan
    for number, addresses in _flycast(state, here, name).items():
        _add(plan, number, f"{name}.flycast", addresses)
    if state.seats.taken(here, network_of(app)):
        number, problem = network_number(state, name)
        if problem is None:  # else its machines' rows say so
            for text, addresses in _names(state, app, number):
                _add(plan, number, text, addresses)
    return plan


def _add(plan: Plan, number: int, text: str, addresses: list[bytes]) -> None:
    wired = _wire(text)
    if 0 < len(addresses) <= MOST and wired and fits(wired):
        plan.rows.append(NameRow(number, name_hash(wired), wired, tuple(addresses)))


def _names(state: State, app: App, number: int) -> Iterator[tuple[str, list[bytes]]]:
    """Names of an app, as the server knows them, and their addresses in its order."""
    own = f"{app.name}.internal"
    found: dict[str, list[bytes]] = {own: [], f"global.{own}": []}
    for machine, address in _places(state, app.name, number):
        for label in _labels(machine):
            found.setdefault(f"{label}.{own}", []).append(address)
        found[own].append(address)
        found[f"global.{own}"].append(address)
    yield from found.items()


def _labels(machine: Machine) -> Iterable[str]:
    """What stands before an app's name and means this machine among others."""
    yield f"{machine.id}.vm"
    if machine.region not in LISTS:
        yield machine.region
    if "." not in machine.group:
        yield f"{machine.group.lower()}.process"
    pairs = {f"{value}.{key}".encode().lower() for key, value in machine.metadata.items()}
    for pair in pairs:
        yield f"{pair.decode()}.kv._metadata"


def _places(state: State, app: str, number: int) -> Iterator[tuple[Machine, bytes]]:
    """The machines that are given in answers, by id, and their addresses."""
    for machine in state.machines_of(app):
        host = state.hosts.get(machine.host)
        if host is None or host.drained or machine.state is not MachineState.STARTED:
            continue
        presences = state.fleet.presences
        if presences and host.name not in presences:
            continue
        try:
            base = machine_base(number, host.number, machine.number)
        except ValueError:  # its own rows say so
            continue
        yield machine, (base | MACHINE_SUFFIX).to_bytes(16, "big")


def _flycast(state: State, here: str, app: str) -> dict[int, list[bytes]]:
    """The app's Flycast addresses, by the number of the network where they are: its
    own or another one."""
    found: dict[int, list[bytes]] = {}
    for record in sorted(state.addresses_of(app), key=lambda record: record.address):
        if record.type is not AddressKind.PRIVATE_V6:
            continue
        if not state.seats.taken(here, f"{record.org}/{record.network}"):
            continue
        number, problem = callers_number(state, record)
        if problem is None:  # else the app's own rows say so
            found.setdefault(number, []).append(IPv6Address(record.address).packed)
    return found


def _wire(name: str) -> bytes:
    """The name in wire form; empty for one that has none."""
    labels = [label.encode() for label in name.split(".")]
    if not all(0 < len(label) < 64 for label in labels):
        return b""
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
