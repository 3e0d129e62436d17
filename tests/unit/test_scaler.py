# SPDX-License-Identifier: Apache-2.0
"""What a host tells the others of machines' use, and what it takes from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from unittest.mock import Mock

import pytest

from flyebpf.daemon.scaler import Scaler, View, view
from flyebpf.model.proxyrows import ProxyClusterRow, ProxyEndpoint
from flyebpf.model.records import Deployment, Load, MachineState, Presence
from flyebpf.model.state import State
from flyebpf.ops.transact import every
from flyebpf.proxy import loads
from flyebpf.proxy.loads import Loads
from flyebpf.proxy.wake import REPORTED
from flyebpf.store.base import Store, StoreUnavailableError
from flyebpf.store.sqlite import SqliteStore
from tests.records import host, machine, service, web
from tests.stores import config, region

CONFIG = replace(config(engine="envoy"), store="etcd")
NOTHING = View((), {}, ())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with region(tmp_path) as store:
        yield store


def made(store: Store, led: Mapping[str, frozenset[str]] = MappingProxyType({})) -> Scaler:
    """One that knows what the store has, and whose threads do not run."""
    scaler = Scaler(
        CONFIG,
        store,
        Loads(),
        look=lambda: NOTHING,
        more=lambda _: None,
        led=lambda: led,
        packets=dict,
    )
    scaler.loaded(State.load(*store.snapshot()))
    return scaler


def test_what_was_told_before_a_restart(store: SqliteStore) -> None:
    """It stands until there has been a look, and not longer."""
    made(store)._tell(active={"one": 1}, held=("two",), apps=("web",))
    later = made(store)
    later._tell(held=())
    assert every(store, Load) == [Load("h1", {"one": 1}, (), ("web",))]
    later._tell(active={}, apps=())
    assert every(store, Load) == [Load("h1")]


def test_nothing_new_is_not_written(store: SqliteStore) -> None:
    scaler = made(store)
    scaler._tell(held=())
    assert every(store, Load) == []
    scaler._tell(active={"one": 0})
    revision = store.revision()
    scaler._tell(active={"one": 0}, held=())
    assert store.revision() == revision


def test_a_store_that_was_away(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one thread says later is what the other has found before."""
    scaler = made(store)
    with monkeypatch.context() as patched:
        patched.setattr(store, "commit", away)
        with pytest.raises(StoreUnavailableError):
            scaler._tell(active={"one": 1}, apps=("web",))
    scaler._tell(held=())
    assert every(store, Load) == [Load("h1", {"one": 1}, (), ("web",))]


def test_clients_of_another_daemon(store: SqliteStore) -> None:
    """Where those that a machine was started for were led to, only that daemon knew:
    none of its machines is stopped while they are there."""
    one, two = machine(1), machine(2)
    ends = tuple(ProxyEndpoint(m.id, m.private_ip, 80, m.region) for m in (one, two))
    row = ProxyClusterRow("web/80:app", "web", ends, True, watched=True)
    led: dict[str, frozenset[str]] = {}
    scaler = made(store, led)
    scaler._loads.take({row.name: {REPORTED: [3, 0.0]}})
    assert scaler.busy(one)
    assert scaler._uses([row]) == ({one.id: 3, two.id: 3}, set())
    assert not scaler._is_full(row)
    led[row.name] = frozenset((two.id,))
    assert not scaler.busy(one)
    assert scaler.busy(two)
    assert scaler._uses([row]) == ({two.id: 3}, set())
    scaler._loads.take({row.name: {REPORTED: [0, 0.0]}})
    assert not scaler.busy(two)


def test_nothing_is_known_yet(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that finds a machine being stopped waits for what Envoy has to say."""
    scaler = made(store)
    assert not scaler.busy(machine(1))
    scaler._loads.forget()
    assert scaler.busy(machine(1))
    monkeypatch.setattr(loads, "YOUNG", 0.0)
    assert not scaler.busy(machine(1))


def away(_: object) -> int:
    raise StoreUnavailableError("away")


def test_who_is_looked_at() -> None:
    """An order to a host that is gone does not keep a region's machines running."""
    deployment = Deployment("web", (replace(service(80), auto_stop="stop"),))
    stuck = machine(2, host="h2", state=MachineState.STOPPING)
    engine = Mock(config=CONFIG, state=web(deployment, machine(1), stuck, host(2), Presence("h1")))
    driver = Mock(clusters=list)
    assert view(engine, driver).apps["web"][1] == (machine(1),)
    engine.state = web(deployment, machine(1), stuck, host(2), Presence("h2"))
    assert view(engine, driver).apps["web"][1] == (machine(1), stuck)
