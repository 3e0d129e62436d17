# SPDX-License-Identifier: Apache-2.0
"""Organizations and their networks."""

from __future__ import annotations

from flyebpf.api import views
from flyebpf.api.requests import Call
from flyebpf.api.schema import ref, string
from flyebpf.api.table import Route, items, page
from flyebpf.model.records import Organization
from flyebpf.ops import apps, networks, orgs


def list_all(call: Call) -> object:
    store = call.store
    names = {org.name: _bare(org) for org in orgs.list_all(store)}
    for network in networks.list_all(store):
        if network.org in names:
            names[network.org]["networks"].append(network.name)
    for app in apps.list_all(store):
        if app.org in names:
            names[app.org]["apps"].append(app.name)
    return page(list(names.values()))


def create(call: Call) -> object:
    return _view(call, orgs.create(call.store, call.body["name"]))


def get(call: Call) -> object:
    return _view(call, orgs.get(call.store, call.path["org"]))


def set_cross_network(call: Call) -> object:
    enabled = bool(call.body["enabled"])
    return _view(call, orgs.set_cross_network(call.store, call.path["org"], enabled))


def add_source(call: Call) -> object:
    return _view(call, orgs.add_source(call.store, call.path["org"], call.body["source"]))


def remove_source(call: Call) -> object:
    return _view(call, orgs.remove_source(call.store, call.path["org"], call.path["source"]))


def _bare(org: Organization) -> views.Json:
    return {
        "name": org.name,
        "networks": [],
        "apps": [],
        "cross_network_replays": org.cross_network_replays,
        "replay_sources": list(org.replay_sources),
    }


def _view(call: Call, org: Organization) -> object:
    store = call.store
    return {
        **_bare(org),
        "networks": [network.name for network in networks.list_all(store, org.name)],
        "apps": [app.name for app in apps.list_all(store) if app.org == org.name],
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
        "POST",
        "/v1/orgs/{org}/cross-network-replays",
        "orgs_set_cross_network_replays",
        "Whether its apps may replay requests to each other whatever their networks.",
        set_cross_network,
        ref("Org"),
        body=ref("CrossNetworkReplays"),
    ),
    Route(
        "POST",
        "/v1/orgs/{org}/replay-sources",
        "orgs_add_replay_source",
        "Let apps of another organization replay requests to those of this one.",
        add_source,
        ref("Org"),
        body=ref("ReplaySource"),
    ),
    Route(
        "DELETE",
        "/v1/orgs/{org}/replay-sources/{source}",
        "orgs_remove_replay_source",
        "Let them no longer.",
        remove_source,
        ref("Org"),
    ),
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
