# SPDX-License-Identifier: Apache-2.0
"""What every store does: one suite, run on each engine."""

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
    Guard,
    GuardFailedError,
    Put,
    Store,
    StoreUnavailableError,
    Transaction,
    guard_all,
)
from flyebpf.store.sqlite import SqliteStore

MakeStore = Callable[..., Store]


def make_sqlite(folder: Path, changes_kept: int) -> Store:
    return SqliteStore(folder / "state.db", changes_kept=changes_kept, durable=False)


FACTORIES = {"sqlite": make_sqlite}


@pytest.fixture(params=sorted(FACTORIES))
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeStore]:
    """Opens the store of one place; each call is another client of it."""
    opened: list[Store] = []

    def make(*, changes_kept: int = 1000) -> Store:
        opened.append(FACTORIES[request.param](tmp_path, changes_kept))
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


def put(store: Store, *names: str, value: int = 0) -> int:
    writes = tuple(Put("thing", name, {"value": value}) for name in names)
    return store.commit(Transaction(writes=writes))


def test_empty_store(store: Store) -> None:
    assert store.revision() == 0
    assert store.get("thing", "a") is None
    assert store.list("thing") == []
    assert snapshot(store) == (0, [])
    assert store.changes(0) == []


def test_commit_gives_consecutive_revisions_to_all_records_of_a_transaction(store: Store) -> None:
    assert put(store, "a", "b") == 1
    assert put(store, "b", value=2) == 2
    assert store.get("thing", "a") == Entry("thing", "a", {"value": 0}, 1)
    assert store.get("thing", "b") == Entry("thing", "b", {"value": 2}, 2)
    assert store.revision() == 2


def test_list_is_of_one_kind_and_by_id(store: Store) -> None:
    put(store, "b", "a", "c")
    store.commit(Transaction(writes=(Put("other", "a", {}),)))
    assert [entry.id for entry in store.list("thing")] == ["a", "b", "c"]
    assert [entry.id for entry in store.list("other")] == ["a"]


def test_bodies_come_back_as_they_were(store: Store) -> None:
    body = {"text": 'ü "quoted" \\ \n', "n": 2**64 - 1, "list": [1, {"x": None}], "t": True}
    store.commit(Transaction(writes=(Put("thing", "a/b ü", body),)))
    entry = store.get("thing", "a/b ü")
    assert entry is not None
    assert entry.body == body
    assert store.changes(0) == [Change(1, "thing", "a/b ü", body)]


def test_delete(store: Store) -> None:
    put(store, "a", "b")
    assert store.commit(Transaction(writes=(Delete("thing", "a"),))) == 2
    assert store.get("thing", "a") is None
    assert store.changes(1) == [Change(2, "thing", "a", None)]


def test_a_transaction_that_changes_nothing_has_no_revision(store: Store) -> None:
    put(store, "a")
    assert store.commit(Transaction(writes=(Delete("thing", "gone"),))) == 1
    assert store.commit(Transaction(guards=(Guard("thing", "a", 1),))) == 1
    assert store.changes(1) == []
    assert not store.wait(1, 0)


@pytest.mark.parametrize(
    "guard",
    [Guard("thing", "a", ABSENT), Guard("thing", "a", 2), Guard("thing", "gone", 1)],
    ids=["exists", "other revision", "absent"],
)
def test_a_failed_guard_changes_nothing(store: Store, guard: Guard) -> None:
    put(store, "a")
    writes = (Put("thing", "b", {}), Delete("thing", "a"))
    with pytest.raises(GuardFailedError, match=guard.id):
        store.commit(Transaction((Guard("thing", "a", 1), guard), writes))
    assert snapshot(store) == (1, [Entry("thing", "a", {"value": 0}, 1)])
    assert store.changes(1) == []


def test_guards_that_hold(store: Store) -> None:
    put(store, "a")
    guards = (*guard_all(store.list("thing")), Guard("thing", "b", ABSENT))
    assert store.commit(Transaction(guards, (Put("thing", "b", {}),))) == 2


