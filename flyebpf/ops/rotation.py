# SPDX-License-Identifier: Apache-2.0
"""New keys for the mesh, all hosts together, without loss.

Keys have generations. While the next one is being brought up, hosts accept
packets under both; when every host has the next one, all send with it. The
hosts' daemons do the work and end it; here it is started, watched, and ended
without hosts that do not come back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from flyebpf.errors import ConflictError, UnavailableError
from flyebpf.model.records import Cluster, Host, HostStatus, Presence
from flyebpf.ops.cluster import require_cluster
from flyebpf.ops.transact import Tx, every, transact
from flyebpf.store.base import Store

_MESHED = "wireguard"


@dataclass(frozen=True, slots=True)
class Rotation:
    """``generation`` is the one that hosts send with; ``next`` is another one
    while keys are being rotated. ``waiting``: hosts that are there and are not
    ready for the next key; ``away``: those that are not there, and may have all
    others wait."""

    generation: int
    next: int
    waiting: tuple[str, ...]
    away: tuple[str, ...]

    @property
    def running(self) -> bool:
        return self.next != self.generation


def status(store: Store) -> Rotation:
    """How far it is."""
    return _look(Tx(store))


def start(store: Store) -> Rotation:
    """Begin. ConflictError while it is going on; UnavailableError where no host
    has keys at all."""

    def action(tx: Tx) -> Rotation:
        cluster = require_cluster(tx)
        if cluster.next_generation != cluster.mesh_generation:
            look = _look(tx)
            raise ConflictError(
                f"keys are being rotated already, to generation {cluster.next_generation}"
                f"{_lacking(look)}",
                "`flyebpf hosts rotate-keys --status` shows how far it is; --force ends it "
                "without hosts that are away",
            )
        if not _meshed(tx.store):
            raise UnavailableError(
                "no host has WireGuard keys to rotate",
                'they are those of hosts with mesh.underlay = "wireguard"',
            )
        tx.put(replace(cluster, next_generation=cluster.mesh_generation + 1))
        return _look(tx)

    return transact(store, action)


def finish(store: Store) -> Rotation:
    """Send with the next generation from now on, without hosts that are away:
    they get into the mesh again when they are back and have published their key.

    ConflictError when nothing is going on, or a host that is there is not ready:
    it would be cut off.
    """

    def action(tx: Tx) -> Rotation:
        cluster = require_cluster(tx)
        look = _look(tx)
        if not look.running:
            raise ConflictError(
                f"no rotation of keys is going on; generation {look.generation} is in use",
                "`flyebpf hosts rotate-keys` starts one",
            )
        if look.waiting:
            raise ConflictError(
                f"host {', '.join(look.waiting)} is there and not ready for the key of "
                f"generation {look.next} yet",
                f"wait for it, or look at `flyebpf status` there{_held_up(look)}",
            )
        tx.put(replace(cluster, mesh_generation=cluster.next_generation))
        return replace(look, generation=look.next)

    return transact(store, action)


def _look(tx: Tx) -> Rotation:
    cluster: Cluster = require_cluster(tx)
    generation, following = cluster.mesh_generation, cluster.next_generation
    present = {record.host for record in every(tx.store, Presence)}
    states = {status.host: status.ready_generation for status in every(tx.store, HostStatus)}
    waiting: list[str] = []
    away: list[str] = []
    for host in _meshed(tx.store):
        lacks = str(following) not in host.keys
        if following != generation:
            lacks |= states.get(host.name, -1) < following or host.name not in present
        if lacks:
            (waiting if host.name in present else away).append(host.name)
    return Rotation(generation, following, tuple(waiting), tuple(away))


def _meshed(store: Store) -> list[Host]:
    return every(store, Host, underlay=_MESHED)


def _lacking(look: Rotation) -> str:
    names = [*look.waiting, *(f"{name} (away)" for name in look.away)]
    return f"; not ready: {', '.join(names)}" if names else ""


def _held_up(look: Rotation) -> str:
    """A host that is away may still send with the key before the present one,
    which the others then keep; its device is the one that the next key needs."""
    if not look.away:
        return ""
    return (
        f"; if all wait, it may be for {', '.join(look.away)}, which is away: start its daemon, "
        f"or remove it (`flyebpf hosts remove {look.away[0]}`)"
    )
