# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flyebpf.errors import ConflictError, UnavailableError
from flyebpf.model.records import Cluster, Host, HostStatus
from flyebpf.ops import rotation
from flyebpf.ops.rotation import Rotation
from flyebpf.ops.transact import Tx, find, transact
from flyebpf.store.sqlite import SqliteStore
from tests.stores import add_host, region


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """h2 and h3 are there, h4 is away; h1 has no mesh."""
    with region(tmp_path) as store:
        add_host(store, 2)
        add_host(store, 3)
        add_host(store, 4, present=False)
        yield store


def publish(store: SqliteStore, name: str, generation: int) -> None:
    def action(tx: Tx) -> None:
        host = tx.require(Host, name)
        tx.put(replace(host, keys={**host.keys, str(generation): "key"}))

    transact(store, action)


def ready(store: SqliteStore, name: str, generation: int) -> None:
    """It has published the key, and says that all is in place."""
    publish(store, name, generation)
    transact(store, lambda tx: tx.put(HostStatus(name, "", ready_generation=generation)))


def test_nothing_is_going_on_at_first(store: SqliteStore) -> None:
    status = rotation.status(store)
    assert status == Rotation(0, 0, (), ())
    assert not status.running


def test_start_says_who_is_waited_for(store: SqliteStore) -> None:
    assert rotation.start(store) == Rotation(0, 1, ("h2", "h3"), ("h4",))
    assert find(store, Cluster, "cluster").next_generation == 1
    ready(store, "h2", 1)
    assert rotation.status(store) == Rotation(0, 1, ("h3",), ("h4",))
    publish(store, "h3", 1)
    ready(store, "h4", 1)
    assert rotation.status(store) == Rotation(0, 1, ("h3",), ("h4",)), "none of them is done"


def test_one_at_a_time(store: SqliteStore) -> None:
    rotation.start(store)
    before = store.revision()
    with pytest.raises(ConflictError, match=r"to generation 1; not ready: h2, h3, h4 \(away\)"):
        rotation.start(store)
    assert store.revision() == before


def test_finish_without_those_that_are_away(store: SqliteStore) -> None:
    rotation.start(store)
    ready(store, "h2", 1)
    with pytest.raises(ConflictError, match="host h3 is there and not ready"):
        rotation.finish(store)
    publish(store, "h3", 1)
    with pytest.raises(ConflictError, match="host h3 is there and not ready") as refused:
        rotation.finish(store)
    assert "hosts remove h4" in refused.value.remedy, "all may be waiting for that one"
    ready(store, "h3", 1)
    assert rotation.finish(store) == Rotation(1, 1, (), ("h4",))
    assert find(store, Cluster, "cluster").mesh_generation == 1
    assert rotation.status(store) == Rotation(1, 1, (), ("h4",))
    assert rotation.start(store).next == 2


def test_there_is_nothing_to_finish(store: SqliteStore) -> None:
    with pytest.raises(ConflictError, match="no rotation of keys is going on"):
        rotation.finish(store)


def test_a_host_without_a_mesh_has_no_keys(tmp_path: Path) -> None:
    with region(tmp_path) as store, pytest.raises(UnavailableError, match="no host has WireGuard"):
        rotation.start(store)
