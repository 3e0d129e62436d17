# SPDX-License-Identifier: Apache-2.0
"""When the keys of the mesh may change hands: decisions, without I/O.

A generation of keys comes in by steps, each of which every host takes for itself:
it publishes its key, and has a device for it; when all have each other's, one of
them lets all send with it; when all do, each takes its old key back, and the old
device goes. Until then packets are accepted under both.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from flyebpf.model.records import Cluster, Host, HostStatus
from flyebpf.model.rows import MeshPeerRow, MeshRow

WIREGUARD = "wireguard"
GRACE = 60.0
"""Seconds that hosts which are away, restarting perhaps, are waited for."""


@dataclass(frozen=True, slots=True)
class View:
    """What this host knows at one moment: the store's records at the revision
    that its kernel holds, and its own rows. ``present``: hosts that are there.
    ``failed``: mesh devices that are not as they should be, or a peer of theirs."""

    revision: int
    cluster: Cluster
    hosts: Mapping[str, Host]
    statuses: Mapping[str, HostStatus]
    present: Set[str]
    meshes: tuple[MeshRow, ...] = ()
    peers: tuple[MeshPeerRow, ...] = ()
    failed: Set[str] = frozenset()

    @property
    def meshed(self) -> dict[str, Host]:
        """The hosts with keys, by name."""
        return {name: host for name, host in self.hosts.items() if host.underlay == WIREGUARD}

    @property
    def rotating(self) -> bool:
        return self.cluster.next_generation != self.cluster.mesh_generation

    def ready_generation(self) -> int:
        """The newest generation of which this host has everything in place."""
        good = (row.generation for row in self.meshes if row.interface not in self.failed)
        return max(good, default=-1)


def generations(host: Host) -> set[int]:
    """Those that a host has published a key of."""
    return {int(name) for name in host.keys if name.isdecimal()}


@dataclass(slots=True)
class Rotation:
    """One host's part. What it remembers is found out again after a restart."""

    host: str
    _published: dict[int, int] = field(default_factory=dict)  # generation → revision
    _sending: dict[int, int] = field(default_factory=dict)
    _ready_since: dict[int, float] = field(default_factory=dict)

    def wanted_keys(self, view: View) -> set[int]:
        """The generations that this host is to have published now.

        The next one shares its device with the one before the current: not
        before that is gone.
        """
        current = view.cluster.mesh_generation
        have = generations(view.hosts[self.host])
        old = {g for g in have if g < current and not self._all_send(view, current)}
        wanted = {current, *sorted(old)[-1:]}
        if view.rotating and not old:
            wanted.add(view.cluster.next_generation)
        return wanted

    def _all_send(self, view: View, generation: int) -> bool:
        """Whether every host that is there sends with this generation: it has
        applied a state in which that is the cluster's."""
        since = self._sending.setdefault(generation, view.revision)
        return self.host in view.present and all(
            name in view.statuses and view.statuses[name].applied_revision >= since
            for name in view.meshed
            if name in view.present
        )

    def may_switch(self, view: View, now: float) -> bool:
        """Whether all hosts can send with the next generation: those that are
        there have published it and know each other by it; those that are away
        have too, or have had their time. ``now``: seconds, monotonic."""
        following = view.cluster.next_generation
        if not view.rotating or not view.meshed:
            return False
        lacking = {n for n, host in view.meshed.items() if following not in generations(host)}
        here = view.meshed.keys() & view.present
        if not here or lacking & here:
            self._published.pop(following, None)
            self._ready_since.pop(following, None)
            return False
        since = self._published.setdefault(following, view.revision)
        statuses = [view.statuses.get(name) for name in here]
        if not all(s and is_ready(s, following, since) for s in statuses):
            return False
        ready = self._ready_since.setdefault(following, now)
        return not view.meshed.keys() - view.present or now - ready >= GRACE


def is_ready(status: HostStatus, generation: int, since: int) -> bool:
    return status.ready_generation >= generation and status.applied_revision >= since
