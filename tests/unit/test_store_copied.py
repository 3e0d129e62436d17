# SPDX-License-Identifier: Apache-2.0
"""A start while etcd is away: from the copy, and on to etcd when it comes."""

from __future__ import annotations

import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flyebpf.store.base import (
    CompactedError,
    Delete,
    Entry,
    Extent,
    Put,
    StoreUnavailableError,
    Transaction,
)
from flyebpf.store.copied import CopiedStore
from flyebpf.store.etcd import EtcdStore
from flyebpf.store.sqlitecopy import Copy
from tests.etcdrig import EtcdCluster, etcd, free_ports

Open = Callable[[], CopiedStore]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[EtcdCluster]:
    with etcd(tmp_path) as running:
        yield running


@pytest.fixture
def open_store(cluster: EtcdCluster, tmp_path: Path) -> Iterator[Open]:
    opened: list[CopiedStore] = []

    def make() -> CopiedStore:
        copy = Copy(tmp_path / "copy.db", "/flyebpf/")
        opened.append(CopiedStore(EtcdStore(cluster.config(timeout=2), client="h1"), copy))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


def put(store: CopiedStore, name: str, value: int = 0) -> int:
    return store.commit(Transaction(writes=(Put("thing", name, {"value": value}),)))


def everything(store: CopiedStore) -> tuple[int, list[Entry]]:
    revision, entries = store.snapshot()
    return revision, list(entries)


def test_extents_are_known_without_etcd(cluster: EtcdCluster, open_store: Open) -> None:
    store = open_store()
    put(store, "a")
    newest = put(store, "b")
    everything(store)
    wanted = {"thing": Extent(2, newest), "org": Extent()}
    assert store.extents(["thing", "org"]) == wanted
    store.close()
    cluster.end()
    again = open_store()
    assert again.extents(["thing", "org"]) == wanted
    remembered = again.remembered()
    assert remembered is not None
    assert remembered.extents(["thing", "org"]) == wanted


@pytest.mark.parametrize("meanwhile", [True, False], ids=["written meanwhile", "untouched"])
def test_a_start_without_etcd(
    cluster: EtcdCluster, open_store: Open, tmp_path: Path, meanwhile: bool
) -> None:
    first = open_store()
    put(first, "a")
    revision, _ = everything(first)
    put(first, "b", 1)
    put(first, "b", 2)
    first.commit(Transaction(writes=(Delete("thing", "a"), Put("other", "c", {}))))
    last = first.changes(revision)[-1].revision
    held = everything(first)[1]
    first.close()
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    cluster.end()

    second = open_store()
    assert second.from_copy()
    assert everything(second) == (last, held)
    assert second.revision() == last
    assert second.get("thing", "b") == held[1]
    assert second.get("thing", "a") is None
    assert second.list("thing") == [held[1]]
    assert second.changes(last) == []
    with pytest.raises(StoreUnavailableError):
        put(second, "d")

    if meanwhile:
        write_elsewhere(cluster)
    cluster.start()
    cluster.wait()
    deadline = time.monotonic() + 20
    while second.from_copy():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert second.wait(last, 1) == meanwhile
    if meanwhile:
        with pytest.raises(CompactedError):
            second.changes(last)
    else:
        assert second.changes(last) == []
    put(second, "d")
    assert [entry.id for entry in everything(second)[1]] == ["c", "b", "d"]


def write_elsewhere(cluster: EtcdCluster) -> None:
    """By another client, while the member is at a port that only it knows."""
    (member,) = cluster.members
    usual = member.client
    member.client = f"http://127.0.0.1:{free_ports(1)[0]}"
    cluster.start()
    cluster.wait()
    other = EtcdStore(cluster.config())
    other.commit(Transaction(writes=(Put("other", "c", {}),)))
    other.close()
    cluster.end()
    member.client = usual


def test_without_a_copy_nothing_is_made_up(cluster: EtcdCluster, open_store: Open) -> None:
    cluster.end()
    store = open_store()
    for read in (store.revision, store.snapshot, lambda: store.get("thing", "a")):
        with pytest.raises(StoreUnavailableError, match="etcd is away"):
            read()


def test_others_that_follow_the_changes_do_not_stop_the_copy(
    open_store: Open, tmp_path: Path
) -> None:
    store = open_store()
    begun, _ = everything(store)
    put(store, "a")
    put(store, "b")
    store.changes(begun, 1)  # as a client that watches events asks, a step ahead of the daemon
    store.changes(begun)
    last = put(store, "c")
    store.changes(last - 1)
    copy = Copy(tmp_path / "copy.db", "/flyebpf/")
    assert copy.revision() == last
    assert [entry.id for entry in copy.list()] == ["a", "b", "c"]
    copy.close()


def test_a_snapshot_that_is_not_read_to_its_end_leaves_the_copy(
    open_store: Open, tmp_path: Path
) -> None:
    store = open_store()
    put(store, "a")
    revision, _ = everything(store)
    put(store, "b")
    _, entries = store.snapshot()
    next(entries)
    del entries
    copy = Copy(tmp_path / "copy.db", "/flyebpf/")
    assert copy.revision() == revision
    assert [entry.id for entry in copy.list()] == ["a"]
    copy.close()


@pytest.mark.parametrize("damage", ["garbage", "source", "folder"])
def test_a_copy_of_no_use_is_thrown_away(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "copy.db"
    source = "/flyebpf/"
    made = Copy(path, source)
    assert list(made.replaced(7, [Entry("thing", "a", {}, 5)]))
    made.close()
    if damage == "garbage":
        path.write_bytes(b"garbage" * 1000)
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        source = "/another/"
    copy = Copy(path, source)
    assert copy.revision() is None
    assert list(copy.list()) == []
    again = list(copy.replaced(9, [Entry("thing", "b", {}, 8)]))
    assert [entry.id for entry in again] == ["b"], "the snapshot itself is not harmed"
    assert copy.revision() == (None if damage == "folder" else 9)
    copy.close()


def test_a_full_disk_costs_only_the_copy(tmp_path: Path) -> None:
    copy = Copy(tmp_path / "copy.db", "/flyebpf/")
    assert copy._connection is not None
    copy._connection.execute("PRAGMA max_page_count = 6")
    many = [Entry("thing", f"{n:05}", {"text": "x" * 500}, 1) for n in range(2000)]
    assert len(list(copy.replaced(1, many))) == len(many)
    assert copy.revision() is None
    copy.close()
    with pytest.raises(sqlite3.OperationalError):
        sqlite3.connect(f"file:{tmp_path}/copy.db?mode=ro", uri=True).execute("SELECT 1")
