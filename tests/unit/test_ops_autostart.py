# SPDX-License-Identifier: Apache-2.0
"""One machine is started, whoever asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Thread

import pytest

from flyebpf.config import MachinesConfig
from flyebpf.model.records import MachineState
from flyebpf.ops import apps, autostart, cluster, machines, power
from flyebpf.ops.autostart import Started
from flyebpf.store.sqlite import SqliteStore
from tests.stores import config, region

COMMANDS = MachinesConfig(start=("/bin/true",), stop=("/bin/true",))
STARTING, STOPPED = MachineState.STARTING, MachineState.STOPPED


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with region(tmp_path) as store:
        yield store


@pytest.fixture
def sleeping(store: SqliteStore) -> list[str]:
    """Three machines that are stopped."""
    found = []
    for number in range(3):
        mac = f"02:00:00:00:00:0{number}"
        found.append(machines.add(store, config(), "web", interface=f"tap{number}", mac=mac).id)
        power.request(store, found[-1], STOPPED)
    cluster.ensure(store, replace(config(), machines=COMMANDS))
    return found


def states(store: SqliteStore) -> list[MachineState]:
    return sorted(machine.state for machine in machines.list_all(store, "web"))


def test_whoever_asks_and_in_which_order(store: SqliteStore, sleeping: list[str]) -> None:
    """Hosts whose views differ, at the same time."""
    barrier, found = Barrier(6), []

    def ask(number: int) -> None:
        barrier.wait()
        order = sleeping[number % 3 :] + sleeping[: number % 3]
        found.append(autostart.wake(store, "web/app", order))

    threads = [Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one.machine.id for one in found if one}) == 1
    assert states(store) == sorted([STARTING, STOPPED, STOPPED])


def finish(store: SqliteStore, started: Started | None, error: str = "") -> str:
    assert started is not None
    assert started.from_rest
    state = STOPPED if error else MachineState.STARTED
    power.report(store, started.machine, state, error=error)
    return started.machine.id


def test_one_more(store: SqliteStore, sleeping: list[str]) -> None:
    """Who knows of the first one and needs another gets it; who does not know of it
    yet is told of it."""
    first = finish(store, autostart.wake(store, "web/app", sleeping))
    unaware = autostart.wake(store, "web/app", sleeping[1:])
    assert unaware is not None
    assert (unaware.machine.id, unaware.from_rest) == (first, False)
    rest = [ident for ident in sleeping if ident != first]
    second = autostart.wake(store, "web/app", rest, known={first})
    assert second is not None
    assert second.machine.id == rest[0]


def test_another_service(store: SqliteStore, sleeping: list[str]) -> None:
    finish(store, autostart.wake(store, "web/app", sleeping[:1]))
    other = autostart.wake(store, "web/worker", sleeping[1:])
    assert other is not None
    assert other.machine.id == sleeping[1]


def test_one_that_failed(store: SqliteStore, sleeping: list[str]) -> None:
    first = finish(store, autostart.wake(store, "web/app", sleeping), "start: exit 1")
    rest = [ident for ident in sleeping if ident != first]
    again = autostart.wake(store, "web/app", rest, known={first})
    assert again is not None
    assert again.machine.id == rest[0]


def test_none(store: SqliteStore, sleeping: list[str]) -> None:
    assert autostart.wake(store, "web/app", []) is None
    assert autostart.wake(store, "web/app", ["0" * 14]) is None
    cluster.ensure(store, config())  # the host has no commands any more
    assert autostart.wake(store, "web/app", sleeping) is None
    assert states(store) == [STOPPED] * 3


def test_one_that_is_being_stopped(store: SqliteStore, sleeping: list[str]) -> None:
    """What takes connections there may be what is about to end."""
    finish(store, autostart.wake(store, "web/app", sleeping[:1]))
    power.request(store, sleeping[0], STOPPED)
    again = autostart.wake(store, "web/app", sleeping[:1])
    assert again is not None
    assert (again.machine.state, again.from_rest) == (STARTING, False)


def test_nothing_is_left_of_an_app(store: SqliteStore, sleeping: list[str]) -> None:
    finish(store, autostart.wake(store, "web/app", sleeping))
    for ident in sleeping:
        machines.remove(store, ident)
    apps.destroy(store, "web")
    assert store.list("wake") == []
