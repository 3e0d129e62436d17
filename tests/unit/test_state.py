# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyebpf.model.codec import encode
from flyebpf.model.index import Blocks, Index
from flyebpf.model.records import (
    App,
    Host,
    HostStatus,
    Latency,
    MachineState,
    Network,
    Presence,
    PrivateAddress,
    WireguardPeer,
)
from flyebpf.model.sixpn import HOST_BIT
from flyebpf.model.state import State, Update
from flyebpf.store.base import Change, Entry
from tests.records import (
    CLUSTER,
    HERE,
    THERE,
    address,
    delete,
    deployment,
    machine,
    put,
    service,
    state,
    web,
)


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
    assert sum(loaded.counts().values()) == sum(state().counts().values())
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


def test_hosts_by_region_and_what_they_measured() -> None:
    here = state(HERE, THERE, Latency("h2", "fra", {"ams": 8000}), Presence("h2"))
    assert here.fleet.regions() == {"ams", "fra"}
    assert here.fleet.hosts_in("fra") == [THERE]
    assert [found.host for found in here.fleet.measured_in("fra")] == ["h2"]
    assert set(here.fleet.presences) == {"h2"}
    before = here.fleet.version
    here.apply(put(here, replace(THERE, region="ams")))
    here.apply(delete(here, Latency("h2", "fra")))
    assert here.fleet.regions() == {"ams"}
    assert here.fleet.measured_in("fra") == []
    assert here.fleet.version > before


def test_what_a_host_says_of_itself_is_no_change_of_the_fleet() -> None:
    here = state(HERE, THERE)
    before = here.fleet.version
    here.apply(put(here, HostStatus("h2", "2026-01-01T00:00:00Z")))
    assert here.host_status["h2"].seen.startswith("2026")
    assert here.fleet.version == before


@pytest.mark.parametrize(
    ("values", "rivals"),
    [
        ({}, []),
        ({"number": HERE.number}, ["h1"]),
        ({"endpoint": "192.0.2.1"}, ["h1"]),
        ({"block": "172.16.0.0/20"}, ["h1"]),
        ({"block": "172.16.0.0/16"}, ["h1", "h2"]),
        ({"block": "172.16.17.0/24"}, ["h2"]),
        ({"block": "172.16.32.0/20"}, []),
        ({"block": "nonsense", "number": THERE.number}, ["h2"]),
    ],
)
def test_hosts_that_claim_the_same(values: dict[str, Any], rivals: list[str]) -> None:
    third = replace(Host("h3", HOST_BIT | 9, "ams", "172.17.0.0/20"), **values)
    here = state(replace(HERE, endpoint="192.0.2.1"), THERE, third)
    assert [host.name for host in here.fleet.rivals(third)] == rivals
    for host in (HERE, THERE):
        others = [other.name for other in here.fleet.rivals(here.hosts[host.name])]
        assert others == (["h3"] if host.name in rivals else [])
    here.apply(delete(here, third))
    assert here.fleet.rivals(third) == [here.hosts[name] for name in rivals]


@given(st.lists(st.tuples(st.integers(0, 31), st.integers(27, 32)), max_size=12))
def test_blocks_find_what_comparing_all_would(prefixes: list[tuple[int, int]]) -> None:
    blocks = Blocks()
    all_of: dict[str, IPv4Network] = {}
    for number, (first, length) in enumerate(prefixes):
        all_of[str(number)] = IPv4Network((first >> (32 - length) << (32 - length), length))
        blocks.add(all_of[str(number)], str(number))
    for name in list(all_of)[::3]:
        blocks.discard(all_of.pop(name), name)
    for first, length in prefixes:
        one = IPv4Network((first >> (32 - length) << (32 - length), length))
        assert blocks.overlapping(one) == {n for n, b in all_of.items() if b.overlaps(one)}


def test_networks_of_apps_and_numbers() -> None:
    one, two = Network("acme", "default", 7), Network("acme", "other", 7)
    here = state(App("web", "acme"), App("db", "acme", "other"), App("lost", "nobody"), one, two)
    assert here.network_of("web") == one
    assert here.network_of("lost") is None
    assert here.network_of("nothing") is None
    assert here.apps_in("acme/other") == ["db"]
    assert here.networks_with_number(7) == [one, two]


def test_two_machines_of_one_number() -> None:
    one, two = machine(1), machine(2, number=machine(1).number, host="h2")
    here = web(one, two)
    assert here.machines_with_number(one.number) == [one, two]
    assert not here.is_undisputed(one)


def test_users_peers_of_a_gateway() -> None:
    one = WireguardPeer("acme", "default", "laptop", "h1", "key1", "fdaa::/120")
    two = replace(one, name="phone", public_key="key2", address="fdaa::100/120")
    here = state(one, two)
    assert here.peers_at("h1") == [one, two]
    assert here.peers_like(one) == []
    assert here.peers_like(replace(one, name="x", public_key="key2")) == [one, two]
    here.apply(delete(here, two))
    assert here.peers_at("h1") == [one]
