# SPDX-License-Identifier: Apache-2.0
"""Services: what the deployments expose, and the traffic on it."""

from __future__ import annotations

from collections.abc import Sequence

from flyebpf.api import views
from flyebpf.api.requests import Call
from flyebpf.api.schema import string
from flyebpf.api.table import Route, items, page
from flyebpf.model.certificates import Certificate
from flyebpf.model.hostnames import default_hostname
from flyebpf.model.records import Address, App, Deployment, Machine, MachineState, Network
from flyebpf.model.shared import carries
from flyebpf.ops import addresses, apps, certificates, machines
from flyebpf.plan.services import Exposure, exposures


def list_all(call: Call) -> object:
    store, app = call.store, call.query.get("app")
    names = [apps.get(store, app).name] if app is not None else _names(apps.list_all(store))
    lookup = views.Lookup(store) if app else views.Lookup(store, App, Network, Deployment)
    counters = {counter.service: counter for counter in call.backend.services()}
    of_machines = views.by_app(machines.list_all(store, app))
    of_addresses = views.by_app(addresses.list_all(store, app))
    of_hostnames = _hostnames(certificates.list_all(store, app))
    domain = call.backend.config.domain
    shown = []
    for name in names:
        deployment = lookup.find(Deployment, name)
        if deployment is None:
            continue
        for exposure in exposures(deployment, [], call.backend.config):
            shown.append(
                views.service(
                    deployment,
                    exposure,
                    addresses=_carrying(of_addresses.get(name, ()), exposure),
                    hostnames=(default_hostname(name, domain), *of_hostnames.get(name, ())),
                    regions=_regions(of_machines.get(name, []), exposure.groups),
                    machines=_usable(of_machines.get(name, []), exposure.groups),
                    counters=counters.get(exposure.name(name)),
                    lookup=lookup,
                )
            )
    return page(shown)


def _carrying(found: Sequence[Address], exposure: Exposure) -> list[Address]:
    """The app's addresses at which clients reach a port."""
    return [a for a in found if carries(a.type, exposure.service, exposure.port)]


def _hostnames(found: Sequence[Certificate]) -> dict[str, list[str]]:
    """Those that an app has certificates for; its Flycast name is no public one."""
    names: dict[str, list[str]] = {}
    for certificate in found:
        if not certificate.hostname.endswith(".flycast"):
            names.setdefault(certificate.app, []).append(certificate.hostname)
    return names


def _names(found: list[App]) -> list[str]:
    return [app.name for app in found]


def _regions(candidates: list[Machine], groups: tuple[str, ...]) -> list[str]:
    return sorted({machine.region for machine in candidates if machine.group in groups})


def _usable(candidates: list[Machine], groups: tuple[str, ...]) -> int:
    """How many of them new flows can go to."""
    return sum(
        machine.state is MachineState.STARTED and not machine.cordoned and machine.group in groups
        for machine in candidates
    )


ROUTES = (
    Route(
        "GET",
        "/v1/services",
        "services_list",
        "Every exposed port, with its counters.",
        list_all,
        items("Service"),
        query={"app": string("Only this app's.")},
    ),
)
