# SPDX-License-Identifier: Apache-2.0
"""The cluster's hosts, the tokens by which they join, and their keys."""

from __future__ import annotations

from flyebpf.api import views
from flyebpf.api.requests import Call
from flyebpf.api.schema import ref
from flyebpf.api.table import Handler, Route, items, page
from flyebpf.ops import hosts, rotation, tokens

ONE = "/v1/hosts/{host}"
DEFAULT_MINUTES = 60


def list_all(call: Call) -> object:
    backend = call.backend
    own, found = backend.handshakes(), hosts.list_all(call.store, backend.occupants())
    return page([views.host(view, backend.config.host, own) for view in found])


def get(call: Call) -> object:
    backend = call.backend
    view = hosts.get(call.store, call.path["host"], backend.occupants())
    return views.host(view, backend.config.host, backend.handshakes())


def setting_drained(drained: bool) -> Handler:
    def handler(call: Call) -> object:
        hosts.set_drained(call.store, call.path["host"], drained)
        return get(call)

    return handler


def remove(call: Call) -> object:
    backend, force = call.backend, call.body.get("force", False)
    lookup = views.Lookup(call.store)
    removed = hosts.remove(call.store, backend.config, call.path["host"], force=force)
    return {
        "host": removed.host.name,
        "machines": [views.machine(machine, lookup, backend) for machine in removed.machines],
        "wireguard_peers": [views.wireguard_peer(peer, lookup) for peer in removed.peers],
    }


def create_token(call: Call) -> object:
    minutes = call.body.get("minutes", DEFAULT_MINUTES)
    made = tokens.create(call.store, call.backend.config, minutes)
    return {"token": made.token, "expires": made.expires}


def revoke_tokens(call: Call) -> object:
    return {"revoked": tokens.revoke_all(call.store)}


def show_rotation(call: Call) -> object:
    return views.rotation(rotation.status(call.store))


def start_rotation(call: Call) -> object:
    return views.rotation(rotation.start(call.store))


def finish_rotation(call: Call) -> object:
    return views.rotation(rotation.finish(call.store))


ROUTES = (
    Route("GET", "/v1/hosts", "hosts_list", "All hosts.", list_all, items("Host")),
    Route("GET", ONE, "hosts_get", "One host.", get, ref("Host")),
    Route(
        "POST",
        f"{ONE}/drain",
        "hosts_drain",
        "Give its machines no new flows and leave them out of answers.",
        setting_drained(True),
        ref("Host"),
    ),
    Route(
        "POST",
        f"{ONE}/undrain",
        "hosts_undrain",
        "Give its machines new flows again.",
        setting_drained(False),
        ref("Host"),
    ),
    Route(
        "POST",
        f"{ONE}/remove",
        "hosts_remove",
        "Forget a host that is gone for good; answers what was removed.",
        remove,
        ref("HostRemoved"),
        body=ref("HostRemoval"),
    ),
    Route(
        "POST",
        "/v1/join-tokens",
        "join_tokens_create",
        "A token with which one host can join.",
        create_token,
        ref("JoinToken"),
        body=ref("JoinTokenCreate"),
        status=201,
    ),
    Route(
        "DELETE",
        "/v1/join-tokens",
        "join_tokens_revoke",
        "Make all tokens invalid that have not been used.",
        revoke_tokens,
        ref("Revoked"),
    ),
    Route(
        "GET",
        "/v1/key-rotation",
        "key_rotation_get",
        "How far the rotation of the mesh's keys is.",
        show_rotation,
        ref("KeyRotation"),
    ),
    Route(
        "POST",
        "/v1/key-rotation",
        "key_rotation_start",
        "Begin to give every host of the mesh a new key.",
        start_rotation,
        ref("KeyRotation"),
        status=201,
    ),
    Route(
        "POST",
        "/v1/key-rotation/finish",
        "key_rotation_finish",
        "End it without hosts that are away.",
        finish_rotation,
        ref("KeyRotation"),
    ),
)
