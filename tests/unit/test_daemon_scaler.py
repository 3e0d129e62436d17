# SPDX-License-Identifier: Apache-2.0
"""What hosts know of each other's machines, and what they do about it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flyebpf.config import MachinesConfig
from flyebpf.daemon.scaler import Scaler, View
from flyebpf.model.codec import decode
from flyebpf.model.proxyrows import ProxyClusterRow, ProxyEndpoint
from flyebpf.model.records import Concurrency, Deployment, Load, Machine, MachineState
from flyebpf.model.state import State
from flyebpf.ops import cluster, machines
from flyebpf.proxy import wake
from flyebpf.proxy.loads import Loads
from flyebpf.store.sqlite import SqliteStore
from tests.records import service
from tests.stores import config, region

COMMANDS = MachinesConfig(start=("/bin/true",), stop=("/bin/true",), autostop=1)
SERVICE = replace(service(80), auto_stop="stop", concurrency=Concurrency("requests", 2))
CLUSTER = "web/8080:app"
STARTED, STOPPING = MachineState.STARTED, MachineState.STOPPING


class World:
    """Host h1 with two machines of app web, and what its proxy has counted."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        given = replace(config(), machines=COMMANDS)
        cluster.ensure(store, given)
        self.one, self.two = (
            machines.add(store, given, "web", interface=f"tap{n}", mac=f"02:00:00:00:00:0{n}")
            for n in range(2)
        )
        self.loads = Loads()
        self.loads.take({CLUSTER: {}})
        self.others: tuple[Load, ...] = ()
        self.led: dict[str, frozenset[str]] = {}
        self.packets: dict[str, int] = {}
        self.more: list[str] = []
        self.scaler = Scaler(
            replace(given, store="etcd"),
            store,
            self.loads,
            look=self.view,
            more=self.more.append,
            led=lambda: self.led,
            packets=lambda: dict(self.packets),
        )
        self.follow()

    def follow(self) -> None:
        self.scaler.loaded(State.load(*self.store.snapshot()))

    def view(self) -> View:
        found = machines.list_all(self.store, "web")
        ends = tuple(ProxyEndpoint(m.id, m.private_ip, 8080, m.region) for m in found)
        row = ProxyClusterRow(CLUSTER, "web", ends, http=True, soft=2, watched=True, wakes=True)
        deployment = Deployment("web", (SERVICE,))
        return View((row,), {"web": (deployment, tuple(found))}, self.others)

    def counts(self, **active: int) -> None:
        """Of the machines, by name; ``held``: of clients that a machine was started for."""
        names = {"one": self.one.private_ip, "two": self.two.private_ip}
        addresses = {k: f"{names[k]}:8080" if k in names else wake.REPORTED for k in active}
        now = time.monotonic()
        self.loads.take({CLUSTER: {addresses[k]: (n, now) for k, n in active.items()}})

    def look(self) -> list[MachineState]:
        """A look, when the machines have run for long enough; their states."""
        self.scaler._since = dict.fromkeys((self.one.id, self.two.id), -1000.0)
        self.scaler._first = False
        self.scaler._stop_some()
        return [machines.get(self.store, one.id).state for one in (self.one, self.two)]

    def told(self) -> Load:
        entry = self.store.get("load", "h1")
        assert entry is not None
        load = decode("load", entry.body)
        assert isinstance(load, Load)
        return load


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with region(tmp_path) as store:
        yield World(store)


def test_one_of_two_is_enough(world: World) -> None:
    world.counts(two=1)
    assert world.look() == [STOPPING, STARTED]
    assert world.told().active == {world.two.id: 1}


def test_what_other_hosts_count_is_added(world: World) -> None:
    world.counts(one=1)
    world.others = (Load("h2", {world.one.id: 1}),)  # two: the soft limit
    assert world.look() == [STARTED, STARTED]
    world.others = (Load("h2", {world.two.id: 0}),)
    assert world.look() == [STARTED, STOPPING]


def test_both_are_needed(world: World) -> None:
    world.others = (Load("h2", {world.one.id: 2, world.two.id: 2}),)
    assert world.look() == [STARTED, STARTED]


def test_nothing_is_known(world: World) -> None:
    world.loads.forget()
    assert world.look() == [STARTED, STARTED]


def test_the_kernels_clients(world: World) -> None:
    """Here or elsewhere: nobody knows which machines they use."""
    world.packets = {"web": 10}
    assert world.look() == [STARTED, STARTED]
    assert world.told().apps == ("web",)
    world.others = (Load("h2", apps=("web",)),)
    assert world.look() == [STARTED, STARTED]
    world.others = ()
    assert world.look() != [STARTED, STARTED]


def test_a_machine_that_has_just_been_started(world: World) -> None:
    world.scaler._first = False
    world.scaler._since = dict.fromkeys((world.one.id, world.two.id), time.monotonic() + 1000)
    world.scaler._stop_some()
    assert {m.state for m in machines.list_all(world.store, "web")} == {STARTED}


def test_one_more_is_started(world: World) -> None:
    """When all are at the soft limit, those who came by the waker counted too."""
    world.counts(one=2, two=1)
    world.scaler._start_some()
    assert world.more == []
    world.counts(held=1)
    world.led = {CLUSTER: frozenset((world.two.id,))}
    world.scaler._start_some()
    assert world.more == [CLUSTER]


def test_who_is_busy(world: World) -> None:
    assert not world.scaler.busy(world.one)
    world.counts(one=1, two=0)
    assert world.scaler.busy(world.one)
    assert not world.scaler.busy(world.two)
    world.led = {CLUSTER: frozenset((world.two.id,))}
    world.counts(held=1)
    assert world.scaler.busy(world.two)
    world.counts(one=0, held=0)
    assert not world.scaler.busy(world.two)
    world.loads.forget()
    assert world.scaler.busy(world.two)  # for all that is known


def far(world: World, state: MachineState) -> Machine:
    """A machine of another host, at the address that one of ours has."""
    return replace(world.one, host="h2", state=state)


def test_another_host_is_told_of_what_it_cannot_see(world: World) -> None:
    """Once when it wants to stop a machine, and once when that has nothing to do any
    more."""
    world.counts(one=1)
    world.scaler._learn(far(world, STOPPING))
    world.scaler._tell_held()
    assert world.told().held == (world.one.id,)
    before = world.store.revision()
    world.scaler._tell_held()
    assert world.store.revision() == before
    world.counts(one=0)
    world.scaler._tell_held()
    assert world.told().held == ()


def test_what_another_host_holds_is_busy(world: World) -> None:
    state = State.load(*world.store.snapshot())
    state.loads["h2"] = Load("h2", held=(world.one.id,))
    world.scaler.loaded(state)
    assert world.scaler.busy(world.one)
    assert not world.scaler.busy(world.two)
