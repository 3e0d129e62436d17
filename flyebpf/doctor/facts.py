# SPDX-License-Identifier: Apache-2.0
"""What the store says of an app, as its checks need it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from flyebpf.doctor.check import Finding, Patient
from flyebpf.model.certificates import Certificate
from flyebpf.model.hostnames import default_hostname
from flyebpf.model.records import Address, AddressKind, Deployment, Host, Machine, MachineState
from flyebpf.model.shared import carries
from flyebpf.model.sixpn import machine_address
from flyebpf.ops import addresses, deploy, machines
from flyebpf.ops.transact import every
from flyebpf.plan.services import Exposure, exposures

PUBLIC = frozenset((AddressKind.V4, AddressKind.V6, AddressKind.SHARED_V4))
TLS = frozenset(("tls", "pg_tls"))
AT_ONCE = 16
"""Questions that wait for their answers at the same time."""
SHOWN = 5
A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Facts:
    """``machines``: all of the app's; ``sixpn``: addresses by machine; ``here``: the
    name of this host; ``proxied``: it has a proxy by its configuration."""

    app: str
    deployment: Deployment | None
    exposures: Sequence[Exposure]
    addresses: Sequence[Address]
    machines: Sequence[Machine]
    hosts: dict[str, Host]
    sixpn: dict[str, str]
    here: str
    proxied: bool

    def started(self) -> list[Machine]:
        return [m for m in self.machines if m.state is MachineState.STARTED]

    def serving(self, exposure: Exposure) -> list[Machine]:
        """The started machines of its process groups."""
        return [m for m in self.started() if m.group in exposure.groups]

    def carrying(self, exposure: Exposure) -> list[Address]:
        """The app's addresses at which clients reach a port."""
        return [a for a in self.addresses if carries(a.type, exposure.service, exposure.port)]

    def by_proxy(self, exposure: Exposure) -> bool:
        """Whether the proxy opens connections to its machines."""
        return exposure.protocol == "tcp" and any(
            is_proxys(address, exposure) for address in self.carrying(exposure)
        )


def is_proxys(address: Address, exposure: Exposure) -> bool:
    """Whether a port that an address carries is the proxy's there, or the kernel's."""
    if address.type in (AddressKind.SHARED_V4, AddressKind.PRIVATE_V6):
        return True
    return exposure.proxy


def facts(patient: Patient) -> Facts:
    """Of the patient's app, as it is now."""
    assert patient.app is not None
    assert patient.network is not None
    name, config = patient.app.name, patient.backend.config
    deployment = deploy.get(patient.store, name)
    found = machines.list_all(patient.store, name)
    hosts = {host.name: host for host in every(patient.store, Host)}
    return Facts(
        name,
        deployment,
        exposures(deployment, [], config) if deployment else [],
        addresses.list_all(patient.store, name),
        found,
        hosts,
        {
            m.id: machine_address(patient.network.number, hosts[m.host].number, m.number)
            for m in found
            if m.host in hosts
        },
        config.host,
        config.proxy.engine != "none",
    )


def named(exposure: Exposure) -> str:
    """``tcp 80 [http]``."""
    handlers = f" [{', '.join(exposure.port.handlers)}]" if exposure.port.handlers else ""
    return f"{exposure.protocol} {exposure.ports}{handlers}"


def together(work: Callable[[A], B], items: Iterable[A]) -> list[B]:
    """What ``work`` makes of each, done at the same time; in their order."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(work, items))


def of_machine(machine: Machine) -> str:
    """``machine 3d8d… (web1)``."""
    return f"machine {machine.id}" + (f" ({machine.name})" if machine.name else "")


def server_names(patient: Patient, app: str) -> Iterator[str]:
    """The names by which clients ask for the app: its default host name, those of its
    certificates, for a wildcard one of those that it stands for."""
    yield default_hostname(app, patient.backend.config.domain)
    for record in every(patient.store, Certificate, app=app):
        if not record.hostname.endswith(".flycast"):
            yield record.hostname.replace("*", "flyebpf-doctor", 1)


Findings = Iterator[Finding]
