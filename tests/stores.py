# SPDX-License-Identifier: Apache-2.0
"""A store with a small region in it, for tests of operations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flyebpf.config import DaemonConfig, PoolsConfig, PrivateConfig, ProxyConfig
from flyebpf.model.records import PEERS_KEY, Host, Presence
from flyebpf.ops import apps, certificates, cluster, orgs
from flyebpf.ops.transact import Tx, transact
from flyebpf.store.base import Store
from flyebpf.store.sqlite import SqliteStore
from tests.pki import chain


def config(
    *,
    pool: str = "203.0.113.0/24",
    shared: str = "",
    block: str = "172.16.0.0/20",
    host: str = "h1",
    engine: str = "none",
) -> DaemonConfig:
    return DaemonConfig(
        host=host,
        region="ams",
        uplinks=("eth0",),
        pools=PoolsConfig(
            anycast_v4=(pool,) if pool else (), shared_v4=(shared,) if shared else ()
        ),
        proxy=ProxyConfig(engine),
        private=PrivateConfig(block=block),
    )


@contextmanager
def region(folder: Path, of: DaemonConfig | None = None) -> Iterator[SqliteStore]:
    """Host h1, organization acme, its apps web and db."""
    store = SqliteStore(folder / "state.db", durable=False)
    cluster.ensure(store, of or config())
    orgs.create(store, "acme")
    apps.create(store, "web", "acme")
    apps.create(store, "db", "acme", network="back")
    yield store
    store.close()


def add_operators_certificate(store: Store) -> None:
    """For the default host names of all apps."""
    name = f"*.{config().domain}"
    chain_pem, key_pem = chain(name)
    certificates.add(store, config(), name, None, chain=chain_pem, key=key_pem)


GATEWAY_KEY = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="


def add_host(store: Store, number: int, *, present: bool = True) -> Host:
    """Host h<number>, with a mesh and a device for users' peers."""
    keys = {"0": GATEWAY_KEY, PEERS_KEY: GATEWAY_KEY}
    wanted = Host(
        f"h{number}",
        0,
        f"r{number}",
        f"172.16.{16 * number}.0/20",
        "wireguard",
        f"192.0.2.{number}",
        51820,
        keys,
    )

    def action(tx: Tx) -> Host:
        if present:
            tx.put(Presence(wanted.name))
        return cluster.register(tx, wanted)[1]

    return transact(store, action)
