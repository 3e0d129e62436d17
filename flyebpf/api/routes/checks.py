# SPDX-License-Identifier: Apache-2.0
"""Health checks, and what they have found."""

from __future__ import annotations

from flyebpf.api import views
from flyebpf.api.requests import Call
from flyebpf.api.schema import string
from flyebpf.api.table import Route, items, page
from flyebpf.model.health import MachineChecks
from flyebpf.model.records import Deployment
from flyebpf.ops import machines


def list_all(call: Call) -> object:
    store, app = call.store, call.query.get("app")
    kinds = () if app else (Deployment,)
    lookup = views.Lookup(store, MachineChecks, *kinds)
    shown = []
    for machine in machines.list_all(store, app):
        deployment = lookup.find(Deployment, machine.app)
        if deployment is not None:
            shown += views.checks(machine, deployment, lookup.find(MachineChecks, machine.id))
    return page(shown)


ROUTES = (
    Route(
        "GET",
        "/v1/checks",
        "checks_list",
        "Health checks of machines, with their results.",
        list_all,
        items("Check"),
        query={"app": string("Only this app's.")},
    ),
)
