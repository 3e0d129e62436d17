# SPDX-License-Identifier: Apache-2.0
"""Who sees what, and what changes do."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from flyebpf.dns import wire, zone
from flyebpf.dns.asker import Asker
from flyebpf.dns.view import View
from flyebpf.model.records import (
    Address,
    AddressKind,
    App,
    Host,
    Latency,
    Machine,
    Network,
    Presence,
)
from flyebpf.model.sixpn import HOST_BIT
from tests.dns_rig import (
    ALICE,
    ID,
    MALLORY,
    STOPPED,
    WORLD,
    ask,
    at,
    flycast,
    host,
    machine,
    nibbles,
    peer,
    question,
    view,
)

WEB = [at(16), at(17, "h2"), at(18, "h3")]
NAMES = (
    *("web.internal", "db.internal", "empty.internal", "ams.web.internal", "lhr.web.internal"),
    *("worker.process.web.internal", "replica.role.kv._metadata.web.internal"),
    *("top2.nearest.of.web.internal", "laptop._peer.internal", "web.flycast", "_api.internal"),
    *(f"{ID(number)}.vm.web.internal" for number in (16, 17, 18, 19)),
)
LISTS = (
    *("vms.web.internal", "all.vms.web.internal", "regions.web.internal", "_apps.internal"),
    *("_peer.internal", "_instances.internal", "all._instances.internal"),
)


@pytest.fixture(scope="module")
def world() -> View:
    return view()


# Tenants.

PRIVATE = (
    "secret.internal", f"{ID(50)}.vm.secret.internal", "ams.secret.internal",
    "global.secret.internal",
    "vms.secret.internal", "all.vms.secret.internal", "regions.secret.internal",
    "vm.secret.internal",
    "app.process.secret.internal", "primary.role.kv._metadata.secret.internal",
    "role.kv._metadata.secret.internal", "top1.nearest.of.secret.internal", "secret.flycast",
    "spy._peer.internal", "lab-app.internal",
)  # fmt: skip


@pytest.mark.parametrize("name", PRIVATE)
@pytest.mark.parametrize("type", ["AAAA", "TXT", "PTR", "ANY", "SOA", "A"])
def test_names_of_other_networks_are_like_names_of_nobody(
    world: View, name: str, type: str
) -> None:
    """Byte for byte what a world answers in which they never existed."""
    hidden = {"secret", "lab-app", "spy"}
    without = view(
        *(r for r in WORLD if getattr(r, "name", "") not in hidden)
        if False
        else (r for r in WORLD if not ({getattr(r, "app", ""), getattr(r, "name", "")} & hidden))
    )
    query = wire.parse(question(name, type, id=7))
    assert isinstance(query, wire.Query)
    here, there = zone.answer(world, query, ALICE), zone.answer(without, query, ALICE)
    assert here is not None
    assert there is not None
    assert wire.build(query, here, 1232) == wire.build(query, there, 1232)
    assert here.rcode == wire.Rcode.NXDOMAIN


def test_each_network_sees_its_own(world: View) -> None:
    assert ask(world, "secret.internal", asker=MALLORY).data == [at(50, network=3)]
    assert ask(world, "web.flycast", asker=MALLORY).data == [flycast(3, 1)]
    assert ask(world, "_api.internal", asker=MALLORY).data == ["fdaa:0:3::3"]
    assert ask(world, "_apps.internal", "TXT", asker=MALLORY).text == "secret"
    assert ask(world, "_peer.internal", "TXT", asker=MALLORY).text == "spy"
    instances = ask(world, "all._instances.internal", "TXT", asker=MALLORY).text
    assert instances.count("instance=") == 1
    assert ask(world, "web.internal", asker=MALLORY).rcode == "NXDOMAIN"


def test_a_network_that_does_not_exist_has_no_names(world: View) -> None:
    stranger = Asker(77, HOST_BIT | 1, 500)
    for name in ("web.internal", "secret.internal", "web.flycast", "laptop._peer.internal"):
        assert ask(world, name, asker=stranger).rcode == "NXDOMAIN"
    for name in ("_apps.internal", "_peer.internal", "_instances.internal"):
        assert ask(world, name, "TXT", asker=stranger).data == []


# Changes.


def test_a_stopped_machine_is_gone_at_once() -> None:
    here = view()
    assert len(ask(here, "web.internal").data) == 3
    here.put(machine(16, state=STOPPED))
    assert sorted(ask(here, "web.internal").data) == sorted(WEB[1:])
    assert ID(16) not in ask(here, "vms.web.internal", "TXT").text
    assert ID(16) not in ask(here, "_instances.internal", "TXT").text
    assert ask(here, "primary.role.kv._metadata.web.internal").rcode == "NXDOMAIN"
    here.remove("machine", ID(16))
    assert ID(16) not in ask(here, "all.vms.web.internal", "TXT").text
    assert ask(here, f"{ID(16)}.vm.web.internal").rcode == "NXDOMAIN"
    here.put(machine(16))
    assert sorted(ask(here, "web.internal").data) == sorted(WEB)


def test_a_machine_that_moves_has_another_address() -> None:
    here = view()
    ask(here, "web.internal")
    here.put(machine(16, host="h5"))
    assert at(16, "h5") in ask(here, "web.internal").data
    assert ask(here, nibbles(at(16)), "PTR").rcode == "NXDOMAIN"
    assert ask(here, nibbles(at(16, "h5")), "PTR").data == [f"{ID(16)}.vm.web.internal."]


def test_a_machine_that_changes_its_app() -> None:
    here = view()
    ask(here, "web.internal"), ask(here, "db.internal")
    here.put(machine(16, app="db"))
    assert ask(here, "db.internal").data == [at(16)]
    assert at(16) not in ask(here, "web.internal").data


@pytest.mark.parametrize("seed", range(5))
def test_any_order_of_records_and_changes_gives_the_same_names(seed: int) -> None:
    """Against a view that was made from the final records alone."""
    dice = random.Random(seed)
    changed = list(WORLD)
    dice.shuffle(changed)
    here = view(*changed)
    final = {(r.kind, r.ident): r for r in changed}
    for _ in range(200):
        record = dice.choice(changed)
        key = record.kind, record.ident
        if dice.random() < 0.5:
            here.remove(*key)
            final.pop(key, None)
        else:
            if isinstance(record, Machine):
                record = replace(record, host=dice.choice(["h1", "h2", "h3"]))
            here.put(record)
            final[key] = record
        if dice.random() < 0.2:
            for name in ("web.internal", "vms.web.internal"):
                ask(here, name)
    fresh = View()
    for record in final.values():
        fresh.put(record)
    for name in (*NAMES, *PRIVATE):
        for asker in (ALICE, MALLORY):
            one, two = ask(here, name, asker=asker), ask(fresh, name, asker=asker)
            assert (one.rcode, sorted(one.data)) == (two.rcode, sorted(two.data)), name
    for name in LISTS:
        assert ask(here, name, "TXT").data == ask(fresh, name, "TXT").data, name
    assert here.counts() == fresh.counts()


def test_drained_and_absent_hosts_give_no_addresses() -> None:
    here = view()
    here.put(replace(host("h1"), drained=True))
    assert sorted(ask(here, "web.internal").data) == sorted(WEB[1:])
    assert ID(16) in ask(here, "all.vms.web.internal", "TXT").text
    here.put(host("h1"))
    here.put(Presence("h1"))
    here.put(Presence("h3"))
    assert sorted(ask(here, "web.internal").data) == sorted([WEB[0], WEB[2]])
    here.remove("presence", "h3")
    assert ask(here, "web.internal").data == [at(16)]
    here.remove("presence", "h1")  # nobody is there: it is the store that is away
    assert sorted(ask(here, "web.internal").data) == sorted(WEB)


def test_latencies_follow_their_records() -> None:
    here = view(*WORLD, machine(19, host="h4"))
    assert ask(here, "top3.nearest.of.web.internal").data[2] == at(19, "h4")
    for name in ("h1", "h2"):
        here.put(Latency(name, "ams", {"fra": 10, "lhr": 20}))
    assert ask(here, "top3.nearest.of.web.internal").data[2] == at(18, "h3")
    for name in ("h1", "h2"):
        here.remove("latency", name)
    assert here.distances.from_region("ams") == {"ams": -1}


def test_records_that_a_hand_wrote_wrong_hurt_only_themselves() -> None:
    here = view(
        *WORLD,
        Host("h9", 9, "ams", "172.16.0.0/20"),
        machine(60, host="h1", region="ams"),
        replace(machine(61), host="h9"),
        replace(machine(62), number=0),
        replace(peer("bad", 9), address="not an address"),
        App("odd", "acme", "odd"),
        Network("acme", "odd", 1 << 40),
        machine(63, app="odd"),
    )
    assert sorted(ask(here, "web.internal").data) == sorted([*WEB, at(60)])
    assert ask(here, "bad._peer.internal").rcode == "NXDOMAIN"


# Records that nobody of us wrote.


def test_of_two_networks_with_one_number_the_first_has_it() -> None:
    """As in the plan. The other one's names are nobody's, whoever was read first."""
    twin = Network("zeta", "default", 1)
    records = [*WORLD, twin, App("twin", "zeta"), machine(60, app="twin")]
    for order in (records, records[::-1]):
        made = view(*order)
        assert sorted(ask(made, "web.internal").data) == WEB
        assert ask(made, "twin.internal").rcode == "NXDOMAIN"
        assert ask(made, "_apps.internal", "TXT").text == "db,empty,web"
    made.remove("network", "acme/default")
    assert ask(made, "twin.internal").data == [at(60)]
    assert ask(made, "web.internal").rcode == "NXDOMAIN"


def test_an_address_of_another_network_than_its_record_names_is_nobodys() -> None:
    foreign = Address(
        flycast(1, 9), "secret", AddressKind.PRIVATE_V6, network="default", org="globex"
    )
    spy = replace(peer("spy2", 7), org="globex")
    made = view(*WORLD, foreign, spy)
    for asker in (ALICE, MALLORY):
        assert ask(made, "spy2._peer.internal", asker=asker).data == []
    assert ask(made, "secret.flycast").rcode == "NXDOMAIN"
    assert ask(made, nibbles(flycast(1, 9)), "PTR").rcode == "NXDOMAIN"
    assert ask(made, "secret.flycast", asker=MALLORY).data == [flycast(3, 2)]
    assert "secret" not in made.flycast_of(1)
