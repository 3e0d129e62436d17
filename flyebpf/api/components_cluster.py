# SPDX-License-Identifier: Apache-2.0
"""The named schemas of hosts and of users' WireGuard peers."""

from __future__ import annotations

from flyebpf.api.schema import (
    Schema,
    array,
    boolean,
    integer,
    mapping,
    nullable,
    number,
    obj,
    ref,
    string,
)

NETWORK_FIELDS: dict[str, Schema] = {
    "org": string("The organization."),
    "network": string("The 6PN's name in its organization."),
    "network_id": string("The 6PN's id: 8 hex digits, never reused."),
}

CLUSTER: dict[str, Schema] = {
    "Host": obj(
        {
            "name": string(),
            "id": string("8 hex digits, never reused."),
            "region": string(),
            "state": string("up: its daemon is there.", enum=["up", "away"]),
            "drained": boolean("Its machines get no new flows."),
            "this": boolean("It is the host that was asked."),
            "underlay": string(enum=["none", "wireguard", "plain"]),
            "endpoint": string("Its address on the mesh, without a port; or empty."),
            "port": integer("UDP; of the even generations of keys, odd ones use the next."),
            "block": string("Its part of the private prefix."),
            "mesh_address": string("Its own address on the mesh."),
            "mesh_prefix": string("The /48 of all its machines, as on the mesh."),
            "machines": integer(),
            "wireguard_peers": integer("Users' peers whose gateway it is."),
            "version": string("Of flyebpf; empty before its daemon's first word."),
            "programs": string("The digest of the programs' source."),
            "kernel": string(),
            "wireguard": string("kernel, wireguard-go, or empty."),
            "applied_revision": integer(),
            "seen": string("When it last said something: RFC 3339, UTC; or empty."),
            "handshake": string("The last one between it and the host asked; or empty."),
            "handshakes": mapping(
                string(),
                "Its last one with each host, RFC 3339; or empty. Of another host than the one "
                "asked: only hosts that it has no session with, 20 at most.",
            ),
            "connected": integer("With how many hosts it has a WireGuard session."),
            "unconnected": integer("With how many it has none."),
            "mtu": integer("Of its mesh; 0 where there is none, or it is not known."),
        }
    ),
    "Mesh": obj(
        {
            "generation": integer("Of the keys that hosts send with."),
            "next_generation": integer("Another one while keys are being rotated."),
            "devices": array(ref("MeshDevice")),
            "peers": array(ref("MeshPeer")),
        }
    ),
    "MeshDevice": obj(
        {
            "interface": string(),
            "implementation": string(
                "plain: no WireGuard; empty: it is not there.",
                enum=["kernel", "wireguard-go", "plain", ""],
            ),
            "generation": integer("Of its key."),
            "port": integer("UDP."),
            "refused": nullable(
                integer("Packets whose source was not their peer's; null where not counted.")
            ),
        }
    ),
    "MeshPeer": obj(
        {
            "host": string(),
            "interface": string(),
            "present": boolean("Its daemon is there."),
            "endpoint": string("Of its last packet, or where it should be."),
            "handshake_age": nullable(number("Seconds; null for never, or without WireGuard.")),
            "received": integer("Bytes of WireGuard's packets."),
            "sent": integer("Bytes of WireGuard's packets."),
            "rtt": nullable(number("Seconds; null where it is not known.")),
        }
    ),
    "HostRemoval": obj(
        {}, {"force": boolean("Also with its machines and users' peers, and when it is up.")}
    ),
    "HostRemoved": obj(
        {
            "host": string(),
            "machines": array(ref("Machine")),
            "wireguard_peers": array(ref("WireguardPeer")),
        }
    ),
    "JoinTokenCreate": obj(
        {}, {"minutes": integer("How long it is valid; default 60.", minimum=1, maximum=43200)}
    ),
    "JoinToken": obj(
        {
            "token": string("For `flyebpf hosts join`, once; it is not stored."),
            "expires": string("RFC 3339, UTC."),
        }
    ),
    "Revoked": obj({"revoked": integer("How many tokens.")}),
    "KeyRotation": obj(
        {
            "running": boolean(),
            "generation": integer("Of the keys that hosts send with."),
            "next": integer("Of the keys that they are to send with."),
            "waiting": array(string("A host that is there and not ready for the keys of `next`.")),
            "away": array(string("A host that is not there, and may have all others wait.")),
        }
    ),
    "WireguardPeer": obj(
        {
            "name": string(),
            **NETWORK_FIELDS,
            "gateway": string("The host that it connects to."),
            "address": string("Its own address."),
            "prefix": string("Its /120."),
            "public_key": string(),
            "created": string("RFC 3339, UTC."),
        }
    ),
    "WireguardCreate": obj(
        {"name": string(), "org": string()},
        {
            "network": string("Default: default."),
            "gateway": string("A host; default: the one that is asked."),
            "public_key": string("Of the user's own key pair; one is made when left out."),
        },
    ),
    "WireguardCreated": obj(
        {
            "peer": ref("WireguardPeer"),
            "config": string("For the user's computer, with the private key if one was made."),
        }
    ),
    "WireguardStatus": obj(
        {
            "peer": ref("WireguardPeer"),
            "known": boolean("The host asked is its gateway and has set it up."),
            "endpoint": string("address:port of its last packet; or empty."),
            "handshake": string("The last one, RFC 3339, UTC; or empty."),
            "received": integer("Bytes from it."),
            "sent": integer("Bytes to it."),
        }
    ),
}
