# SPDX-License-Identifier: Apache-2.0
"""Deploying: what a fly.toml says becomes the app's services."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from flyebpf.config import DaemonConfig
from flyebpf.errors import ConflictError, ExhaustedError, InvalidError
from flyebpf.flytoml import ParsedConfig
from flyebpf.model import names, shared
from flyebpf.model.certificates import Certificate
from flyebpf.model.hostnames import default_hostname
from flyebpf.model.records import (
    Address,
    AddressKind,
    App,
    Deployment,
    Machine,
    Network,
    Service,
)
from flyebpf.ops import addresses, certificates
from flyebpf.ops import flycast as private
from flyebpf.ops.transact import Tx, every, find, transact
from flyebpf.store.base import Store

PUBLIC = frozenset((AddressKind.V4, AddressKind.SHARED_V4, AddressKind.V6))
"""Kinds of addresses at which the internet reaches an app."""


@dataclass(frozen=True, slots=True)
class DeployResult:
    """``allocated``: the addresses that this deploy gave to the app.
    ``warnings``: lines for the user, those of the file included."""

    deployment: Deployment
    allocated: tuple[Address, ...]
    warnings: tuple[str, ...]


def get(store: Store, app: str) -> Deployment | None:
    """The app's last deployment, or None before its first one; NotFoundError if
    there is no such app."""
    name = find(store, App, names.app_name(app)).name
    return Tx(store).get(Deployment, name)


def deploy(
    store: Store,
    config: DaemonConfig,
    app: str,
    parsed: ParsedConfig,
    *,
    public_ips: bool = True,
    flycast: bool = False,
    remove_services: bool = False,
) -> DeployResult:
    """Make ``parsed`` the app's deployment, one version above its last one.

    A first deploy of an app without public addresses, of which a shared address
    carries port 80 or 443, allocates one and a dedicated IPv6 address (contract,
    section 9), unless ``public_ips`` is False. ``flycast``: a Flycast address on the
    app's own network instead. Other apps get theirs by ``ips allocate-v4``, and a
    warning until then. A file without a service, which may be the wrong file, ends
    the services in force with ``remove_services`` only. Raises InvalidError for
    handlers where no proxy runs and for services that an address of the app cannot
    carry, NotFoundError when there is no such app.
    """
    app = names.app_name(app)
    if config.proxy.engine == "none":
        _refuse_what_needs_the_proxy(app, parsed.services)
    if flycast:
        addresses.need_proxy(config, "a Flycast address")

    def action(tx: Tx) -> tuple[Deployment, list[Address]]:
        owner = tx.require(App, app)
        last = tx.get(Deployment, app)
        if last and last.services and not parsed.services and not remove_services:
            raise ConflictError(
                f"the file has no service, and app {app} has {_count(last.services)} in force, "
                "which would end",
                "If that is meant, say so: flyebpf deploy --yes",
            )
        deployment = Deployment(
            app,
            parsed.services,
            checks=parsed.checks,
            primary_region=parsed.primary_region,
            processes=parsed.processes,
            version=last.version + 1 if last else 1,
        )
        before = every(tx.store, Address, app=app)
        given: list[Address] = []
        if flycast:
            given.append(_flycast(tx, owner, deployment))
        elif last is None and public_ips:
            given += _first_addresses(tx, config, deployment, before)
        _check(deployment, before)
        certificates.need_self_signed(tx, config, deployment.services, datetime.now(UTC))
        tx.put(deployment)
        tx.touch(owner)  # so that allocating at the same time sees the services
        return deployment, [address for address in given if address not in before]

    deployment, given = transact(store, action)
    warnings = (
        *parsed.warnings,
        *_warnings(store, deployment, public_ips and not flycast),
        *_without_v6(config, deployment, given),
        *_without_certificate(store, config, deployment),
    )
    return DeployResult(deployment, tuple(given), warnings)


def _flycast(tx: Tx, owner: App, deployment: Deployment) -> Address:
    private.check(deployment)
    place = tx.require(Network, f"{owner.org}/{owner.network}")
    return private.give(tx, owner, place)


def _first_addresses(
    tx: Tx, config: DaemonConfig, deployment: Deployment, before: Sequence[Address]
) -> list[Address]:
    """A shared IPv4 and a dedicated IPv6 address, each if the operator has a pool.
    That the latter is full does not stop a deploy; :func:`_without_v6` says so."""
    if any(address.type in PUBLIC for address in before) or not _is_web(deployment):
        return []
    given = []
    if config.pools.shared_v4:
        given.append(addresses.share(tx, config, deployment.app))
    if config.pools.anycast_v6:
        with suppress(ExhaustedError):
            given.append(addresses.dedicate(tx, config, deployment.app, AddressKind.V6))
    return given


def _is_web(deployment: Deployment) -> bool:
    return any(shared.is_web(s, port) for s in deployment.services for port in s.ports)


def _check(deployment: Deployment, before: Sequence[Address]) -> None:
    """Every address that the app has can lead to some service, if there are any."""
    kinds = {address.type for address in before}
    if AddressKind.PRIVATE_V6 in kinds and deployment.services:
        private.check(deployment)
    if kinds & PUBLIC == {AddressKind.SHARED_V4}:
        addresses.refuse_nothing_carried(deployment)


def _refuse_what_needs_the_proxy(app: str, services: Sequence[Service]) -> None:
    found = [
        f"{service.protocol} port {port.start} to {service.internal_port} "
        f"(handlers {', '.join(port.handlers)})"
        for service in services
        for port in service.ports
        if port.handlers
    ]
    if found:
        raise InvalidError(
            f"app {app!r} needs the proxy, which does not run here: {'; '.join(found)}",
            'set proxy.engine = "envoy" in the configuration of all hosts, or remove the handlers '
            "to have the raw stream steered to the machines; nothing was deployed",
        )


def _not_shared(deployment: Deployment, kinds: set[AddressKind]) -> list[str]:
    """Services that clients of IPv4 cannot reach."""
    if AddressKind.SHARED_V4 not in kinds or AddressKind.V4 in kinds:
        return []
    app = deployment.app
    return [
        f"{where} of app {app} is not served on its shared IPv4 address: {why}; give the app an "
        f"address of its own: flyebpf ips allocate-v4 -a {app}"
        for where, why in shared.misfits(deployment.services)
    ]


def _without_v6(
    config: DaemonConfig, deployment: Deployment, given: Sequence[Address]
) -> list[str]:
    """A first deploy that should have given an IPv6 address."""
    kinds = {address.type for address in given}
    if AddressKind.SHARED_V4 not in kinds or AddressKind.V6 in kinds:
        return []
    if not config.pools.anycast_v6:
        return []
    app = deployment.app
    return [
        f"app {app} has no IPv6 address: the pool pools.anycast_v6 has no free one; release "
        f"some or add a pool, then: flyebpf ips allocate-v6 -a {app}"
    ]


def _without_certificate(store: Store, config: DaemonConfig, deployment: Deployment) -> list[str]:
    """TLS ports at which every handshake fails."""
    app = deployment.app
    ports = [port for service in deployment.services for port in service.ports]
    tls = [port for port in ports if {"tls", "pg_tls"} & set(port.handlers)]
    bare = [p for p in tls if p.tls_options is None or not p.tls_options.default_self_signed]
    tx = Tx(store)
    if not bare or tx.get(Certificate, f"*.{config.domain}") or every(store, Certificate, app=app):
        return []
    numbers = ", ".join(str(port.start) for port in bare)
    return [
        f"app {app} has no certificate, so TLS fails on port {numbers}: "
        f"flyebpf certs add {default_hostname(app, config.domain)} -a {app}"
    ]


def _count(services: Sequence[Service]) -> str:
    return f"{len(services)} service{'' if len(services) == 1 else 's'}"


def _warnings(store: Store, deployment: Deployment, public_ips: bool) -> list[str]:
    app = deployment.app
    warnings = []
    if not deployment.services:
        warnings.append(
            f"app {app} has no service and cannot be reached from outside its network: "
            "add [[services]] to its fly.toml"
        )
    found = every(store, Address, app=app)
    if deployment.services and public_ips and not found:
        warnings.append(f"app {app} has no IP address: flyebpf ips allocate-v4 -a {app}")
    warnings += _not_shared(deployment, {address.type for address in found})
    groups = Counter(machine.group for machine in every(store, Machine, app=app))
    for group, count in sorted(groups.items()):
        if group not in deployment.processes:
            warnings.append(
                f"{count} machine(s) of app {app} get no traffic: their process group {group!r} "
                f"is not in the deployed file, which has {', '.join(deployment.processes)}"
            )
    return warnings
