# SPDX-License-Identifier: Apache-2.0
"""Orders for machines, and what has come of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from flyebpf.config import MachinesConfig
from flyebpf.errors import InvalidError, UnavailableError
from flyebpf.model.records import Machine, MachineState
from flyebpf.ops import cluster, machines, power
from flyebpf.store.sqlite import SqliteStore
from tests.stores import config, region

STARTED, STOPPED, STARTING, STOPPING = (
    MachineState.STARTED,
    MachineState.STOPPED,
    MachineState.STARTING,
    MachineState.STOPPING,
)
COMMANDS = MachinesConfig(start=("/bin/true",), stop=("/bin/true",))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with region(tmp_path) as store:
        yield store


@pytest.fixture
def machine(store: SqliteStore) -> Machine:
    """On a host that can start and stop, but not suspend."""
    cluster.ensure(store, replace(config(), machines=COMMANDS))
    return machines.add(store, config(), "web", interface="tap0", mac="02:00:00:00:00:01")


def state_of(store: SqliteStore, machine: Machine) -> MachineState:
    return machines.get(store, machine.id).state


def test_an_order_and_its_end(store: SqliteStore, machine: Machine) -> None:
    ordered = power.request(store, machine.id, STOPPED)
    assert ordered.state is STOPPING
    before = store.revision()
    assert power.request(store, machine.id, STOPPED) == ordered
    assert store.revision() == before
    power.report(store, ordered, STOPPED)
    assert state_of(store, machine) is STOPPED
    assert power.request(store, machine.id, "started").state is STARTING


def test_an_order_that_was_taken_back(store: SqliteStore, machine: Machine) -> None:
    """What comes of the first one is not what the machine is to be."""
    first = power.request(store, machine.id, STOPPED)
    second = power.request(store, machine.id, STARTED)
    assert power.report(store, first, STOPPED) == second
    assert state_of(store, machine) is STARTING


def test_a_failure_is_shown_until_the_next_order(store: SqliteStore, machine: Machine) -> None:
    ordered = power.request(store, machine.id, STOPPED)
    power.report(store, ordered, STARTED, error="stop: exit 1: no")
    with pytest.raises(UnavailableError, match="is started: stop: exit 1: no"):
        power.settled(store, machine.id, 5)
    assert power.request(store, machine.id, STOPPED).error == ""


def test_settled_waits(store: SqliteStore, machine: Machine) -> None:
    ordered = power.request(store, machine.id, STOPPED)
    other = Thread(target=power.report, args=(store, ordered, STOPPED))
    other.start()
    assert power.settled(store, machine.id, 30).state is STOPPED
    other.join()
    power.request(store, machine.id, STARTED)
    with pytest.raises(UnavailableError, match="is still starting after 0 s"):
        power.settled(store, machine.id, 0)


def test_a_command_that_the_host_does_not_have(store: SqliteStore, machine: Machine) -> None:
    with pytest.raises(InvalidError, match="no command by which machines are suspended"):
        power.request(store, machine.id, MachineState.SUSPENDED)


def test_orders_cannot_be_asked_for(store: SqliteStore, machine: Machine) -> None:
    with pytest.raises(InvalidError, match="'starting' is not known"):
        power.request(store, machine.id, "starting")


def test_a_host_without_commands_is_told(store: SqliteStore, machine: Machine) -> None:
    """Also of a machine that it was to start when it had some."""
    power.request(store, machine.id, STOPPED)
    cluster.ensure(store, config())
    assert power.request(store, machine.id, STARTED).state is STARTED
    assert power.request(store, machine.id, "suspended").state is MachineState.SUSPENDED
