# SPDX-License-Identifier: Apache-2.0
"""Questions to the host's DNS server, as machines of a network ask them."""

from __future__ import annotations

from dataclasses import asdict

from flyebpf.api.requests import Call
from flyebpf.api.schema import integer, ref, string
from flyebpf.api.table import Route
from flyebpf.errors import InvalidError, NotFoundError
from flyebpf.model import names
from flyebpf.model.records import Network
from flyebpf.ops import apps, networks

SUFFIX = "internal"


def dig(call: Call) -> object:
    name, query = call.query.get("name", ""), call.query
    if not name:
        raise InvalidError("no name is asked for", "Give the query parameter `name`.")
    network = _network(call, name)
    tcp = query.get("tcp", "0") != "0"
    found = call.backend.dig(network.number, name, query.get("type", "AAAA"), tcp=tcp)
    return {**asdict(found), "org": network.org, "network": network.name}


def _network(call: Call, name: str) -> Network:
    """The one that is named, that of the app, or of the app in the question."""
    query = call.query
    if "org" in query:
        wanted = query.get("network", names.DEFAULT_NETWORK)
        return _find(call, query["org"], wanted)
    if "network" in query:
        raise InvalidError("a network is named without its organization", "Give `org` too.")
    if "app" in query:
        app = apps.get(call.store, query["app"])
        return _find(call, app.org, app.network)
    labels = name.rstrip(".").lower().split(".")
    if labels[-1] == SUFFIX and len(labels) > 1:
        try:
            app = apps.get(call.store, labels[-2])
            return _find(call, app.org, app.network)
        except (NotFoundError, InvalidError):
            pass
    every = networks.list_all(call.store)
    if len(every) == 1:
        return every[0]
    raise InvalidError(
        f"it depends on the network what {name} means", "Name an app with -a, or -o and --network."
    )


def _find(call: Call, org: str, name: str) -> Network:
    for network in networks.list_all(call.store, org):
        if network.name == name:
            return network
    raise NotFoundError(
        f"there is no network {org}/{name}", "`flyebpf networks list` shows all of them."
    )


ROUTES = (
    Route(
        "GET",
        "/v1/dns",
        "dns_dig",
        "What a machine of a network gets from DNS.",
        dig,
        ref("DnsAnswer"),
        query={
            "name": string("The name to ask for."),
            "type": string("Of the records; default: AAAA."),
            "app": string("Ask in this app's network."),
            "org": string("Ask in a network of this organization."),
            "network": string("Which one; default: the organization's default network."),
            "tcp": integer("1: ask by TCP."),
        },
    ),
)
