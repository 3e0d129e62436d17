# SPDX-License-Identifier: Apache-2.0
"""Threads that go on whatever the store does."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flyebpf.config import EtcdConfig
from flyebpf.daemon.heartbeat import PRESENCE_EVERY, PRESENCE_LIFE, RETRY, Repeat, renew_presence
from flyebpf.model.records import Presence
from flyebpf.store.base import Put, StoreUnavailableError, Transaction
from flyebpf.store.etcdlease import Leases
from flyebpf.store.sqlite import SqliteStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "s.db", durable=False)
    yield opened
    opened.close()


class Recorder:
    """What of a store is needed here."""

    def __init__(self) -> None:
        self.written: list[Put] = []

    def commit(self, transaction: Transaction) -> int:
        assert not transaction.guards
        for write in transaction.writes:
            assert isinstance(write, Put)
            self.written.append(write)
        return len(self.written)


def test_presence_is_renewed_before_it_expires() -> None:
    store = Recorder()
    wait = renew_presence(store, "h1", forgets=True)  # type: ignore[arg-type]
    assert wait * 3 <= PRESENCE_LIFE, "two renewals may be lost"
    renew_presence(store, "h1", forgets=True)  # type: ignore[arg-type]
    first, second = store.written
    assert first == second, "a renewal is no change"
    assert (first.kind, first.id, first.ttl) == (Presence.kind, "h1", PRESENCE_LIFE)


class Electing:
    """Members of an etcd cluster without a leader: for so many requests none has an
    answer. A lease that was renewed too late is gone."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.asked: list[str] = []

    def read(self, path: str, body: dict[str, str]) -> dict[str, Any]:
        self.asked.append(path)
        if path == "/lease/grant":
            return {"ID": "77"}
        if self.refusals:
            self.refusals -= 1
            raise StoreUnavailableError("etcd is away: no leader")
        return {"result": {"TTL": str(PRESENCE_LIFE)}}


def test_an_election_changes_nothing_that_others_hear_of() -> None:
    """The lease is asked for once, and the record written once."""
    members = Electing(refusals=3)
    leases = Leases(members)  # type: ignore[arg-type]
    record = Put(Presence.kind, "h1", {"host": "h1"}, ttl=PRESENCE_LIFE)
    transaction = Transaction((), (record,))
    assert not leases.renewed(transaction)
    leases.of(PRESENCE_LIFE)
    leases.written(transaction, 5)
    renewed, refused = 0, 0
    for _ in range(5):
        try:
            renewed += leases.renewed(transaction)
        except StoreUnavailableError:
            refused += 1
    assert (renewed, refused) == (2, 3)
    assert members.asked.count("/lease/grant") == 1


def test_a_renewal_that_fails_altogether_leaves_time_for_another() -> None:
    """It takes as long as an operation may, and is tried again after a second."""
    assert PRESENCE_EVERY + EtcdConfig().timeout + RETRY < PRESENCE_LIFE


def test_where_nothing_is_forgotten_it_is_said_once(store: SqliteStore) -> None:
    renew_presence(store, "h1", forgets=False)
    revision = store.revision()
    renew_presence(store, "h1", forgets=False)
    assert store.revision() == revision
    assert store.get(Presence.kind, "h1") is not None


def test_it_goes_on_after_errors_and_says_each_once(caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Event()
    calls = 0

    def work() -> float:
        nonlocal calls
        calls += 1
        if calls <= 3:
            raise StoreUnavailableError("the store is away")
        if calls == 4:
            raise TimeoutError
        if calls == 5:
            raise OSError("no route")
        done.set()
        return 60.0

    part = Repeat("test", work, retry=0.001)
    with caplog.at_level(logging.WARNING):
        part.start()
        assert done.wait(5.0)
        part.stop()
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "test: the store is away",
        "test: the daemon's main thread is busy",
        "test: no route",
    ]
    assert part.error == ""


def test_it_goes_on_after_what_nobody_foresaw(caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Event()
    calls = 0

    def work() -> float:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise KeyError("header")
        done.set()
        return 60.0

    part = Repeat("test", work, retry=0.001)
    part.start()
    assert done.wait(5.0), "the host would count as gone"
    part.stop()
    assert part.fault is None
    (said,) = caplog.records
    assert said.exc_info, "the log says where"
    assert part.error == ""


def test_an_error_is_shown_while_it_lasts() -> None:
    failed = threading.Event()

    def work() -> float:
        failed.set()
        raise StoreUnavailableError("the store is away")

    part = Repeat("test", work, retry=0.01)
    part.start()
    assert failed.wait(5.0)
    deadline = time.monotonic() + 5.0
    while not part.error:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert part.error == "the store is away"
    part.stop()


def test_it_ends_at_once_and_can_be_woken() -> None:
    calls = threading.Semaphore(0)

    def work() -> float:
        calls.release()
        return 60.0

    part = Repeat("test", work)
    part.start()
    assert calls.acquire(timeout=5.0)
    part.soon()
    assert calls.acquire(timeout=5.0)
    begun = time.monotonic()
    part.stop()
    assert time.monotonic() - begun < 1.0
