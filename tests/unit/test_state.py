# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flyebpf.model.codec import encode
from flyebpf.model.records import App, MachineState, PrivateAddress
from flyebpf.model.state import Index, State, Update
from flyebpf.store.base import Change, Entry
from tests.records import CLUSTER, address, delete, deployment, machine, put, service, state, web


def test_load_finds_everything_again() -> None:
    one, two, other = machine(1), machine(2), machine(3, app="db", host="h2")
    loaded = web(two, one, other, App("db", "acme"))
    assert loaded.revision == 1
    assert loaded.cluster == CLUSTER
    assert loaded.machines_of("web") == [one, two]
    assert loaded.machines_on("h2") == [other]
    assert loaded.machines_at("h1", "tap1") == [one]
    assert loaded.machines_at("h2", "tap1") == []
    assert loaded.machines_with_ip(two.services_ip) == [two]
    assert loaded.addresses_of("web") == [address()]
    assert loaded.deployments["web"] == deployment(service(80))
    assert sorted(loaded.app_names()) == ["db", "web"]
    assert loaded.counts()["machine"] == 3


def test_lookups_of_what_is_not_there() -> None:
    empty = State()
    assert empty.cluster is None
    assert empty.machines_of("web") == []
    assert empty.addresses_of("web") == []
    assert empty.machines_with_ip("172.16.0.1") == []


def test_apply_tells_before_and_after() -> None:
    here, one = web(machine(1)), machine(1)
    stopped = replace(one, state=MachineState.STOPPED)
    assert here.apply(put(here, stopped)) == Update("machine", one.id, one, stopped)
    assert here.machines_of("web") == [stopped]
    assert here.apply(delete(here, one)) == Update("machine", one.id, stopped, None)
    assert here.machines_of("web") == []
    assert here.revision == 3


def test_indexes_follow_a_record_that_moves() -> None:
    here, one = web(machine(1)), machine(1)
    moved = replace(one, app="db", host="h2", interface="tap9", private_ip="172.16.9.9")
    here.apply(put(here, moved))
    assert here.machines_of("web") == here.machines_on("h1") == []
    assert here.machines_at("h1", "tap1") == here.machines_with_ip(one.private_ip) == []
    assert here.machines_of("db") == here.machines_on("h2") == [moved]
    assert here.machines_at("h2", "tap9") == here.machines_with_ip("172.16.9.9") == [moved]


def test_two_that_claim_the_same() -> None:
    one, two = machine(1), machine(2, interface="tap1")
    here = web(one, two)
    assert here.machines_at("h1", "tap1") == [one, two]
    assert not here.is_undisputed(one)
    assert not here.is_undisputed(two)
    here.apply(delete(here, two))
    assert here.is_undisputed(one)


@pytest.mark.parametrize(
    ("kind", "id", "body", "message"),
    [
        ("machine", "m1", {"id": "m1"}, "missing"),
        ("machine", "m1", {**encode(machine(1)), "number": "one"}, "number"),
        ("machine", "m1", encode(machine(1)), "body is that of"),
        ("app", "web", {**encode(App("web", "acme")), "colour": "red"}, "colour"),
        ("spaceship", "s1", {}, "unknown kind"),
    ],
)
def test_unreadable_records_are_set_aside(
    kind: str, id: str, body: dict[str, Any], message: str
) -> None:
    good = machine(7)
    entries = [Entry(kind, id, body, 1), Entry("machine", good.id, encode(good), 1)]
    loaded = State.load(1, entries)
    assert message in loaded.quarantined[kind, id]
    assert loaded.machines == {good.id: good}


def test_a_record_that_becomes_unreadable_is_gone_until_it_is_good_again() -> None:
    here, one = web(machine(1)), machine(1)
    update = here.apply(Change(2, "machine", one.id, {"id": one.id}))
    assert (update.before, update.after) == (one, None)
    assert here.machines_of("web") == []
    assert ("machine", one.id) in here.quarantined
    here.apply(put(here, one))
    assert here.machines_of("web") == [one]
    assert not here.quarantined
    here.apply(Change(9, "machine", one.id, {}))
    here.apply(delete(here, one))
    assert not here.quarantined


def test_a_change_older_than_the_state_is_ignored() -> None:
    here, one = web(machine(1)), machine(1)
    here.apply(Change(5, "app", "new", encode(App("new", "acme"))))
    update = here.apply(Change(4, "machine", one.id, None))
    assert update.before == update.after == one
    assert here.machines_of("web") == [one]
    assert here.revision == 5


def test_private_addresses_are_not_held() -> None:
    guard = PrivateAddress("172.16.0.2", "0" * 14)
    loaded = state(guard)
    assert loaded.apply(put(loaded, guard)) == Update("private_address", guard.ident, None, None)
    assert sum(loaded.counts().values()) == 1
    assert not loaded.quarantined


def test_index_keeps_ids_sorted_and_forgets_empty_words() -> None:
    index = Index()
    for ident in ("b", "a", "c", "a"):
        index.add("w", ident)
    assert index["w"] == ["a", "b", "c"]
    index.discard("w", "b")
    index.discard("w", "a")
    assert index.only("w", "c")
    index.discard("w", "x")
    index.discard("w", "c")
    index.discard("w", "c")
    assert index["w"] == []
    assert list(index.words()) == []
