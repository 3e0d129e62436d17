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

    def ready_generation(self, connected: Set[tuple[str, str]]) -> int:
        """The newest generation that this host can send with at once: its device
        is in place, and ``connected``, device and host, with all hosts that are
        there. A first handshake may take seconds, longer than packets can wait."""
        good = (
            row.generation
            for row in self.meshes
            if row.interface not in self.failed and self._waits(row.interface) <= connected
        )
        return max(good, default=-1)

    def _waits(self, interface: str) -> Set[tuple[str, str]]:
        """The sessions that a device is to have."""
        return {
            (row.interface, row.host)
            for row in self.peers
            if row.interface == interface and row.public_key and row.host in self.present
        }


def generations(host: Host) -> set[int]:
    """Those that a host has published a key of."""
    return {int(name) for name in host.keys if name.isdecimal()}


@dataclass(slots=True)
class Rotation:
    """One host's part. What it remembers is found out again after a restart."""

    host: str
    _published: dict[int, int] = field(default_factory=dict)  # generation → revision
    _sending: dict[int, int] = field(default_factory=dict)

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
        """Whether every host that has a key of this generation sends with it: it
        has applied a state in which that is the cluster's."""
        since = self._sending.setdefault(generation, view.revision)
        having = [name for name, host in view.meshed.items() if generation in generations(host)]
        return self.host in having and all(
            name in view.statuses and view.statuses[name].applied_revision >= since
            for name in having
        )

    def may_switch(self, view: View) -> bool:
        """Whether all hosts can send with the next generation: they have
        published it, and know each other by it."""
        following = view.cluster.next_generation
        hosts = view.meshed
        if not view.rotating or not hosts:
            return False
        if any(following not in generations(host) for host in hosts.values()):
            self._published.pop(following, None)
            return False
        since = self._published.setdefault(following, view.revision)
        statuses = [view.statuses.get(name) for name in hosts]
        return all(status and is_ready(status, following, since) for status in statuses)


def is_ready(status: HostStatus, generation: int, since: int) -> bool:
    return status.ready_generation >= generation and status.applied_revision >= since
