# SPDX-License-Identifier: Apache-2.0
"""Users' WireGuard peers."""

from __future__ import annotations

from dataclasses import asdict

from flyebpf.api import views
from flyebpf.api.backend import PeerStatus
from flyebpf.api.requests import Call
from flyebpf.api.schema import ref, string
from flyebpf.api.table import Route, items, page
from flyebpf.model.records import Network
from flyebpf.ops import wireguard

ALL = "/v1/wireguard-peers"
ONE = "/v1/orgs/{org}/wireguard-peers/{peer}"
ORG = {"org": string("Only this organization's.")}


def list_all(call: Call) -> object:
    store = call.store
    lookup = views.Lookup(store, Network)
    found = wireguard.list_all(store, call.query.get("org"))
    return page([views.wireguard_peer(peer, lookup) for peer in found])


def create(call: Call) -> object:
    backend, body = call.backend, call.body
    made = wireguard.create(
        call.store,
        backend.config,
        body["name"],
        body["org"],
        network=body.get("network", "default"),
        host=body.get("gateway"),
        public_key=body.get("public_key"),
    )
    peer = views.wireguard_peer(made.peer, views.Lookup(call.store))
    return {"peer": peer, "config": made.config}


def get(call: Call) -> object:
    store = call.store
    peer = wireguard.get(store, call.path["org"], call.path["peer"])
    return views.wireguard_peer(peer, views.Lookup(store))


def remove(call: Call) -> object:
    store = call.store
    peer = wireguard.remove(store, call.path["org"], call.path["peer"])
    return views.wireguard_peer(peer, views.Lookup(store))


def status(call: Call) -> object:
    store, known = call.store, call.backend.peers()
    lookup = views.Lookup(store, Network)
    here = call.backend.config.host
    return page(
        [
            {
                "peer": views.wireguard_peer(peer, lookup),
                "known": peer.host == here and peer.public_key in known,
                **asdict(known.get(peer.public_key, PeerStatus())),
            }
            for peer in wireguard.list_all(store, call.query.get("org"))
        ]
    )


ROUTES = (
    Route("GET", ALL, "wireguard_list", "All peers.", list_all, items("WireguardPeer"), query=ORG),
    Route(
        "POST",
        ALL,
        "wireguard_create",
        "Let a user's computer into a network; answers its configuration, once.",
        create,
        ref("WireguardCreated"),
        body=ref("WireguardCreate"),
        status=201,
    ),
    Route(
        "GET",
        f"{ALL}/status",
        "wireguard_status",
        "What this host knows of its peers; others' are listed without.",
        status,
        items("WireguardStatus"),
        query=ORG,
    ),
    Route("GET", ONE, "wireguard_get", "One peer.", get, ref("WireguardPeer")),
    Route(
        "DELETE",
        ONE,
        "wireguard_remove",
        "Let a peer in no longer; answers what it was.",
        remove,
        ref("WireguardPeer"),
    ),
)
