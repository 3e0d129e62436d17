# SPDX-License-Identifier: Apache-2.0
"""What this host's devices know of other hosts and of users, and what the host
says about itself."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from flyebpf.api.backend import MeshDevice, MeshPeer, MeshStatus, PeerStatus
from flyebpf.daemon.mesh_rotation import View
from flyebpf.drivers.netlink_wireguard import refused
from flyebpf.drivers.wireguard import SESSION_LIFE, Device
from flyebpf.drivers.wireguard_devices import WireguardReader
from flyebpf.errors import FlyebpfError
from flyebpf.model.records import MOST_UNCONNECTED, HostStatus
from flyebpf.model.rows import MeshPeerRow


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at the devices, by name; those that could not be read are
    absent. ``implementation``: "kernel", "wireguard-go" or "". ``refused``: packets
    that were not of their peer, where that is counted."""

    implementation: str
    devices: Mapping[str, Device]
    refused: Mapping[str, int] = field(default_factory=dict)


def look(reader: WireguardReader, names: Iterable[str]) -> Seen:
    implementation = ""
    devices = {}
    for name in names:
        found = reader.implementation(name)
        if found:
            implementation = found
            try:
                devices[name] = reader.read(name)
            except FlyebpfError:
                continue  # it went meanwhile; the reconciler says why
    counts = {name: refused(name) for name in devices} if implementation == "kernel" else {}
    return Seen(implementation, devices, {n: c for n, c in counts.items() if c is not None})


def text(moment: float) -> str:
    """RFC 3339, UTC; "" for never."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else ""


def handshakes(view: View, seen: Seen) -> dict[str, float]:
    """Host to its last handshake on any device, Unix time, 0 for never."""
    found: dict[str, float] = {}
    for row in view.peers:
        device = seen.devices.get(row.interface)
        peer = device.peers.get(row.public_key) if device else None
        if row.public_key:
            found[row.host] = max(found.get(row.host, 0.0), peer.handshake if peer else 0.0)
    return found


def alive(handshakes: Mapping[str, float]) -> frozenset[str]:
    """The hosts with which there is a session."""
    oldest = time.time() - SESSION_LIFE
    return frozenset(name for name, at in handshakes.items() if at > oldest)


def connected(view: View, seen: Seen) -> set[tuple[str, str]]:
    """Device and host, where there is a session."""
    oldest = time.time() - SESSION_LIFE
    found = set()
    for row in view.peers:
        device = seen.devices.get(row.interface)
        peer = device.peers.get(row.public_key) if device else None
        if peer and peer.handshake > oldest:
            found.add((row.interface, row.host))
    return found


def host_status(host: str, view: View, seen: Seen, *, version: str, programs: str) -> HostStatus:
    found = handshakes(view, seen)
    apart = sorted(found.keys() - alive(found), key=lambda name: (name not in view.present, name))
    return HostStatus(
        host=host,
        seen=text(time.time()),
        version=version,
        programs=programs,
        kernel=os.uname().release,
        wireguard=seen.implementation,
        applied_revision=view.revision,
        ready_generation=view.ready_generation(connected(view, seen)),
        connected=len(found) - len(apart),
        unconnected=len(apart),
        peers={name: text(found[name]) for name in sorted(apart[:MOST_UNCONNECTED])},
        mtu=max((row.mtu for row in view.meshes), default=0),
    )


def signature(view: View, seen: Seen) -> tuple[object, ...]:
    """What of the status is worth telling at once: who is connected, and how far
    new keys are."""
    known = frozenset((row.interface, row.host) for row in view.peers)
    ready = view.ready_generation(connected(view, seen))
    keys = (view.cluster.mesh_generation, view.cluster.next_generation, ready)
    return alive(handshakes(view, seen)), known if view.rotating else (), keys


def mesh_status(view: View, seen: Seen, rtt: Mapping[str, float]) -> MeshStatus:
    """For ``status`` and the metrics."""
    return MeshStatus(
        generation=view.cluster.mesh_generation,
        next_generation=view.cluster.next_generation,
        devices=[
            MeshDevice(
                row.interface,
                seen.implementation if row.underlay == "wireguard" else row.underlay,
                row.generation,
                row.port,
                seen.refused.get(row.interface),
            )
            for row in view.meshes
        ],
        peers=[mesh_peer(row, view, seen, rtt.get(row.host)) for row in view.peers],
    )


def mesh_peer(row: MeshPeerRow, view: View, seen: Seen, rtt: float | None) -> MeshPeer:
    device = seen.devices.get(row.interface)
    peer = device.peers.get(row.public_key) if device else None
    return MeshPeer(
        host=row.host,
        interface=row.interface,
        present=row.host in view.present,
        endpoint=peer.endpoint if peer else row.endpoint,
        handshake_age=time.time() - peer.handshake if peer and peer.handshake else None,
        received=peer.received if peer else 0,
        sent=peer.sent if peer else 0,
        rtt=rtt,
    )


def user_peers(device: Device) -> dict[str, PeerStatus]:
    """By public key."""
    return {
        key: PeerStatus(peer.endpoint, text(peer.handshake), peer.received, peer.sent)
        for key, peer in device.peers.items()
    }
