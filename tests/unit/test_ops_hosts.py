# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from flyebpf.errors import ConflictError, InvalidError, NotFoundError
from flyebpf.model.records import (
    AnyRecord,
    Host,
    HostStatus,
    Latency,
    Machine,
    Presence,
    WireguardPeer,
)
from flyebpf.ops import hosts, machines, wireguard
from flyebpf.ops.transact import Tx, every, find, transact
from flyebpf.store.base import Entry, Store
from flyebpf.store.sqlite import SqliteStore
from tests.stores import add_host, config, region

H2 = config(host="h2", block="172.16.32.0/20")
MAC = "02:00:00:00:00:01"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with region(tmp_path) as store:
        add_host(store, 2, present=False)
        yield store


def put(store: SqliteStore, record: AnyRecord) -> None:
    transact(store, lambda tx: tx.put(record))


def add_machine(store: SqliteStore, interface: str = "tap0") -> Machine:
    return machines.add(store, H2, "web", interface=interface, mac=MAC)


def test_what_a_list_says(store: SqliteStore) -> None:
    status = HostStatus("h2", "2026-11-20T18:00:00Z", version="1", peers={"h1": ""})
    put(store, status)
    put(store, Presence("h2"))
    add_machine(store)
    wireguard.create(store, H2, "laptop", "acme")
    h1, h2 = hosts.list_all(store)
    assert (h1.host.name, h1.status, h1.present, h1.machines, h1.peers) == (
        "h1", None, False, 0, 0,
    )  # fmt: skip
    assert (h2.host.name, h2.status, h2.present, h2.machines, h2.peers) == (
        "h2", status, True, 1, 1,
    )  # fmt: skip
    assert [hosts.get(store, view.host.name) for view in (h1, h2)] == [h1, h2]


def test_machines_that_the_daemon_has_counted_are_not_read(store: SqliteStore) -> None:
    add_machine(store)
    read: list[str] = []

    class Watched:
        def list(self, kind: str) -> list[Entry]:
            read.append(kind)
            return store.list(kind)

        def get(self, kind: str, ident: str) -> Entry | None:
            return store.get(kind, ident)

    watched, counted = cast("Store", Watched()), {"h2": (7, 3)}
    h1, h2 = hosts.list_all(watched, counted)
    assert ((h1.machines, h1.peers), (h2.machines, h2.peers)) == ((0, 0), (7, 3))
    assert hosts.get(watched, "h2", counted) == h2
    assert set(read) == {Host.kind, HostStatus.kind, Presence.kind}


def test_drain_and_undrain(store: SqliteStore) -> None:
    hosts.set_drained(store, "h2", True)
    assert find(store, Host, "h2").drained
    before = store.revision()
    hosts.set_drained(store, "h2", True)
    assert store.revision() == before
    hosts.set_drained(store, "h2", False)
    assert not find(store, Host, "h2").drained


def test_remove_takes_all_that_is_the_hosts(store: SqliteStore) -> None:
    for record in (HostStatus("h2", "x"), Latency("h2", "ams")):
        put(store, record)
    number = find(store, Host, "h2").number
    assert hosts.remove(store, config(), "h2").host.number == number
    for kind in (HostStatus, Latency, Presence):
        assert every(store, kind) == []
    assert [host.name for host in every(store, Host)] == ["h1"]
    assert add_host(store, 2).number == number + 1  # a number is never used again


@pytest.mark.parametrize(
    ("name", "match"), [("h1", "is the one that was asked"), ("h2", "still has machine")]
)
def test_remove_refuses(store: SqliteStore, name: str, match: str) -> None:
    machine = add_machine(store)
    before = store.revision()
    with pytest.raises(ConflictError, match=match):
        hosts.remove(store, config(), name)
    assert store.revision() == before
    assert machines.get(store, machine.id) == machine


def test_remove_refuses_a_host_that_is_there(store: SqliteStore) -> None:
    put(store, Presence("h2"))
    with pytest.raises(ConflictError, match="daemon of host 'h2' is running"):
        hosts.remove(store, config(), "h2")
    hosts.remove(store, config(), "h2", force=True)
    assert [host.name for host in every(store, Host)] == ["h1"]


def test_force_removes_machines_and_peers(store: SqliteStore) -> None:
    made = {add_machine(store, f"tap{number}").id for number in range(7)}
    peer = wireguard.create(store, H2, "laptop", "acme").peer
    with pytest.raises(ConflictError, match="and 3 more"):
        hosts.remove(store, config(), "h2")
    removed = hosts.remove(store, config(), "h2", force=True)
    assert {machine.id for machine in removed.machines} == made
    assert removed.peers == (peer,)
    assert every(store, Machine) == []
    assert every(store, WireguardPeer) == []


class Busy(SqliteStore):
    """Somebody adds a machine to h2 once, after a look at the machines and
    before the commit that depends on it."""

    armed = False

    def list(self, kind: str) -> list[Entry]:
        found = super().list(kind)
        if kind == Machine.kind and self.armed:
            Busy.armed = False
            machines.add(self, H2, "web", interface="tap9", mac=MAC)
        return found


def test_a_machine_added_meanwhile_keeps_the_host(tmp_path: Path) -> None:
    with region(tmp_path) as store:
        add_host(store, 2, present=False)
    busy = Busy(tmp_path / "state.db", durable=False)
    Busy.armed = True
    with pytest.raises(ConflictError, match="still has machine"):
        hosts.remove(busy, config(), "h2")
    (machine,) = every(busy, Machine)
    assert machine.host == find(busy, Host, "h2").name
    busy.close()


@pytest.mark.parametrize(
    ("name", "error", "match"),
    [("h3", NotFoundError, "host 'h3' does not exist"), ("a b", InvalidError, "host name 'a b'")],
)
def test_wrong_names(store: SqliteStore, name: str, error: type[Exception], match: str) -> None:
    before = store.revision()
    for operation in (
        lambda: hosts.get(store, name),
        lambda: hosts.set_drained(store, name, True),
        lambda: hosts.remove(store, config(), name, force=True),
    ):
        with pytest.raises(error, match=match):
            operation()
    assert store.revision() == before


def test_a_host_that_is_gone_is_told_to_those_that_add_to_it(store: SqliteStore) -> None:
    hosts.remove(store, config(), "h2")
    with pytest.raises(Exception, match="host 'h2' is not registered"):
        add_machine(store)
    assert Tx(store).get(Host, "h2") is None


def test_a_drained_host_keeps_everything_else(store: SqliteStore) -> None:
    before = find(store, Host, "h2")
    hosts.set_drained(store, "h2", True)
    assert find(store, Host, "h2") == replace(before, drained=True)
