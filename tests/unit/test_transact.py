# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flyebpf.errors import NotFoundError, UnavailableError
from flyebpf.model.codec import encode
from flyebpf.model.records import App, Organization
from flyebpf.ops.transact import Tx, every, find, transact
from flyebpf.store.base import Put, Transaction
from flyebpf.store.sqlite import SqliteStore
from tests.stores import region


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with region(tmp_path) as store:
        yield store


def write(store: SqliteStore, record: App | Organization) -> None:
    store.commit(Transaction(writes=(Put(record.kind, record.ident, encode(record)),)))


def test_reads_see_earlier_writes(store: SqliteStore) -> None:
    tx = Tx(store)
    tx.put(App("new", "acme"))
    assert tx.get(App, "new") == App("new", "acme")
    assert not tx.is_free(App, "new")
    tx.delete(App, "web")
    assert tx.get(App, "web") is None
    assert tx.is_free(App, "web")
    assert store.get("app", "new") is None
    tx.commit()
    assert [app.name for app in every(store, App)] == ["db", "new"]


def test_a_change_of_what_was_read_runs_the_action_again(store: SqliteStore) -> None:
    seen = []

    def action(tx: Tx) -> str:
        org = tx.require(App, "web").org
        seen.append(org)
        if len(seen) == 1:
            write(store, App("web", "other"))
        tx.put(App("copy", org))
        return org

    assert transact(store, action) == "other"
    assert seen == ["acme", "other"]
    assert find(store, App, "copy").org == "other"


def test_the_absence_of_what_was_read_is_guarded_too(store: SqliteStore) -> None:
    attempts = []

    def action(tx: Tx) -> bool:
        free = tx.is_free(App, "new")
        attempts.append(free)
        if len(attempts) == 1:
            write(store, App("new", "acme"))
        tx.put(App("other", "acme"))
        return free

    assert transact(store, action) is False
    assert attempts == [True, False]


def test_a_record_that_was_only_written_is_guarded(store: SqliteStore) -> None:
    first, second = Tx(store), Tx(store)
    first.put(App("new", "acme"))
    second.put(App("new", "other"))
    first.commit()
    assert transact(store, lambda tx: tx.require(App, "new")).org == "acme"
    with pytest.raises(Exception, match="'new' was changed"):
        second.commit()


def test_it_gives_up_when_others_always_win(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flyebpf.ops.transact._LONGEST_PAUSE", 0)
    count = 0

    def action(tx: Tx) -> None:
        nonlocal count
        count += 1
        tx.put(tx.require(App, "web"))
        write(store, App("web", f"org{count}"))

    with pytest.raises(UnavailableError, match="200 times"):
        transact(store, action)
    assert count == 200


def test_an_action_that_writes_nothing_commits_nothing(store: SqliteStore) -> None:
    before = store.revision()
    transact(store, lambda tx: tx.get(App, "web"))
    assert store.revision() == before


def test_not_found_suggests(store: SqliteStore) -> None:
    with pytest.raises(NotFoundError, match="app 'wbe' does not exist") as caught:
        find(store, App, "wbe")
    assert 'did you mean "web"?' in caught.value.remedy
    assert "flyebpf apps list" in caught.value.remedy
    with pytest.raises(NotFoundError, match="organization 'zzz'") as caught:
        find(store, Organization, "zzz")
    assert "flyebpf orgs create zzz" in caught.value.remedy


def test_every_leaves_out_what_cannot_be_read(store: SqliteStore) -> None:
    store.commit(Transaction(writes=(Put("app", "odd", {"name": "odd", "future": 1}),)))
    assert [app.name for app in every(store, App)] == ["db", "web"]
    assert [app.name for app in every(store, App, network="back")] == ["db"]
