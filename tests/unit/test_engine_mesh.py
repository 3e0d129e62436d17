# SPDX-License-Identifier: Apache-2.0
"""The engine of a host among others: its mesh devices and who is on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from flyebpf.config import DaemonConfig, MeshConfig
from flyebpf.daemon.engine import Engine
from flyebpf.drivers.link import Link
from flyebpf.model.records import Cluster, Host, Presence
from flyebpf.model.rows import HostRow, MeshPeerRow, MeshRow, Row, SettingsRow, UserPeerRow
from flyebpf.ops import cluster
from flyebpf.ops.transact import find, transact
from flyebpf.reconcile.base import Failure
from flyebpf.store.base import Change, StoreUnavailableError
from flyebpf.store.sqlite import SqliteStore
from tests.unit.test_engine import CONFIG, Rest, Rig

MESHED = replace(CONFIG, mesh=MeshConfig(underlay="wireguard", endpoint="192.0.2.1"))


class Mesh(Rest):
    """A mesh driver that remembers."""

    name = "mesh"
    kinds: tuple[type[Row], ...] = (MeshRow, MeshPeerRow, UserPeerRow)
    fails: tuple[object, ...] = ()

    def apply(
        self, kind: type[Row], puts: Sequence[Row], deletes: Sequence[object]
    ) -> list[Failure]:
        super().apply(kind, puts, deletes)  # type: ignore[arg-type]
        return [Failure(kind, row.key, "no") for row in puts if row.key in self.fails]


class MeshRig(Rig):
    def start(self, config: DaemonConfig = MESHED) -> Engine:
        self.mesh = Mesh()
        self.links.real["fly0"] = Link(20, bytes(6), False)
        return super().start(config)


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MeshRig]:
    store = SqliteStore(tmp_path / "s.db", durable=False)
    _, own = cluster.ensure(store, MESHED)
    other = Host("h2", 0, "fra", "172.16.16.0/20", "wireguard", "192.0.2.2", 51820, {"0": "K2"})
    transact(store, lambda tx: cluster.register(tx, other))
    transact(store, lambda tx: tx.put(replace(own, keys={"0": "K1"})))
    transact(store, lambda tx: tx.put(Presence("h2")))
    made = MeshRig.__new__(MeshRig)
    original = Engine.__init__

    def with_mesh(self: Engine, *args: object, **words: object) -> None:
        original(self, *args, mesh=made.mesh, **words)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "__init__", with_mesh)
    made.__init__(store)  # type: ignore[misc]
    yield made
    store.close()


def test_devices_and_hosts_are_applied(rig: MeshRig) -> None:
    assert rig.engine.mesh_view() is None, "nothing is known yet"
    rig.engine.load()
    rig.engine.sync_full()
    (device,) = rig.mesh.rows[MeshRow].values()
    assert isinstance(device, MeshRow)
    assert (device.interface, device.generation, device.sending) == ("fly0", 0, True)
    (peer,) = rig.mesh.rows[MeshPeerRow].values()
    assert peer.key == ("fly0", "h2")


def test_there_is_no_view_of_what_is_only_half_applied(
    rig: MeshRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a host would say too early that all send with the new keys."""
    rig.engine.load()
    rig.engine.sync_full()
    shared = find(rig.store, Cluster, "cluster")
    transact(rig.store, lambda tx: tx.put(replace(shared, mesh_generation=1)))
    changes, calls = rig.store.changes, []

    def once(since: int, limit: int = 1000) -> list[Change]:
        calls.append(since)
        if len(calls) == 2:
            raise StoreUnavailableError("the store has gone away")
        return changes(since, limit)

    monkeypatch.setattr(rig.store, "changes", once)
    with pytest.raises(StoreUnavailableError):
        rig.engine.catch_up()
    assert rig.engine.mesh_view() is None
    rig.engine.catch_up()
    view = rig.engine.mesh_view()
    assert view is not None
    assert (view.cluster.mesh_generation, view.revision) == (1, rig.store.revision())


