# SPDX-License-Identifier: Apache-2.0
"""Private networks. A network's number is bound to (organization, name) at its
first use, for ever: it outlives the network's last app and is never reused."""

from __future__ import annotations

from dataclasses import replace

from flyebpf.errors import ExhaustedError
from flyebpf.model import names
from flyebpf.model.records import Network, Organization
from flyebpf.model.sixpn import HOST_BIT
from flyebpf.ops.cluster import require_cluster
from flyebpf.ops.transact import Tx, every, find, transact
from flyebpf.store.base import Store


def ensure(store: Store, org: str, name: str) -> Network:
    """The network of that name in ``org``, with a number from now on.

    Raises NotFoundError when there is no such organization.
    """
    org, name = names.org_name(org), names.network_name(name)

    def action(tx: Tx) -> Network:
        tx.require(Organization, org)
        return bind(tx, org, name)

    return transact(store, action)


def bind(tx: Tx, org: str, name: str) -> Network:
    """The network, made in this transaction if it is the first use of its name."""
    network = tx.get(Network, f"{org}/{name}")
    if network is not None:
        return network
    cluster = require_cluster(tx)
    if cluster.next_network >= HOST_BIT:
        raise ExhaustedError(
            f"cannot create network {org}/{name}: all 2^31 network numbers have been used",
            "use a network that exists; `flyebpf networks list` shows them",
        )
    network = Network(org, name, cluster.next_network)
    tx.put(network)
    tx.put(replace(cluster, next_network=cluster.next_network + 1))
    return network


def list_all(store: Store, org: str | None = None) -> list[Network]:
    """All networks, or an organization's; NotFoundError if there is no such one."""
    if org is None:
        return every(store, Network)
    return every(store, Network, org=find(store, Organization, names.org_name(org)).name)
