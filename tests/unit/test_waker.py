# SPDX-License-Identifier: Apache-2.0
"""Clients that wait for a machine, as the daemon has them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from flyebpf.daemon.waker import LOOK, Waker, Wanted
from flyebpf.model.proxyrows import ProxyClusterRow
from flyebpf.model.records import Machine, MachineState
from flyebpf.model.state import State, Update
from flyebpf.plan.autostart import Choice
from flyebpf.store.sqlite import SqliteStore
from tests.records import machine
from tests.stores import config, region

PATIENCE = 30.0
CLUSTER = "web/8080:app"
Look = Callable[[str], Wanted | None]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with region(tmp_path) as store:
        yield store


class Waiting:
    """A waker, and what it has said to the proxy."""

    def __init__(self, store: SqliteStore, look: Look) -> None:
        self.answers: list[tuple[str, dict[str, str]]] = []
        self.waker = Waker(config(), store, look=look, answer=self._take)

    def _take(self, cluster: str, headers: dict[str, str]) -> None:
        self.answers.append((cluster, headers))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def no_threads() -> bool:
    return not any(thread.name.startswith("wake-") for thread in threading.enumerate())


@contextmanager
def waiting(store: SqliteStore, look: Look) -> Iterator[Waiting]:
    made = Waiting(store, look)
    try:
        yield made
    finally:
        made.waker.stop()
        until(no_threads)


def test_the_next_daemon_goes_on(store: SqliteStore) -> None:
    """A main thread that has ended is not asked all the time, and nobody is refused
    because a daemon ends."""
    looks = []

    def look(cluster: str) -> None:
        looks.append(cluster)
        raise TimeoutError

    begun = time.monotonic()
    with waiting(store, look) as made:
        made.waker.wanted(CLUSTER)
        until(lambda: len(looks) > 1)
    assert made.answers == []
    assert len(looks) <= (time.monotonic() - begun) / 0.1 + 2


def test_only_news_of_its_app(store: SqliteStore) -> None:
    """Whatever happens to other apps' machines, who waits does not ask again."""
    one = machine(1)
    looks = []
    row = ProxyClusterRow(CLUSTER, "web", (), True, port=80)

    def look(_: str) -> Wanted:
        looks.append(time.monotonic())
        return Wanted(1, row, Choice((), (one,), ()), frozenset((one.id,)))

    with waiting(store, look) as made:
        begun = time.monotonic()
        made.waker.wanted(CLUSTER)
        until(lambda: len(looks) == 1)
        for _ in range(50):
            other = replace(one, app="db")
            made.waker.changed(State(), [changed(other, MachineState.STARTING)])
        time.sleep(0.05)  # for one that would ask
        assert len(looks) <= 1 + (time.monotonic() - begun) / LOOK
        made.waker.changed(State(), [changed(one, MachineState.STARTING)])
        until(lambda: len(looks) > 1)


def test_whom_clients_were_led_to(store: SqliteStore) -> None:
    """It is known as long as they may be there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = replace(machine(1), private_ip="127.0.0.1")
        row = ProxyClusterRow(CLUSTER, "web", (), True, port=server.getsockname()[1])
        found = Wanted(1, row, Choice((one,), (), ()), frozenset((one.id,)))
        with waiting(store, lambda _: found) as made:
            made.waker._source = "127.0.0.1"
            made.waker.wanted(CLUSTER)
            until(lambda: bool(made.answers))
            assert made.waker.led() == {CLUSTER: {one.id}}
            made.waker.changed(State(), [changed(one, MachineState.SUSPENDED)])
            assert made.waker.led() == {CLUSTER: {one.id}}
            made.waker.changed(State(), [changed(one, MachineState.STOPPED)])
            assert made.waker.led() == {}


def changed(one: Machine, state: MachineState) -> Update:
    return Update(Machine.kind, one.id, one, replace(one, state=state))
