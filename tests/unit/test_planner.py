# SPDX-License-Identifier: Apache-2.0
"""Planning what a change touches equals planning everything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyebpf.config import DaemonConfig
from flyebpf.model.certificates import DEFAULT, SelfSigned
from flyebpf.model.codec import encode
from flyebpf.model.records import (
    Address,
    AddressKind,
    App,
    Cluster,
    Host,
    HostStatus,
    Latency,
    MachineState,
    Network,
    Presence,
    WireguardPeer,
)
from flyebpf.model.rows import Row
from flyebpf.model.sixpn import HOST_BIT, peer_prefix
from flyebpf.model.state import State
from flyebpf.plan import HOST, Owner, Planner
from flyebpf.plan import planner as planner_module
from flyebpf.store.base import Change, Entry
from tests.records import (
    CLUSTER,
    CONFIG,
    MESH,
    PROXY,
    address,
    delete,
    deployment,
    host,
    machine,
    pair,
    put,
    service,
    web,
)

APPS = ("web", "db")
GROUPS = ("app", "worker")
IPS = (*(f"172.16.0.{n}" for n in range(6)), "10.0.0.1")
machines = st.builds(
    machine,
    st.integers(1, 4),
    app=st.sampled_from(APPS),
    host=st.sampled_from(("h1", "h1", "h2", "h3")),
    number=st.sampled_from((3, 101, 102, 103, 104)),
    interface=st.sampled_from(("tap1", "tap2", "tap3", "eth0")),
    private_ip=st.sampled_from(IPS),
    services_ip=st.sampled_from(IPS),
    group=st.sampled_from(GROUPS),
    state=st.sampled_from(MachineState),
    cordoned=st.booleans(),
)
addresses = st.builds(
    address,
    st.sampled_from(("203.0.113.1", "203.0.113.2", "192.0.2.1")),
    app=st.sampled_from(APPS),
    type=st.sampled_from((AddressKind.V4, AddressKind.V4, AddressKind.SHARED_V4)),
)
shared_addresses = st.builds(
    address,
    st.sampled_from(("198.51.100.1", "203.0.113.1")),
    app=st.sampled_from(APPS),
    type=st.just(AddressKind.SHARED_V4),
)
own_v6_addresses = st.builds(
    address,
    st.sampled_from(("2001:db8::1", "2001:db9::1")),
    app=st.sampled_from(APPS),
    type=st.just(AddressKind.V6),
)
private_addresses = st.builds(
    Address,
    st.sampled_from(("fdaa:0:7:0:1::1", "fdaa:0:8:0:1::1", "fdaa:0:7:0:1::2", "x")),
    st.sampled_from(APPS),
    st.just(AddressKind.PRIVATE_V6),
    st.sampled_from(("default", "other")),
    org=st.just("acme"),
)
certificates = st.builds(
    pair,
    st.sampled_from(("www.example.com", "*.fly.test", "web.fly.test", "db.flycast")),
    st.sampled_from((*APPS, "")),
)
signed = st.builds(SelfSigned, st.just(DEFAULT), st.just("c"), st.just("k"), st.just(""))
ports = st.sampled_from((80, 81, (80, 85), (84, 90)))
services = st.builds(
    service,
    ports,
    to=st.sampled_from((80, 8080)),
    protocol=st.sampled_from(("tcp", "udp")),
    groups=st.sampled_from(((), ("app",), ("worker",), GROUPS)),
    handlers=st.sampled_from(((), (), ("http",), ("http", "tls"), ("tls",), ("tls", "pg_tls"))),
)
deployments = st.builds(
    lambda found, **more: deployment(*found, **more),
    st.lists(services, max_size=3),
    app=st.sampled_from(APPS),
    processes=st.sampled_from((("app",), GROUPS)),
)
apps = st.builds(App, st.sampled_from(APPS), st.just("acme"), st.sampled_from(("default", "other")))
generations = st.integers(0, 2)
clusters = st.builds(
    Cluster,
    st.integers(1, 2),
    st.integers(1, 2),
    mesh_generation=generations,
    next_generation=generations,
)
regions = st.sampled_from(("ams", "fra", "lhr"))
names = st.sampled_from(("h1", "h2", "h3"))
hosts = st.builds(
    lambda name, like, **values: replace(host(like), name=name, **values),
    names,
    st.integers(1, 3),
    region=regions,
    underlay=st.sampled_from(("none", "wireguard", "wireguard", "plain")),
    endpoint=st.sampled_from(("", "192.0.2.1", "192.0.2.2", "2001:db8::3")),
    block=st.sampled_from(("172.16.0.0/20", "172.16.16.0/20", "172.17.0.0/16", "10.0.0.0/8")),
    keys=st.dictionaries(st.sampled_from(("0", "1", "2", "peers")), st.just("key")),
    drained=st.booleans(),
)
presences = st.builds(Presence, names)
latencies = st.builds(
    Latency, names, regions, st.dictionaries(regions, st.sampled_from((5000, 8000, 9000)))
)
networks = st.builds(
    Network, st.just("acme"), st.sampled_from(("default", "other")), st.sampled_from((0, 7, 8))
)
peers = st.builds(
    WireguardPeer,
    st.just("acme"),
    st.sampled_from(("default", "other")),
    st.sampled_from(("laptop", "phone")),
    names,
    st.sampled_from(("key1", "key2")),
    st.sampled_from(
        ("fdaa:0:7:8000:1:0:a:2/120", *(peer_prefix(7, HOST_BIT | 1, n) for n in (0, 1)))
    ),
    st.sampled_from(("2026-01-01", "2026-01-02")),
)
statuses = st.builds(HostStatus, names, st.sampled_from(("2026-01-01", "2026-01-02")))
of_apps = st.one_of(machines, machines, machines, addresses, deployments, apps, clusters, networks)
of_proxy = st.one_of(shared_addresses, own_v6_addresses, private_addresses, certificates, signed)
of_hosts = st.one_of(hosts, hosts, presences, latencies, latencies, peers, statuses)
records = st.one_of(of_apps, of_hosts, of_proxy)
actions = st.tuples(records, st.sampled_from(("put", "put", "put", "delete", "spoil")))

START = (
    CLUSTER,
    *(App(name, "acme") for name in APPS),
    *(deployment(service(80), app=name) for name in APPS),
    address("203.0.113.1", app="web"),
    address("203.0.113.2", app="db"),
    *(machine(n, app=APPS[n % 2], host=f"h{n % 3 + 1}") for n in range(1, 5)),
    host(1),
    host(2, "fra"),
    host(3, "lhr"),
    Network("acme", "default", 7),
    address("198.51.100.1", app="db", type=AddressKind.SHARED_V4),
    Address("fdaa:0:7:0:1::1", "web", AddressKind.PRIVATE_V6, "default", org="acme"),
)
"""A state where everything is planned, so that each change matters."""

Rows = dict[Owner, list[Row]]


def full(planner: Planner, state: State) -> Rows:
    planned = {owner: planner.rows(state, owner) for owner in planner.all_owners(state)}
    return {owner: rows for owner, rows in planned.items() if rows}


CONFIGS = {
    "alone": CONFIG,
    "wireguard": MESH,
    "plain": replace(MESH, mesh=replace(MESH.mesh, underlay="plain", interface="eth9")),
    "proxy": PROXY,
    "told": replace(MESH, mesh=replace(MESH.mesh, latency=("ams lhr 6", "fra lhr 1"))),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
@settings(max_examples=200, deadline=None)
@given(changes=st.lists(actions, max_size=25))
def test_any_changes_give_the_full_plan(
    config: DaemonConfig, changes: list[tuple[Any, str]]
) -> None:
    todo = [(record, "put") for record in START] + changes
    state, planner = State(), Planner(config)
    rows: Rows = full(planner, state)
    stored: dict[tuple[str, str], Entry] = {}
    for revision, (record, action) in enumerate(todo, 1):
        key = (record.kind, record.ident)
        body = {"put": encode(record), "spoil": {"x": 1}, "delete": None}[action]
        stored.pop(key, None)
        if body is not None:
            stored[key] = Entry(*key, body, revision)
        update = state.apply(Change(revision, *key, body))
        for owner in planner.owners(update, state):
            rows[owner] = planner.rows(state, owner)
    loaded, other = State.load(len(todo), stored.values()), Planner(config)
    assert {owner: found for owner, found in rows.items() if found} == full(other, loaded)
    assert planner.problems == other.problems
    texts = [text for found in planner.problems.values() for text in found]
    assert all(": " in text for text in texts), "what to do comes after the last colon"
    assert state.quarantined == loaded.quarantined


def touched(state: State, record: Any, *, gone: bool = False) -> set[Owner]:
    change = delete(state, record) if gone else put(state, record)
    return Planner(CONFIG).owners(state.apply(change), state)


def test_a_machines_state_touches_it_and_its_app_alone() -> None:
    here = web(machine(1), machine(2), machine(3, app="db"))
    stopped = machine(1, state=MachineState.STOPPED)
    names = ("names", "web")
    assert touched(here, stopped) == {("machine", stopped.id), ("app", "web"), names}


def test_services_and_addresses_touch_the_apps_machines_here() -> None:
    here = web(machine(1), machine(2, host="h2"), machine(3, app="db"))
    expected = {("app", "web"), ("names", "web"), ("machine", machine(1).id)}
    assert touched(here, deployment()) == expected
    assert touched(here, address(), gone=True) == expected
    moved = address(app="db")
    here = web(machine(1), machine(3, app="db"))
    assert touched(here, moved) == expected | {
        ("app", "db"),
        ("names", "db"),
        ("machine", machine(3).id),
    }


def test_whoever_waited_for_an_interface_gets_it() -> None:
    first, second = machine(1), machine(2, app="db", interface="tap1")
    here = web(first, second, App("db", "acme"))
    planner = Planner(CONFIG)
    assert planner.rows(here, ("machine", second.id)) == []
    assert touched(here, first, gone=True) >= {("machine", second.id), ("app", "db")}
    assert planner.rows(here, ("machine", second.id)) != []
    assert planner.problems == {}


def test_what_no_row_depends_on_touches_nobody() -> None:
    here = web(machine(1))
    assert touched(here, replace(CLUSTER, next_machine=7)) == set()
    assert touched(here, Network("acme", "other", 1)) == set()
    assert touched(here, HostStatus("h1", "2026-01-01T00:00:00Z", version="2")) == set()
    assert touched(here, Latency("h1", "ams")) == set()
    assert touched(here, Presence("h1")) == {("names", "web")}
    assert touched(here, Presence("h1")) == set()
    assert touched(here, Host("h2", 1 << 31, "ams", "172.16.16.0/20")) == set()
    assert touched(here, replace(CLUSTER, seed=1)) == {HOST}


def test_what_nobody_foresaw_in_a_record_is_its_owners_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One record must not end the daemons of all hosts, again and again."""
    planner, state = Planner(CONFIG), web(machine(1), machine(2, interface="tap2"))
    first, second = (("machine", machine(n).id) for n in (1, 2))
    plan = planner_module.plan_machine

    def fails(*args: Any) -> Any:
        if args[-1] == first[1]:
            raise ValueError("no such thing")
        return plan(*args)

    monkeypatch.setattr(planner_module, "plan_machine", fails)
    assert planner.rows(state, first) == [], "its interface goes down"
    assert planner.rows(state, second)
    (problem,) = planner.problems[first]
    assert "no such thing" in problem
    assert "damaged record" in problem
    assert caplog.records[-1].exc_info
    monkeypatch.undo()
    assert planner.rows(state, first)
    assert first not in planner.problems


def test_nothing_is_taken_away_where_the_hosts_own_rows_cannot_be_planned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: Any) -> Any:
        raise ValueError("no such thing")

    monkeypatch.setattr(planner_module, "plan_host", fails)
    with pytest.raises(ValueError, match="no such thing"):
        Planner(CONFIG).rows(web(), HOST)


def test_unknown_owner() -> None:
    with pytest.raises(ValueError, match="no such owner"):
        Planner(CONFIG).rows(State(), ("planet", "x"))
