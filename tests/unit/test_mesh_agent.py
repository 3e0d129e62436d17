# SPDX-License-Identifier: Apache-2.0
"""What a host says about itself, and its keys in the store."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flyebpf.config import DaemonConfig, MeshConfig
from flyebpf.daemon import mesh_keys, mesh_status
from flyebpf.daemon.mesh import MeshAgent
from flyebpf.daemon.mesh_rotation import Rotation, View
from flyebpf.drivers.wireguard import Device, Peer
from flyebpf.drivers.wireguard_keys import Keys
from flyebpf.model.codec import encode
from flyebpf.model.records import PEERS_KEY, Cluster, Host, HostStatus, Latency, Presence
from flyebpf.model.rows import MeshPeerRow, MeshRow
from flyebpf.ops import cluster
from flyebpf.ops.transact import Tx, every, find, transact
from flyebpf.store.base import Delete, Transaction
from flyebpf.store.sqlite import SqliteStore
from flyebpf.wireguardkeys import public_half

MESH = MeshConfig(underlay="wireguard", endpoint="192.0.2.1")
ROW = MeshRow("fly0", "wireguard", 0, 51820, ("fdaa:8000:1::1/128",), 1420)
PEER = MeshPeerRow("fly0", "h2", "KEY", "192.0.2.2:51820", ("fdaa:8000:2::/48",))


class Rig:
    def __init__(self, folder: Path) -> None:
        self.store = SqliteStore(folder / "s.db", durable=False)
        self.config = DaemonConfig("h1", "ams", ("eth0",), state_dir=str(folder), mesh=MESH)
        self.keys = Keys(folder)
        _, self.host = cluster.ensure(self.store, self.config)
        self.loaded = True

    def view(self) -> View | None:
        if not self.loaded:
            return None
        return View(
            self.store.revision(),
            find(self.store, Cluster, "cluster"),
            {host.name: host for host in every(self.store, Host)},
            {status.host: status for status in every(self.store, HostStatus)},
            {record.host for record in every(self.store, Presence)},
            (ROW,),
            (PEER,),
        )

    def agent(self) -> MeshAgent:
        return MeshAgent(self.config, self.store, self.view, version="1", programs="abc")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.store.close()


def wait_for(what: object) -> None:
    deadline = time.monotonic() + 5.0
    while not what():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_the_first_keys_are_published_at_the_start(rig: Rig) -> None:
    mesh_keys.publish_first(rig.store, MESH, rig.keys, rig.host)
    found = find(rig.store, Host, "h1").keys
    assert found == {"0": rig.keys.public(0), PEERS_KEY: rig.keys.public(PEERS_KEY)}
    revision = rig.store.revision()
    mesh_keys.publish_first(rig.store, MESH, rig.keys, find(rig.store, Host, "h1"))
    assert rig.store.revision() == revision, "nothing new"


def test_keys_of_a_rotation_survive_a_restart(rig: Rig) -> None:
    mesh_keys.publish_first(rig.store, MESH, rig.keys, rig.host)
    host = replace(find(rig.store, Host, "h1"), keys={"0": "old", "1": rig.keys.public(1)})
    transact(rig.store, lambda tx: tx.put(host))
    mesh_keys.publish_first(rig.store, MESH, rig.keys, host)
    found = find(rig.store, Host, "h1").keys
    assert set(found) == {"0", "1", PEERS_KEY}
    assert found["0"] == public_half(rig.keys.private(0)), "what the file says counts"


def test_without_wireguard_there_is_only_the_users_key(rig: Rig) -> None:
    plain = replace(MESH, underlay="plain")
    mesh_keys.publish_first(rig.store, plain, rig.keys, rig.host)
    assert set(find(rig.store, Host, "h1").keys) == {PEERS_KEY}
    assert rig.keys.generations() == set()


def test_a_key_is_forgotten_when_nobody_needs_it(rig: Rig) -> None:
    for generation in (0, 1, 2):
        rig.keys.private(generation)
    view = rig.view()
    assert view is not None
    host = replace(rig.host, keys={"2": rig.keys.public(2)})
    view = replace(
        view,
        cluster=replace(view.cluster, mesh_generation=2, next_generation=2),
        hosts={"h1": host},
        meshes=(replace(ROW, generation=1), replace(ROW, generation=2)),
    )
    mesh_keys.step(rig.store, MESH, rig.keys, Rotation("h1"), view)
    assert rig.keys.generations() == {1, 2}, "a device still uses 1"


def test_the_switch_is_made_once(rig: Rig) -> None:
    before = find(rig.store, Cluster, "cluster")
    mesh_keys.switch(rig.store, 1)
    assert find(rig.store, Cluster, "cluster") == before, "no rotation is going on"
    transact(rig.store, lambda tx: tx.put(replace(before, next_generation=1)))
    mesh_keys.switch(rig.store, 1)
    revision = rig.store.revision()
    mesh_keys.switch(rig.store, 1)
    assert rig.store.revision() == revision
    assert find(rig.store, Cluster, "cluster").mesh_generation == 1


def test_a_host_says_that_it_is_there_and_how_it_is(rig: Rig) -> None:
    agent = rig.agent()
    rig.loaded = False
    agent.start()
    wait_for(lambda: rig.store.get(Presence.kind, "h1"))
    assert rig.store.get(HostStatus.kind, "h1") is None, "nothing is known yet"
    rig.loaded = True
    wait_for(lambda: rig.store.get(HostStatus.kind, "h1"))
    agent.stop()
    status = find(rig.store, HostStatus, "h1")
    assert (status.version, status.programs, status.ready_generation) == ("1", "abc", 0)
    assert status.peers == {"h2": ""}
    assert rig.store.get(Presence.kind, "h1"), "the next daemon may be there soon"
    assert "0" in find(rig.store, Host, "h1").keys
    assert agent.errors == [] or "assign" in agent.errors[0]  # no such address here


def test_a_presence_that_somebody_took_away_is_put_again_at_once(rig: Rig) -> None:
    """Not only when it would have been renewed."""
    agent = rig.agent()
    agent.start()
    wait_for(lambda: rig.store.get(Presence.kind, "h1"))
    rig.store.commit(Transaction((), (Delete(Presence.kind, "h1"),)))
    wait_for(lambda: rig.store.get(Presence.kind, "h1"))
    agent.stop()


@pytest.mark.parametrize("gone", [True, False], ids=["removed", "another machine's"])
def test_who_is_host_no_more_says_nothing_as_that_host(rig: Rig, gone: bool) -> None:
    def take_away(tx: Tx) -> None:
        if gone:
            tx.delete(Host, "h1")
        else:
            tx.put(replace(find(rig.store, Host, "h1"), identity="b" * 16, endpoint="192.0.2.9"))

    transact(rig.store, take_away)
    revision = rig.store.revision()
    agent = MeshAgent(
        rig.config, rig.store, rig.view, version="1", programs="abc", identity="a" * 16
    )
    for part in agent._parts[1::-1]:  # the mesh's, which looks, and then presence
        part._once()
    assert rig.store.revision() == revision, "no key, no status, no presence"
    (fault,) = agent.faults
    assert ("removed" if gone else "at 192.0.2.9") in fault.message
    assert fault.remedy


def test_a_host_that_goes_is_not_told_by_all_others_at_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = rig.agent()
    view = rig.view()
    assert view is not None
    hosts = {f"h{n}": replace(rig.host, name=f"h{n}") for n in range(1, 1001)}
    large, now = replace(view, hosts=hosts), [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    agent._state(large)
    revision = rig.store.revision()
    for _ in range(9):
        now[0] += 10.0
        agent._state(replace(large, failed={"fly0"}))
    assert rig.store.revision() == revision
    now[0] += 10.0
    agent._state(replace(large, failed={"fly0"}))
    assert rig.store.revision() == revision + 1


def seen(handshake: float) -> mesh_status.Seen:
    peer = Peer("KEY", "192.0.2.2:51820", handshake=handshake, received=5, sent=7)
    return mesh_status.Seen("wireguard-go", {"fly0": Device(b"", 51820, {"KEY": peer})})


def test_news_are_peers_that_come_and_go_not_every_handshake(rig: Rig) -> None:
    view, now = rig.view(), time.time()
    assert view is not None
    fresh = mesh_status.signature(view, seen(now))
    assert fresh == mesh_status.signature(view, seen(now - 100))
    assert fresh != mesh_status.signature(view, seen(now - 200))
    assert fresh != mesh_status.signature(replace(view, failed={"fly0"}), seen(now))


def crowd(rig: Rig, up: int, down: int) -> HostStatus:
    """The status of a host with so many others, of which some have a session."""
    view, now = rig.view(), time.time()
    assert view is not None
    names = [f"host{n:04}" for n in range(up + down)]
    rows = tuple(replace(PEER, host=name, public_key=name) for name in names)
    known = {
        name: Peer(name, "192.0.2.2:51820", handshake=now - (10 if n < up else 1000))
        for n, name in enumerate(names)
    }
    here = mesh_status.Seen("kernel", {"fly0": Device(b"", 51820, known)})
    large = replace(view, peers=rows, present=frozenset(names[-3:]))
    return mesh_status.host_status("h1", large, here, version="1", programs="abc")


def test_a_status_does_not_grow_with_the_cluster(rig: Rig) -> None:
    well, ill = crowd(rig, 999, 0), crowd(rig, 400, 599)
    assert (well.connected, well.unconnected, well.peers) == (999, 0, {})
    assert len(json.dumps(encode(well))) < 400
    assert (ill.connected, ill.unconnected, len(ill.peers)) == (400, 599, 20)
    assert set(ill.peers) >= {"host0996", "host0997", "host0998"}, "first, those that are there"
    assert all(at.endswith("Z") for at in ill.peers.values())
    assert len(json.dumps(encode(ill))) < 1500
    assert ill.mtu == 1420


def test_handshakes_are_known_here(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, now = rig.agent(), time.time()
    assert agent.handshakes() == {}
    monkeypatch.setattr(mesh_status, "look", lambda _reader, _names: seen(now))
    view = rig.view()
    assert view is not None
    agent._state(view)
    assert agent.handshakes() == {"h2": mesh_status.text(now)}


def test_what_status_shows(rig: Rig) -> None:
    view = rig.view()
    assert view is not None
    shown = mesh_status.mesh_status(view, seen(time.time() - 10), {"h2": 0.004})
    (device,), (peer,) = shown.devices, shown.peers
    assert (device.interface, device.implementation, device.port) == ("fly0", "wireguard-go", 51820)
    assert (peer.host, peer.present, peer.received, peer.sent, peer.rtt) == (
        "h2", False, 5, 7, 0.004,
    )  # fmt: skip
    assert peer.handshake_age == pytest.approx(10, abs=1)
    bare = mesh_status.mesh_status(view, mesh_status.Seen("", {}), {})
    assert bare.peers[0].handshake_age is None
    assert bare.devices[0].implementation == ""


def test_latencies_are_told_when_they_change(rig: Rig) -> None:
    agent = rig.agent()
    agent._tell("ams", {})
    assert rig.store.get(Latency.kind, "h1") is None
    agent._tell("ams", {"fra": 8000})
    assert find(rig.store, Latency, "h1").microseconds == {"fra": 8000}
    agent._told_at = float("-inf")
    agent._tell("ams", {"fra": 8500})
    assert find(rig.store, Latency, "h1").microseconds == {"fra": 8000}
    agent._tell("ams", {"fra": 16000, "iad": 90000})
    assert find(rig.store, Latency, "h1") == Latency("h1", "ams", {"fra": 16000, "iad": 90000})
