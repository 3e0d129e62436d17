# SPDX-License-Identifier: Apache-2.0
"""Organizations and their networks."""

from __future__ import annotations

from flyebpf.api import views
from flyebpf.api.requests import Call
from flyebpf.api.schema import ref, string
from flyebpf.api.table import Route, items, page
from flyebpf.ops import apps, networks, orgs


def list_all(call: Call) -> object:
    store = call.store
    names: dict[str, views.Json] = {
        org.name: {"name": org.name, "networks": [], "apps": []} for org in orgs.list_all(store)
    }
    for network in networks.list_all(store):
        if network.org in names:
            names[network.org]["networks"].append(network.name)
    for app in apps.list_all(store):
        if app.org in names:
            names[app.org]["apps"].append(app.name)
    return page(list(names.values()))


def create(call: Call) -> object:
    return _view(call, orgs.create(call.store, call.body["name"]).name)


def get(call: Call) -> object:
    return _view(call, orgs.get(call.store, call.path["org"]).name)


def _view(call: Call, org: str) -> object:
    store = call.store
    return {
        "name": org,
        "networks": [network.name for network in networks.list_all(store, org)],
        "apps": [app.name for app in apps.list_all(store) if app.org == org],
    }


def list_networks(call: Call) -> object:
    store, org = call.store, call.query.get("org")
    if org is not None:
        orgs.get(store, org)
    return page([views.network(network) for network in networks.list_all(store, org)])


ROUTES = (
    Route("GET", "/v1/orgs", "orgs_list", "All organizations.", list_all, items("Org")),
    Route(
        "POST",
        "/v1/orgs",
        "orgs_create",
        "Create an organization, with its network 'default'.",
        create,
        ref("Org"),
        body=ref("OrgCreate"),
        status=201,
    ),
    Route("GET", "/v1/orgs/{org}", "orgs_get", "One organization.", get, ref("Org")),
    Route(
        "GET",
        "/v1/networks",
        "networks_list",
        "All private networks (6PN).",
        list_networks,
        items("Network"),
        query={"org": string("Only this organization's.")},
    ),
)
