# SPDX-License-Identifier: Apache-2.0
"""The records that every host needs: the cluster's and its own."""

from __future__ import annotations

import secrets
from dataclasses import replace
from ipaddress import IPv4Network, ip_address

from flyebpf.config import DaemonConfig
from flyebpf.errors import ConflictError, ExhaustedError, UnavailableError
from flyebpf.model import names
from flyebpf.model.commands import commands_of
from flyebpf.model.fleet import block_of
from flyebpf.model.records import Cluster, Host, Machine, Network, Pool, Presence
from flyebpf.model.sixpn import HOST_BIT
from flyebpf.ops import private
from flyebpf.ops.transact import Tx, every, transact
from flyebpf.store.base import Store

_IDENT = "cluster"


def ensure(store: Store, config: DaemonConfig, identity: str = "") -> tuple[Cluster, Host]:
    """Create or update the cluster's and this host's records; nothing is
    written when they are right.

    Raises ConflictError when the host's private block overlaps another host's,
    or leaves out addresses that machines of this host have, or when its endpoint
    is another host's; UnavailableError when the cluster's record has been lost.
    ``identity``: of the machine that this runs on; also
    ConflictError when another one runs under the same name.
    """
    wanted = replace(host_of(config), identity=identity)
    return transact(store, lambda tx: register(tx, wanted))


def host_of(config: DaemonConfig) -> Host:
    """What a host's configuration says of it, without number and keys."""
    mesh = config.mesh
    return Host(
        names.host_name(config.host),
        0,
        names.region(config.region),
        config.private.block,
        underlay=mesh.underlay,
        endpoint=str(ip_address(mesh.endpoint)) if mesh.endpoint else "",
        port=mesh.port if mesh.endpoint else 0,
        users_endpoint=str(ip_address(mesh.users_endpoint)) if mesh.users_endpoint else "",
        commands=commands_of(config.machines),
    )


def register(tx: Tx, wanted: Host) -> tuple[Cluster, Host]:
    """Create or update a host's record in this transaction; see :func:`ensure`.

    ``wanted.number`` is not used: a new host gets a number that no host has ever
    had, one that is there keeps its own, and what operators said of it.
    """
    cluster = tx.get(Cluster, _IDENT) or _first_cluster(tx.store)
    have = tx.get(Host, wanted.name)
    if have is None:
        number, cluster = _next_host(cluster)
        host = replace(wanted, number=number)
    else:
        _check_identity(tx.store, have, wanted)
        host = replace(
            wanted,
            number=have.number,
            keys=wanted.keys or have.keys,
            drained=have.drained,
            identity=wanted.identity or have.identity,
        )
    if host != have:
        # Whoever gives out an address of the block writes its pool.
        tx.get(Pool, private.pool_name(host.name))
        _check_block(tx.store, host)
        _check_endpoint(tx.store, host)
        tx.put(host)
        tx.put(cluster)  # also unchanged: two hosts must not change blocks at once
    return cluster, host


def require_cluster(tx: Tx) -> Cluster:
    """The cluster's record; UnavailableError before the first daemon's start."""
    cluster = tx.get(Cluster, _IDENT)
    if cluster is None:
        raise UnavailableError(
            "the store has no cluster record", "start `flyebpf daemon`, which makes it"
        )
    return cluster


def require_host(tx: Tx, name: str) -> Host:
    """A host's record; UnavailableError before its daemon's first start."""
    host = tx.get(Host, name)
    if host is None:
        raise UnavailableError(
            f"host {name!r} is not registered", "start `flyebpf daemon` on it, which does that"
        )
    return host


def _first_cluster(store: Store) -> Cluster:
    """Its counters say which numbers were ever given out: they are begun anew only
    where nobody can have one. Raises UnavailableError."""
    for kind in (Host.kind, Network.kind, Machine.kind):
        entries = store.list(kind)
        # Unless another host was the first a moment ago: then the commit, which
        # depends on there being no record, is not made, and all is looked at anew.
        if entries and store.get(Cluster.kind, _IDENT) is None:
            raise UnavailableError(
                f"the store has no cluster record, but {kind} {entries[0].id!r}: numbers that "
                "are in use would be given out again",
                "restore the store from a copy, or start with an empty one",
            )
    return Cluster(seed=secrets.randbits(64))


def _next_host(cluster: Cluster) -> tuple[int, Cluster]:
    if cluster.next_host >= HOST_BIT:
        raise ExhaustedError(
            "all 2^31 host numbers have been used", "start a new cluster with an empty store"
        )
    number = HOST_BIT | cluster.next_host
    return number, replace(cluster, next_host=cluster.next_host + 1)


def _check_identity(store: Store, have: Host, wanted: Host) -> None:
    if not (have.identity and wanted.identity) or have.identity == wanted.identity:
        return
    if store.get(Presence.kind, have.name) is not None:
        raise ConflictError(
            f"another machine runs as host {have.name!r}"
            f"{f', at {have.endpoint}' if have.endpoint else ''}",
            "give this one a name of its own in its configuration; if the other one is gone, "
            "try again in a few seconds",
        )


def _check_block(store: Store, host: Host) -> None:
    block = IPv4Network(host.block)
    for other in every(store, Host):
        theirs = block_of(other)  # None in a record that nobody of us wrote
        if other.name != host.name and theirs is not None and block.overlaps(theirs):
            raise ConflictError(
                f"private.block {host.block} of host {host.name!r} overlaps "
                f"{other.block} of host {other.name!r}",
                "give each host a block of its own in its configuration",
            )
    for machine in every(store, Machine, host=host.name):
        for address in (machine.private_ip, machine.services_ip):
            if not _is_in(block, address):
                raise ConflictError(
                    f"private.block {host.block} of host {host.name!r} does not contain "
                    f"{address} of machine {machine.id}",
                    "set private.block back, or remove the machine first",
                )


def _is_in(block: IPv4Network, address: str) -> bool:
    try:
        return ip_address(address) in block
    except ValueError:
        return True  # the plan reports it, and nothing is delivered there


def _check_endpoint(store: Store, host: Host) -> None:
    for other in every(store, Host):
        if host.endpoint and other.name != host.name and host.endpoint == other.endpoint:
            raise ConflictError(
                f"mesh.endpoint {host.endpoint} of host {host.name!r} is that of host "
                f"{other.name!r}",
                "give each host its own address in its configuration, "
                f"or remove the other one: `flyebpf hosts remove {other.name}`",
            )
