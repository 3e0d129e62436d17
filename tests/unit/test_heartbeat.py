# SPDX-License-Identifier: Apache-2.0
"""Threads that go on whatever the store does."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flyebpf.daemon.heartbeat import PRESENCE_LIFE, Repeat, renew_presence
from flyebpf.model.records import Presence
from flyebpf.store.base import Put, StoreUnavailableError, Transaction
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
