# SPDX-License-Identifier: Apache-2.0
"""A store with a small region in it, for tests of operations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flyebpf.config import DaemonConfig, PoolsConfig, PrivateConfig
from flyebpf.ops import apps, cluster, orgs
from flyebpf.store.sqlite import SqliteStore


def config(
    *, pool: str = "203.0.113.0/24", block: str = "172.16.0.0/20", host: str = "h1"
) -> DaemonConfig:
    return DaemonConfig(
        host=host,
        region="ams",
        uplinks=("eth0",),
        pools=PoolsConfig(anycast_v4=(pool,) if pool else ()),
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
