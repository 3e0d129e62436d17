# SPDX-License-Identifier: Apache-2.0
"""The steps by which new keys come in."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest

from flyebpf.daemon.mesh_rotation import Rotation, View, generations
from flyebpf.model.records import Cluster, Host, HostStatus
from flyebpf.model.rows import MeshPeerRow, MeshRow

NAMES = ("a", "b", "c")


class World:
    """A cluster whose hosts hear of everything at once, and do what they should."""

    def __init__(self) -> None:
        self.revision = 10
        self.cluster = Cluster(seed=1)
        self.hosts = {
            name: Host(
                name, 0, "ams", "", "wireguard", "192.0.2.1", 51820, {"0": "k", "peers": "p"}
            )
            for name in NAMES
        }
        self.present = set(NAMES)
        self.statuses: dict[str, HostStatus] = {}
        self.parts = {name: Rotation(name) for name in NAMES}
        for name in NAMES:
            self.state(name)

    def view(self, name: str) -> View:
        own = generations(self.hosts[name])
        rows = tuple(MeshRow(f"fly{g % 2}", "wireguard", g, 1, (), 1420) for g in sorted(own))
        return View(
            self.revision,
            self.cluster,
            dict(self.hosts),
            dict(self.statuses),
            frozenset(self.present),
            rows,
        )

    def write(self) -> None:
        self.revision += 1

    def state(self, name: str) -> None:
        view = self.view(name)
        self.write()
        self.statuses[name] = HostStatus(
            name,
            "",
            applied_revision=view.revision,
            ready_generation=view.ready_generation(frozenset()),
        )

    def publish(self, name: str) -> None:
        wanted = self.parts[name].wanted_keys(self.view(name))
        keys = {str(g): "k" for g in wanted} | {"peers": "p"}
        if keys != self.hosts[name].keys:
            self.hosts[name] = replace(self.hosts[name], keys=keys)
            self.write()

    def may_switch(self, name: str) -> bool:
        return self.parts[name].may_switch(self.view(name))

    def switch(self) -> None:
        self.cluster = replace(self.cluster, mesh_generation=self.cluster.next_generation)
        self.write()

    def begin(self) -> None:
        following = self.cluster.mesh_generation + 1
        self.cluster = replace(self.cluster, next_generation=following)
        self.write()

    def published(self, name: str) -> set[int]:
        return generations(self.hosts[name])


def test_nothing_happens_while_nothing_is_asked_for() -> None:
    world = World()
    for name in NAMES:
        world.publish(name)
        assert world.published(name) == {0}
        assert not world.may_switch(name)


@pytest.mark.parametrize("order", list(permutations(NAMES)))
def test_a_whole_rotation_in_any_order(order: tuple[str, ...]) -> None:
    world = World()
    world.begin()
    for name in order:
        assert not world.may_switch(order[0])
        world.publish(name)
        assert world.published(name) == {0, 1}
    assert not world.may_switch(order[0]), "nobody has said yet that the others are known to it"
    for name in order:
        assert not world.may_switch(order[0])
        world.state(name)
    assert world.may_switch(order[0])
    world.switch()
    for name in order:
        world.publish(name)
        assert world.published(name) == {0, 1}, "others may still send with the old one"
    for name in order:
        world.state(name)
    for name in order:
        world.publish(name)
        assert world.published(name) == {1}
        assert not world.may_switch(name)


def test_a_host_that_is_not_ready_is_waited_for() -> None:
    world = World()
    world.begin()
    for name in NAMES:
        world.publish(name)
    assert not world.may_switch("a")
    for name in NAMES:
        world.state(name)
    late = world.statuses["c"]
    world.statuses["c"] = replace(late, ready_generation=0)
    assert not world.may_switch("a"), "its device could not be made"
    world.statuses["c"] = replace(late, applied_revision=3)
    assert not world.may_switch("a"), "it has not heard of the others' keys"
    world.statuses["c"] = late
    assert world.may_switch("a")


def test_a_host_whose_daemon_is_away_is_waited_for() -> None:
    """It may still forward, with the keys that it has."""
    world = World()
    world.begin()
    world.present.remove("c")
    for name in ("a", "b"):
        world.publish(name)
        world.state(name)
    assert not world.may_switch("a")
    world.publish("c")
    assert not world.may_switch("a")
    for name in NAMES:
        world.state(name)
    assert world.may_switch("a")
    world.switch()
    for name in ("a", "b"):
        world.publish(name)
        world.state(name)
        world.publish(name)
        assert world.published(name) == {0, 1}, "c still sends with the old key"
    for name in NAMES:
        world.state(name)
    for name in ("a", "b"):
        world.publish(name)
        assert world.published(name) == {1}


def test_one_that_was_gone_on_without_is_not_waited_for() -> None:
    world = World()
    world.begin()
    for name in ("a", "b"):
        world.publish(name)
    world.switch()
    for name in ("a", "b"):
        world.publish(name)
    for name in ("a", "b"):
        world.state(name)
    for name in ("a", "b"):
        world.publish(name)
        assert world.published(name) == {1}
    world.publish("c")
    assert world.published("c") == {0, 1}, "it catches up"


def test_a_host_that_is_removed_is_not_waited_for() -> None:
    world = World()
    world.begin()
    for name in ("a", "b"):
        world.publish(name)
    del world.hosts["c"]
    assert not world.may_switch("a")
    for name in ("a", "b"):
        world.state(name)
    assert world.may_switch("a")


def test_the_next_rotation_waits_until_the_old_device_is_gone() -> None:
    """Generations 0 and 2 share a device."""
    world = World()
    world.begin()
    for name in NAMES:
        world.publish(name)
    world.switch()
    world.begin()
    world.publish("a")
    assert world.published("a") == {0, 1}
    for name in NAMES:
        world.state(name)
    world.publish("a")
    world.publish("a")
    assert world.published("a") == {1, 2}


def test_a_host_that_missed_a_rotation_catches_up() -> None:
    world = World()
    world.cluster = replace(world.cluster, mesh_generation=3, next_generation=3)
    for _ in range(2):
        world.publish("c")
        assert world.published("c") == {0, 3}
    world.state("c")
    world.publish("c")
    assert world.published("c") == {3}


def test_hosts_without_keys_are_not_waited_for() -> None:
    world = World()
    world.hosts["c"] = replace(world.hosts["c"], underlay="none", keys={})
    world.begin()
    for name in ("a", "b"):
        world.publish(name)
    world.may_switch("a")
    for name in ("a", "b"):
        world.state(name)
    assert world.may_switch("a")


def test_a_device_that_failed_is_not_ready() -> None:
    world = World()
    world.hosts["a"] = replace(world.hosts["a"], keys={"0": "k", "1": "k"})
    view = world.view("a")
    assert view.ready_generation(frozenset()) == 1
    assert replace(view, failed={"fly1"}).ready_generation(frozenset()) == 0
    assert replace(view, meshes=()).ready_generation(frozenset()) == -1


def test_a_device_without_a_session_is_not_ready() -> None:
    """What is sent before the first handshake waits, but not for long."""
    world = World()
    world.present -= {"c"}
    world.hosts["a"] = replace(world.hosts["a"], keys={"0": "k", "1": "k"})
    peers = tuple(
        MeshPeerRow(device, host, "k", "192.0.2.1:51820", ())
        for device in ("fly0", "fly1")
        for host in ("b", "c")
    )
    view = replace(world.view("a"), peers=peers)
    assert view.ready_generation(frozenset()) == -1
    assert view.ready_generation({("fly0", "b")}) == 0, "nobody waits for c, which is away"
    assert view.ready_generation({("fly0", "b"), ("fly1", "c")}) == 0
    assert view.ready_generation({("fly0", "b"), ("fly1", "b")}) == 1
