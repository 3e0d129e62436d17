# SPDX-License-Identifier: Apache-2.0
"""Apps."""

from __future__ import annotations

from flyebpf.api import views
from flyebpf.api.requests import Call
from flyebpf.api.schema import ref, string
from flyebpf.api.table import Route, items, page
from flyebpf.model.records import Address, App, Deployment, Network
from flyebpf.ops import addresses, apps, machines, orgs


def list_all(call: Call) -> object:
    store, org = call.store, call.query.get("org")
    if org is not None:
        orgs.get(store, org)
    lookup = views.Lookup(store, Network, Deployment)
    of_machines = views.by_app(machines.list_all(store))
    of_addresses = views.by_app(addresses.list_all(store))
    return page(
        [
            _view(
                call,
                app,
                lookup,
                len(of_machines.get(app.name, ())),
                of_addresses.get(app.name, []),
            )
            for app in apps.list_all(store)
            if org in (None, app.org)
        ]
    )


def create(call: Call) -> object:
    body = call.body
    app = apps.create(call.store, body["name"], body["org"], network=body.get("network", "default"))
    return _one(call, app)


def get(call: Call) -> object:
    return _one(call, apps.get(call.store, call.path["app"]))


def destroy(call: Call) -> object:
    app = apps.get(call.store, call.path["app"])
    before = _one(call, app)
    apps.destroy(call.store, app.name)
    return before


def _one(call: Call, app: App) -> object:
    store = call.store
    return _view(
        call,
        app,
        views.Lookup(store),
        len(machines.list_all(store, app.name)),
        addresses.list_all(store, app.name),
    )


def _view(
    call: Call, app: App, lookup: views.Lookup, count: int, owned: list[Address]
) -> views.Json:
    deployment = lookup.find(Deployment, app.name)
    return views.app(
        app,
        lookup,
        domain=call.backend.config.domain,
        machines=count,
        addresses=[address.address for address in owned],
        version=None if deployment is None else deployment.version,
    )


ROUTES = (
    Route(
        "GET",
        "/v1/apps",
        "apps_list",
        "All apps.",
        list_all,
        items("App"),
        query={"org": string("Only this organization's.")},
    ),
    Route(
        "POST",
        "/v1/apps",
        "apps_create",
        "Create an app on a network, where it stays for life.",
        create,
        ref("App"),
        body=ref("AppCreate"),
        status=201,
    ),
    Route("GET", "/v1/apps/{app}", "apps_get", "One app.", get, ref("App")),
    Route(
        "DELETE",
        "/v1/apps/{app}",
        "apps_destroy",
        "Destroy an app; answers what it was.",
        destroy,
        ref("App"),
    ),
)
