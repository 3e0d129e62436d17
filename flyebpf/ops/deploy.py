# SPDX-License-Identifier: Apache-2.0
"""Deploying: what a fly.toml says becomes the app's services."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from flyebpf.config import DaemonConfig
from flyebpf.errors import InvalidError
from flyebpf.flytoml import ParsedConfig
from flyebpf.model import names
from flyebpf.model.records import Address, App, Deployment, Machine, Service
from flyebpf.ops.transact import Tx, every, find, transact
from flyebpf.store.base import Store


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
) -> DeployResult:
    """Make ``parsed`` the app's deployment, one version above its last one.

    The addresses that a first deploy allocates by itself (contract, section 9)
    are those of apps with ``http`` or ``tls`` handlers, which need the proxy;
    other apps get theirs by ``ips allocate-v4``, and a warning until then,
    unless ``public_ips`` is False. Raises InvalidError "needs the proxy" for
    handlers, and NotFoundError when there is no such app.
    """
    app = names.app_name(app)
    _refuse_what_needs_the_proxy(app, parsed.services)

    def action(tx: Tx) -> Deployment:
        tx.require(App, app)
        last = tx.get(Deployment, app)
        deployment = Deployment(
            app,
            parsed.services,
            checks=parsed.checks,
            primary_region=parsed.primary_region,
            processes=parsed.processes,
            version=last.version + 1 if last else 1,
        )
        tx.put(deployment)
        return deployment

    deployment = transact(store, action)
    warnings = (*parsed.warnings, *_warnings(store, deployment, public_ips))
    return DeployResult(deployment, (), warnings)


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
            "remove the handlers to have the raw stream steered to the machines; "
            "nothing was deployed",
        )


def _warnings(store: Store, deployment: Deployment, public_ips: bool) -> list[str]:
    app = deployment.app
    warnings = []
    if not deployment.services:
        warnings.append(
            f"app {app} has no service and cannot be reached from outside its network: "
            "add [[services]] to its fly.toml"
        )
    elif public_ips and not every(store, Address, app=app):
        warnings.append(f"app {app} has no IP address: flyebpf ips allocate-v4 -a {app}")
    groups = Counter(machine.group for machine in every(store, Machine, app=app))
    for group, count in sorted(groups.items()):
        if group not in deployment.processes:
            warnings.append(
                f"{count} machine(s) of app {app} get no traffic: their process group {group!r} "
                f"is not in the deployed file, which has {', '.join(deployment.processes)}"
            )
    return warnings
