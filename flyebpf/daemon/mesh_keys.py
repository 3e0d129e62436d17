# SPDX-License-Identifier: Apache-2.0
"""This host's keys: made, published, and taken back."""

from __future__ import annotations

import logging
from dataclasses import replace

from flyebpf.config import MeshConfig
from flyebpf.daemon.mesh_rotation import WIREGUARD, Rotation, View
from flyebpf.drivers.wireguard_keys import Keys
from flyebpf.model.records import PEERS_KEY, Cluster, Host
from flyebpf.ops.transact import Tx, transact
from flyebpf.store.base import Store

log = logging.getLogger(__name__)


def published(keys: Keys, mesh: MeshConfig, generations: set[int]) -> dict[str, str]:
    """What the host's record is to say. Makes the keys that are not there."""
    names: list[int | str] = sorted(generations) if mesh.underlay == WIREGUARD else []
    if mesh.endpoint:
        names.append(PEERS_KEY)
    return {str(name): keys.public(name) for name in names}


def publish(store: Store, host: str, wanted: dict[str, str]) -> None:
    """Write the host's keys, if they are others. Raises FlyebpfError."""

    def action(tx: Tx) -> bool:
        record = tx.get(Host, host)
        if record is None or record.keys == wanted:
            return False
        tx.put(replace(record, keys=wanted))
        return True

    if transact(store, action):
        log.info("published this host's keys: %s", ", ".join(wanted) or "none")


def publish_first(store: Store, config: MeshConfig, keys: Keys, host: Host) -> None:
    """At the start: what must be there for this host to be in the mesh at all.
    Keys that a rotation is about are left to it."""
    cluster = transact(store, lambda tx: tx.get(Cluster, "cluster"))
    if cluster is not None:
        kept = {key: value for key, value in host.keys.items() if key.isdecimal()}
        if config.underlay != WIREGUARD:
            kept = {}
        first = published(keys, config, {cluster.mesh_generation})
        own = {key: keys.public(int(key)) for key in kept}
        publish(store, host.name, own | first)


def step(store: Store, config: MeshConfig, keys: Keys, rotation: Rotation, view: View) -> None:
    """Publish what is to be published now, and forget what nobody needs."""
    host = view.hosts.get(rotation.host)
    if host is None:
        return
    wanted = published(keys, config, rotation.wanted_keys(view))
    if wanted != host.keys:
        publish(store, host.name, wanted)
    needed = {int(name) for name in (*host.keys, *wanted) if name.isdecimal()}
    needed |= {row.generation for row in view.meshes}
    for generation in keys.generations() - needed:
        if generation < view.cluster.mesh_generation:
            keys.remove(generation)
            log.info("removed the key of generation %d", generation)


def switch(store: Store, following: int) -> None:
    """Let all hosts send with the next generation, unless that has changed."""

    def action(tx: Tx) -> bool:
        cluster = tx.get(Cluster, "cluster")
        if cluster is None or cluster.next_generation != following:
            return False
        if cluster.mesh_generation == following:
            return False
        tx.put(replace(cluster, mesh_generation=following))
        return True

    if transact(store, action):
        log.info("all hosts have keys of generation %d: they send with them from now on", following)