def test_a_record_cannot_be_written_twice_in_a_transaction(store: Store) -> None:
    with pytest.raises(ValueError, match="twice"):
        store.commit(Transaction(writes=(Put("thing", "a", {}), Delete("thing", "a"))))
    assert store.revision() == 0


def test_changes_are_whole_transactions_in_order(store: Store) -> None:
    put(store, "a", "b", "c")
    put(store, "d")
    put(store, "e", "f")
    assert [(c.revision, c.id) for c in store.changes(0)] == [
        (1, "a"),
        (1, "b"),
        (1, "c"),
        (2, "d"),
        (3, "e"),
        (3, "f"),
    ]
    assert [c.id for c in store.changes(0, limit=1)] == ["a", "b", "c"]
    assert [c.id for c in store.changes(0, limit=4)] == ["a", "b", "c", "d"]
    assert [c.id for c in store.changes(1, limit=2)] == ["d", "e", "f"]
    assert store.changes(3) == []


def test_old_changes_are_compacted(make_store: MakeStore) -> None:
    store = make_store(changes_kept=20)
    for number in range(100):
        put(store, "a", "b", value=number)
    with pytest.raises(CompactedError):
        store.changes(0)
    kept = store.changes(90)
    assert [c.revision for c in kept] == [r for r in range(91, 101) for _ in "ab"]
    first = next(r for r in range(100) if _readable(store, r))
    assert 100 - 20 <= first <= 100 - 10
    assert len(store.changes(first)) == (100 - first) * 2


def _readable(store: Store, since: int) -> bool:
    try:
        store.changes(since)
    except CompactedError:
        return False
    return True


def test_a_transaction_larger_than_the_log(make_store: MakeStore) -> None:
    store = make_store(changes_kept=5)
    put(store, *(f"{n:03}" for n in range(50)))
    assert len(store.changes(0)) == 50
    put(store, "x")
    assert [c.id for c in store.changes(1)] == ["x"]


def test_changes_ahead_of_the_store_need_a_snapshot(store: Store) -> None:
    put(store, "a")
    with pytest.raises(CompactedError):
        store.changes(2)


def test_wait_returns_at_once_when_there_is_a_change(store: Store) -> None:
    put(store, "a")
    assert store.wait(0, 0)


def test_wait_times_out(store: Store) -> None:
    started = time.monotonic()
    assert not store.wait(0, 0.05)
    assert 0.05 <= time.monotonic() - started < 5


@pytest.mark.parametrize("same_client", [True, False])
def test_wait_wakes_for_a_commit(make_store: MakeStore, same_client: bool) -> None:
    store = make_store()
    writer = store if same_client else make_store()
    timer = threading.Timer(0.05, lambda: put(writer, "a"))
    timer.start()
    assert store.wait(0, 30)
    assert store.changes(0) == [Change(1, "thing", "a", {"value": 0})]
    timer.join()


def test_close_ends_waiting_and_use(make_store: MakeStore) -> None:
    store = make_store()
    timer = threading.Timer(0.05, store.close)
    timer.start()
    with pytest.raises(StoreUnavailableError):
        store.wait(0, 30)
    timer.join()
    with pytest.raises(StoreUnavailableError):
        put(store, "a")
    store.close()


def test_what_was_committed_is_there_for_another_client(make_store: MakeStore) -> None:
    first = make_store()
    put(first, "a")
    second = make_store()
    assert snapshot(second) == snapshot(first)
    put(second, "b")
    assert first.changes(1) == [Change(2, "thing", "b", {"value": 0})]


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
    assert entry.revision == 401


def test_a_snapshot_is_of_one_moment(store: Store) -> None:
    """However long reading it takes, and whatever is written meanwhile."""
    names = [f"n{number:04}" for number in range(2500)]
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
