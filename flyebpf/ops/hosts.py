# SPDX-License-Identifier: Apache-2.0
"""The hosts of the cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from flyebpf.config import DaemonConfig
from flyebpf.errors import ConflictError
from flyebpf.model import names
from flyebpf.model.records import (
    Host,
    HostStatus,
    Latency,
    Load,
    Machine,
    Pool,
    Presence,
    WireguardPeer,
)
from flyebpf.ops import machines, private, wireguard
from flyebpf.ops.transact import Tx, every, find, transact
from flyebpf.store.base import Store

Occupants = Mapping[str, tuple[int, int]]
"""Hosts to how many machines and users' peers each has."""

NOBODY = (0, 0)
_NAMED_IN_ERROR = 5


@dataclass(frozen=True, slots=True)
class HostView:
    """A host with what is known of it. ``present``: its daemon is there.
    ``machines`` and ``peers`` (users' WireGuard peers) are counted."""

    host: Host
    status: HostStatus | None
    present: bool
    machines: int
    peers: int


@dataclass(frozen=True, slots=True)
class Removed:
    """What was removed, the host's machines and users' peers included."""

    host: Host
    machines: tuple[Machine, ...]
    peers: tuple[WireguardPeer, ...]


def list_all(store: Store, occupants: Occupants | None = None) -> list[HostView]:
    """All hosts, by name. Without ``occupants`` every machine is read to count
    them, which takes seconds where there are many."""
    statuses = {status.host: status for status in every(store, HostStatus)}
    present = {record.host for record in every(store, Presence)}
    if occupants is None:
        occupants = count_occupants(store)
    return [
        HostView(
            host,
            statuses.get(host.name),
            host.name in present,
            *occupants.get(host.name, NOBODY),
        )
        for host in every(store, Host)
    ]


def get(store: Store, name: str, occupants: Occupants | None = None) -> HostView:
    """One host, as :func:`list_all`; NotFoundError if there is none of that name."""
    host = find(store, Host, names.host_name(name))
    tx = Tx(store)
    if occupants is None:
        occupants = count_occupants(store)
    return HostView(
        host,
        tx.get(HostStatus, host.name),
        tx.get(Presence, host.name) is not None,
        *occupants.get(host.name, NOBODY),
    )


def count_occupants(store: Store) -> Occupants:
    """Machines and users' peers of each host that has any."""
    of_machines, of_peers = _count(store, Machine.kind), _count(store, WireguardPeer.kind)
    return {name: (of_machines[name], of_peers[name]) for name in of_machines | of_peers}


def set_drained(store: Store, name: str, drained: bool) -> None:
    """Give the host's machines no new flows and leave them out of answers
    (True), or undo that. Flows that there are go on."""
    ident = names.host_name(name)

    def action(tx: Tx) -> None:
        host = tx.require(Host, ident)
        if host.drained != drained:
            tx.put(replace(host, drained=drained))

    transact(store, action)


def remove(store: Store, config: DaemonConfig, name: str, *, force: bool = False) -> Removed:
    """Forget a host that is gone for good. Its number is never used again.

    ConflictError for this host, and, unless ``force``, for one whose daemon is
    there, or that has machines or is the gateway of users' peers. With ``force``
    those are removed first, one after the other: when it fails in between, what
    was removed stays removed and it can be run again.
    """
    ident = names.host_name(name)
    host = find(store, Host, ident)
    if ident == config.host:
        raise ConflictError(
            f"host {ident!r} is the one that was asked, and still needed",
            "ask the daemon of another host",
        )
    gone = (_machines(store, ident), _peers(store, ident)) if force else ([], [])
    for machine in gone[0]:
        machines.remove(store, machine.id)
    for peer in gone[1]:
        wireguard.remove(store, peer.org, peer.name)

    def action(tx: Tx) -> Host:
        host = tx.require(Host, ident)
        # Whoever adds a machine or a peer writes its pool, and starts again
        # when the host is gone; this one does when one has been added.
        tx.get(Pool, private.pool_name(ident))
        tx.get(Pool, wireguard.pool_name(ident))
        _refuse(tx.store, host, force)
        for kind in (Host, HostStatus, Presence, Latency, Load):
            tx.delete(kind, ident)
        return host

    host = transact(store, action)
    return Removed(host, tuple(gone[0]), tuple(gone[1]))


def _count(store: Store, kind: str) -> Counter[str]:
    """How many records of a kind name each host; they need not be decoded."""
    return Counter(str(entry.body.get("host")) for entry in store.list(kind))


def _machines(store: Store, host: str) -> list[Machine]:
    return every(store, Machine, host=host)


def _peers(store: Store, host: str) -> list[WireguardPeer]:
    return every(store, WireguardPeer, host=host)


def _refuse(store: Store, host: Host, force: bool) -> None:
    """Raise ConflictError where the host cannot be removed."""
    if not force and store.get(Presence.kind, host.name) is not None:
        raise ConflictError(
            f"the daemon of host {host.name!r} is running, and would register it anew",
            "stop it first (`systemctl disable --now flyebpf` there), or use --force",
        )
    left = [f"machine {machine.id}" for machine in _machines(store, host.name)]
    left += [f"WireGuard peer {peer.ident}" for peer in _peers(store, host.name)]
    if left:
        shown = ", ".join(left[:_NAMED_IN_ERROR])
        more = len(left) - _NAMED_IN_ERROR
        raise ConflictError(
            f"host {host.name!r} still has {shown}{f' and {more} more' if more > 0 else ''}",
            f"move the machines away (`flyebpf machines move ID --host HOST --interface DEV`) and "
            f"remove the peers, or remove all of it: `flyebpf hosts remove {host.name} --force`",
        )