def test_the_view_is_of_what_the_kernel_holds(rig: MeshRig) -> None:
    rig.engine.load()
    rig.engine.sync_full()
    view = rig.engine.mesh_view()
    assert view is not None
    assert view.revision == rig.store.revision()
    assert set(view.hosts) == {"h1", "h2"}
    assert view.present == {"h2"}
    assert view.ready_generation({("fly0", "h2")}) == 0
    transact(rig.store, lambda tx: tx.put(replace(find(rig.store, Host, "h2"), region="iad")))
    later = rig.engine.mesh_view()
    assert later is not None
    assert later.revision < rig.store.revision(), "not applied yet"
    assert later.hosts["h2"].region == "fra"
    rig.engine.catch_up()
    assert view.hosts["h2"].region == "fra", "a view does not change"


@pytest.mark.parametrize("key", ["fly0", ("fly0", "h2")])
def test_a_device_with_a_failure_is_not_ready(rig: MeshRig, key: object) -> None:
    rig.mesh.fails = (key,)
    rig.engine.load()
    rig.engine.sync_full()
    view = rig.engine.mesh_view()
    assert view is not None
    assert view.failed == {"fly0"}
    assert view.ready_generation({("fly0", "h2")}) == -1


def test_another_generation_is_another_device(rig: MeshRig) -> None:
    rig.engine.load()
    rig.engine.sync_full()
    for name in ("h1", "h2"):
        host = find(rig.store, Host, name)
        keys = host.keys | {"1": name}
        transact(rig.store, lambda tx, host=host, keys=keys: tx.put(replace(host, keys=keys)))  # type: ignore[misc]
    rig.links.real["fly1"] = Link(21, bytes(6), False)
    rig.engine.catch_up()
    assert {row.interface for row in rows(rig, MeshRow)} == {"fly0", "fly1"}
    assert {row.key for row in rows(rig, MeshPeerRow)} == {("fly0", "h2"), ("fly1", "h2")}
    view = rig.engine.mesh_view()
    assert view is not None
    assert view.ready_generation({("fly0", "h2"), ("fly1", "h2")}) == 1
    assert [row.interface for row in rig.engine.reconciler.wanted(HostRow)] == ["fly0"]
    flip = replace(find(rig.store, Cluster, "cluster"), mesh_generation=1, next_generation=1)
    transact(rig.store, lambda tx: tx.put(flip))
    rig.engine.catch_up()
    assert [row.interface for row in rig.engine.reconciler.wanted(HostRow)] == ["fly1"]
    assert {row.interface: row.sending for row in rows(rig, MeshRow)} == {
        "fly0": False,
        "fly1": True,
    }


def rows(rig: MeshRig, kind: type[Row]) -> list[MeshRow]:
    return list(rig.mesh.rows[kind].values())  # type: ignore[arg-type]


def test_a_device_that_is_made_anew_gets_all_that_was_on_it(rig: MeshRig) -> None:
    rig.engine.load()
    rig.engine.sync_full()
    before = rig.maps["hosts"].data.copy()
    rig.mesh.puts.clear()
    rig.engine.links_changed({"fly0", "eth9"})
    assert [type(row) for row in rig.mesh.puts] == [MeshRow], "it is as it was"
    rig.links.real["fly0"] = Link(33, bytes(6), False)
    rig.mesh.puts.clear()
    rig.engine.links_changed({"fly0"})
    assert {type(row) for row in rig.mesh.puts} == {MeshRow, MeshPeerRow}
    assert rig.maps["hosts"].data != before, "its new index"


def test_programs_of_the_mesh_are_held_back_too(rig: MeshRig) -> None:
    rig.engine.hold(True)
    rig.engine.load()
    rig.engine.sync_full()
    rig.mesh.puts.clear()
    rig.engine.replace_held()
    assert rig.mesh.held == [True, False]
    assert rig.rest.held == [True, False]
    assert MeshRow in {type(row) for row in rig.mesh.puts}
    assert not rig.engine.reconciler.failures
    assert rig.engine.reconciler.wanted(SettingsRow)
