# SPDX-License-Identifier: Apache-2.0
"""What every store does: one suite, run on each engine.

Revisions grow; by how much, and from what on, is the engine's own matter.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flyebpf.store.base import (
    ABSENT,
    Change,
    CompactedError,
    Delete,
    Entry,
    Extent,
    Guard,
    GuardFailedError,
    Put,
    Store,
    StoreUnavailableError,
    Transaction,
    guard_all,
)
from flyebpf.store.etcd import EtcdStore
from flyebpf.store.sqlite import SqliteStore
from tests.etcdrig import EtcdCluster, etcd

MakeStore = Callable[..., Store]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with etcd(tmp_path_factory.mktemp("etcd")) as running:
        yield running


@pytest.fixture(params=["etcd", "sqlite"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeStore]:
    """Opens the store of one place; each call is another client of it."""
    opened: list[Store] = []

    def make(*, changes_kept: int = 1000) -> Store:
        if request.param == "etcd":
            config = request.getfixturevalue("cluster").config(f"{tmp_path}/")
            opened.append(EtcdStore(config, changes_kept=changes_kept))
        else:
            path = tmp_path / "state.db"
            opened.append(SqliteStore(path, changes_kept=changes_kept, durable=False))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(make_store: MakeStore) -> Store:
    return make_store()


def snapshot(store: Store) -> tuple[int, list[Entry]]:
    revision, entries = store.snapshot()
    return revision, list(entries)


def test_how_many_there_are_and_the_newest(make_store: MakeStore) -> None:
    store, other = make_store(), make_store()
    assert store.extents(["thing", "org"]) == {"thing": Extent(), "org": Extent()}
    put(store, "a", "b", "c")
    second = put(other, "b")
    beside = store.commit(Transaction(writes=(Put("things", "x", {}),)))  # a longer name
    assert store.extents(["thing", "org"]) == {"thing": Extent(3, second), "org": Extent()}
    assert store.extents(["things"]) == {"things": Extent(1, beside)}
    store.commit(Transaction(writes=(Delete("thing", "a"),)))
    assert other.extents(["thing"]) == {"thing": Extent(2, second)}
    store.commit(Transaction(writes=(Delete("thing", "b"),)))
    assert 0 < other.extents(["thing"])["thing"].newest < second


def put(store: Store, *names: str, value: int = 0) -> int:
    writes = tuple(Put("thing", name, {"value": value}) for name in names)
    return store.commit(Transaction(writes=writes))


def test_empty_store(store: Store) -> None:
    revision = store.revision()
    assert revision >= 0
    assert store.get("thing", "a") is None
    assert store.list("thing") == []
    assert snapshot(store) == (revision, [])
    assert store.changes(revision) == []


def test_commit_gives_one_revision_to_all_records_of_a_transaction(store: Store) -> None:
    start = store.revision()
    first = put(store, "a", "b")
    second = put(store, "b", value=2)
    assert start < first < second
    assert store.get("thing", "a") == Entry("thing", "a", {"value": 0}, first)
    assert store.get("thing", "b") == Entry("thing", "b", {"value": 2}, second)
    assert store.revision() == second


def test_list_is_of_one_kind_and_by_id(store: Store) -> None:
    put(store, "b", "a", "c")
    store.commit(Transaction(writes=(Put("other", "a", {}), Put("thing_more", "a", {}))))
    assert [entry.id for entry in store.list("thing")] == ["a", "b", "c"]
    assert [entry.id for entry in store.list("other")] == ["a"]


def test_bodies_come_back_as_they_were(store: Store) -> None:
    start = store.revision()
    body = {"text": 'ü "quoted" \\ \n', "n": 2**64 - 1, "list": [1, {"x": None}], "t": True}
    revision = store.commit(Transaction(writes=(Put("thing", "a/b ü", body),)))
    assert store.get("thing", "a/b ü") == Entry("thing", "a/b ü", body, revision)
    assert store.changes(start) == [Change(revision, "thing", "a/b ü", body)]


def test_delete(store: Store) -> None:
    first = put(store, "a", "b")
    second = store.commit(Transaction(writes=(Delete("thing", "a"),)))
    assert second > first
    assert store.get("thing", "a") is None
    assert store.changes(first) == [Change(second, "thing", "a", None)]


def test_deletes_of_what_is_there_and_what_is_not(store: Store) -> None:
    first = put(store, "a", "b")
    writes = (Delete("thing", "gone"), Delete("thing", "b"), Delete("thing", "a"))
    second = store.commit(Transaction(writes=writes))
    assert {change.id for change in store.changes(first)} == {"a", "b"}
    assert snapshot(store) == (second, [])


def test_a_transaction_that_changes_nothing_has_no_revision(store: Store) -> None:
    first = put(store, "a")
    assert store.commit(Transaction(writes=(Delete("thing", "gone"),))) == first
    assert store.commit(Transaction(guards=(Guard("thing", "a", first),))) == first
    assert store.changes(first) == []
    assert not store.wait(first, 0)


@pytest.mark.parametrize("what", ["exists", "other revision", "absent"])
@pytest.mark.parametrize("writing", ["puts", "deletes", "nothing"])
def test_a_failed_guard_changes_nothing(store: Store, what: str, writing: str) -> None:
    first = put(store, "a")
    guard = {
        "exists": Guard("thing", "a", ABSENT),
        "other revision": Guard("thing", "a", first + 1),
        "absent": Guard("thing", "gone", first),
    }[what]
    writes = {
        "puts": (Put("thing", "b", {}), Delete("thing", "a")),
        "deletes": (Delete("thing", "a"),),
        "nothing": (),
    }[writing]
    with pytest.raises(GuardFailedError, match=guard.id):
        store.commit(Transaction((Guard("thing", "b", ABSENT), guard), writes))
    assert snapshot(store) == (first, [Entry("thing", "a", {"value": 0}, first)])
    assert store.changes(first) == []


def test_guards_that_hold(store: Store) -> None:
    first = put(store, "a")
    guards = (*guard_all(store.list("thing")), Guard("thing", "b", ABSENT))
    assert store.commit(Transaction(guards, (Put("thing", "b", {}),))) > first


def test_a_record_cannot_be_written_twice_in_a_transaction(store: Store) -> None:
    start = store.revision()
    with pytest.raises(ValueError, match="twice"):
        store.commit(Transaction(writes=(Put("thing", "a", {}), Delete("thing", "a"))))
    assert store.revision() == start


def test_changes_are_whole_transactions_in_order(store: Store) -> None:
    start = store.revision()
    first = put(store, "a", "b", "c")
    second = put(store, "d")
    third = put(store, "e", "f")
    assert [(c.revision, c.id) for c in store.changes(start)] == [
        (first, "a"),
        (first, "b"),
        (first, "c"),
        (second, "d"),
        (third, "e"),
        (third, "f"),
    ]
    assert [c.id for c in store.changes(start, limit=1)] == ["a", "b", "c"]
    assert [c.id for c in store.changes(start, limit=4)] == ["a", "b", "c", "d"]
    assert [c.id for c in store.changes(first, limit=2)] == ["d", "e", "f"]
    assert store.changes(third) == []


def test_old_changes_are_compacted(make_store: MakeStore) -> None:
    store = make_store(changes_kept=20)
    start = store.revision()
    done = [put(store, "a", "b", value=number) for number in range(100)]
    with pytest.raises(CompactedError):
        store.changes(start)
    kept = store.changes(done[89])
    assert [c.revision for c in kept] == [r for r in done[90:] for _ in "ab"]
    first = next(number for number, revision in enumerate(done, 1) if _readable(store, revision))
    assert 100 - 20 <= first <= 100 - 10
    assert len(store.changes(done[first - 1])) == (100 - first) * 2


def _readable(store: Store, since: int) -> bool:
    try:
        store.changes(since)
    except CompactedError:
        return False
    return True


def test_a_transaction_larger_than_the_log(make_store: MakeStore) -> None:
    store = make_store(changes_kept=5)
    start = store.revision()
    first = put(store, *(f"{n:03}" for n in range(50)))
    assert len(store.changes(start)) == 50
    put(store, "x")
    assert [c.id for c in store.changes(first)] == ["x"]


def test_changes_ahead_of_the_store_need_a_snapshot(store: Store) -> None:
    first = put(store, "a")
    with pytest.raises(CompactedError):
        store.changes(first + 1)


def test_wait_returns_at_once_when_there_is_a_change(store: Store) -> None:
    start = store.revision()
    put(store, "a")
    assert store.wait(start, 0)


def test_wait_times_out(store: Store) -> None:
    start = store.revision()
    begun = time.monotonic()
    assert not store.wait(start, 0.05)
    assert 0.05 <= time.monotonic() - begun < 5


@pytest.mark.parametrize("same_client", [True, False])
def test_wait_wakes_for_a_commit(make_store: MakeStore, same_client: bool) -> None:
    store = make_store()
    start = store.revision()
    writer = store if same_client else make_store()
    timer = threading.Timer(0.05, lambda: put(writer, "a"))
    timer.start()
    assert store.wait(start, 30)
    (change,) = store.changes(start)
    assert (change.id, change.body) == ("a", {"value": 0})
    timer.join()


def test_close_ends_waiting_and_use(make_store: MakeStore) -> None:
    store = make_store()
    start = store.revision()
    timer = threading.Timer(0.05, store.close)
    timer.start()
    with pytest.raises(StoreUnavailableError):
        store.wait(start, 30)
    timer.join()
    with pytest.raises(StoreUnavailableError):
        put(store, "a")
    store.close()


def test_what_was_committed_is_there_for_another_client(make_store: MakeStore) -> None:
    first = make_store()
    revision = put(first, "a")
    second = make_store()
    assert snapshot(second) == snapshot(first)
    later = put(second, "b")
    assert first.wait(revision, 30)
    assert first.changes(revision) == [Change(later, "thing", "b", {"value": 0})]


def test_concurrent_increments_lose_nothing(make_store: MakeStore) -> None:
    clients = [make_store(), make_store()]
    put(clients[0], "counter")

    def increment(store: Store) -> None:
        done = 0
        while done < 100:
            entry = store.get("thing", "counter")
            assert entry is not None
            write = Put("thing", "counter", {"value": entry.body["value"] + 1})
            try:
                store.commit(Transaction(guard_all([entry]), (write,)))
            except GuardFailedError:
                continue
            done += 1

    threads = [threading.Thread(target=increment, args=(c,)) for c in clients * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entry = clients[1].get("thing", "counter")
    assert entry is not None
    assert entry.body == {"value": 400}


@pytest.mark.parametrize("count", [127, 128, 129, 2500])
def test_a_snapshot_is_of_one_moment(store: Store, count: int) -> None:
    """However long reading it takes, and whatever is written meanwhile."""
    names = [f"n{number:04}" for number in range(count)]
    put(store, *names)
    revision, entries = store.snapshot()
    first = next(entries)
    store.commit(Transaction(writes=(Delete("thing", names[-1]), Put("thing", "new", {}))))
    rest = list(entries)
    assert [entry.id for entry in (first, *rest)] == names
    assert {entry.revision for entry in rest} == {revision}


NAMES = st.sampled_from(["a", "b", "c", "d"])
WRITES = st.dictionaries(NAMES, st.none() | st.integers(), max_size=4)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(history=st.lists(WRITES, max_size=12))
def test_changes_replayed_on_a_snapshot_give_the_next_one(
    store: Store, history: list[dict[str, int | None]]
) -> None:
    since, entries = store.snapshot()
    replica = {(e.kind, e.id): (e.body, e.revision) for e in entries}
    for step in history:
        writes = tuple(
            Delete("thing", name) if value is None else Put("thing", name, {"value": value})
            for name, value in step.items()
        )
        store.commit(Transaction(writes=writes))
    for change in store.changes(since):
        if change.body is None:
            del replica[change.kind, change.id]
        else:
            replica[change.kind, change.id] = (change.body, change.revision)
    _, entries = store.snapshot()
    assert replica == {(e.kind, e.id): (e.body, e.revision) for e in entries}
