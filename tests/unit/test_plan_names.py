# SPDX-License-Identifier: Apache-2.0
"""Names as rows: what the DNS server answers, for networks that are here."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from flyebpf.dns import wire, zone
from flyebpf.dns.asker import Asker
from flyebpf.dns.wire import labels_of
from flyebpf.model.namehash import LABELS_MAX, NAME_MAX, fits, name_hash
from flyebpf.model.records import (
    Address,
    AddressKind,
    AnyRecord,
    App,
    Machine,
    MachineState,
    Network,
    Presence,
)
from flyebpf.model.rows import NameRow
from flyebpf.model.sixpn import HOST_BIT
from flyebpf.model.state import State
from flyebpf.plan.planner import Planner
from tests import records
from tests.dns_rig import ID, NETWORKS, WORLD, flycast, host, machine, view
from tests.records import CONFIG

ASKERS = {number: Asker(number, HOST_BIT | 1, 500) for number in NETWORKS.values()}


def state_of(*found: AnyRecord) -> State:
    return records.state(*found)


def rows_of(state: State, config: Any = CONFIG) -> dict[tuple[int, bytes], NameRow]:
    planner = Planner(config)
    rows = [row for owner in planner.all_owners(state) for row in planner.rows(state, owner)]
    names = [row for row in rows if isinstance(row, NameRow)]
    assert len({row.key for row in names}) == len(names), "a name twice"
    return {(row.network, row.name): row for row in names}


def check(found: tuple[AnyRecord, ...], config: Any = CONFIG) -> dict[tuple[int, bytes], NameRow]:
    """Every row is what the server answers; returns them."""
    rows, known = rows_of(state_of(*found), config), view(*found)
    for (network, name), row in rows.items():
        query = wire.Query(1, 0, name, wire.Type.AAAA, wire.IN, name)
        answer = zone.answer(known, query, ASKERS[network])
        assert answer is not None
        assert tuple(answer.rdata) == row.addresses, name
        assert answer.type == wire.Type.AAAA
        assert not answer.ordered
        assert 1 <= len(row.addresses) <= 8
        assert row.digest == name_hash(name)
    return rows


def text(name: bytes) -> str:
    return b".".join(labels_of(name)).decode()


def test_names_are_those_of_the_server() -> None:
    rows = check(WORLD)
    names = {text(name) for network, name in rows if network == 1}
    assert names >= {
        "web.internal",
        "global.web.internal",
        "ams.web.internal",
        "fra.web.internal",
        f"{ID(16)}.vm.web.internal",
        "worker.process.web.internal",
        "primary.role.kv._metadata.web.internal",
        "1.2.3.version.kv._metadata.web.internal",
        "yes.app.kubernetes.kv._metadata.web.internal",
        "web.flycast",
    }
    assert "db.internal" not in names, "nothing of it runs"


def test_flycast_names_are_on_the_networks_of_their_callers() -> None:
    """The app's own or another one, and nowhere else; only where machines ask."""
    rows = check(WORLD)
    found = {(network, text(name)) for network, name in rows if text(name).endswith(".flycast")}
    assert found == {(1, "web.flycast"), (3, "web.flycast"), (3, "secret.flycast")}
    there = rows_of(state_of(*WORLD), replace(CONFIG, host="h3"))
    assert {network for network, name in there if text(name).endswith(".flycast")} == {1}


def test_a_flycast_address_that_is_another_networks_has_no_name() -> None:
    wrong = Address(flycast(2, 1), "web", AddressKind.PRIVATE_V6, "default", org="acme")
    rows = rows_of(state_of(*WORLD, wrong))
    assert (2, wire.name_of("web.flycast")) not in rows
    assert len(rows[1, wire.name_of("web.flycast")].addresses) == 1


def test_only_networks_that_are_here() -> None:
    here = {network for network, _ in rows_of(state_of(*WORLD))}
    assert here == {1, 2, 3}
    elsewhere = {network for network, _ in rows_of(state_of(*WORLD), replace(CONFIG, host="h3"))}
    assert elsewhere == {1}
    assert rows_of(state_of(*WORLD), replace(CONFIG, host="h5")) == {}


def test_names_of_more_than_eight_addresses_are_the_servers() -> None:
    many = tuple(machine(n, group="odd" if n % 2 else "even") for n in range(100, 109))
    found = check((*(r for r in WORLD if not isinstance(r, Machine)), *many))
    names = {text(name) for network, name in found if network == 1}
    assert "web.internal" not in names
    assert {"odd.process.web.internal", "even.process.web.internal"} <= names


@pytest.mark.parametrize(
    "change",
    [
        (host("h1", drained=True),),
        (Presence("h1"),),
        (Presence("h3"), Presence("h2")),
        (machine(16, state=MachineState.STOPPED),),
        (machine(60, region="vms"), machine(61, region="global"), machine(62, region="regions")),
        (machine(60, metadata={"É": "Ü", "a..b": "c", "x": "y" * 64, "z": "long." * 40 + "er"}),),
        (machine(60, metadata={"a": "1.2.3.4.5.6.7.8"}),),
        (machine(60, group="a.b"),),
        (Network("acme", "default", 9),),
        (Address(flycast(1, 7), "web", AddressKind.PRIVATE_V6, network="default", org="acme"),),
        (Address("nowhere", "web", AddressKind.PRIVATE_V6, network="default", org="acme"),),
    ],
    ids=lambda change: type(change[0]).__name__.lower(),
)
def test_changes(change: tuple[AnyRecord, ...]) -> None:
    kept = {(record.kind, record.ident): record for record in (*WORLD, *change)}
    ASKERS[9] = Asker(9, HOST_BIT | 1, 500)
    check(tuple(kept.values()))


def test_random_worlds() -> None:
    rng = random.Random(3)
    for _ in range(60):
        found: list[AnyRecord] = [r for r in WORLD if not isinstance(r, Machine)]
        for number in range(100, 100 + rng.randint(0, 25)):
            found.append(
                machine(
                    number,
                    app=rng.choice(("web", "db", "empty", "lab-app", "secret")),
                    host=rng.choice(("h1", "h2", "h3")),
                    state=rng.choice((MachineState.STARTED, MachineState.STOPPED)),
                    group=rng.choice(("app", "worker")),
                    metadata={"role": rng.choice("ab")},
                )
            )
        found += [Presence(name) for name in rng.sample(("h1", "h2", "h3"), rng.randint(0, 3))]
        rng.shuffle(found)
        check(tuple(found))


def test_apps_and_networks_that_come_late() -> None:
    check(tuple(reversed(WORLD)))
    without = rows_of(state_of(*(r for r in WORLD if not isinstance(r, Network))))
    assert not {network for network, _ in without} & {1, 2, 3}
    assert rows_of(state_of(*(r for r in WORLD if not isinstance(r, App)))) == {}


def test_hash() -> None:
    name = wire.name_of("web.internal")
    assert name_hash(name) != name_hash(wire.name_of("wea.internal"))
    assert len({name_hash(wire.name_of(f"{n}.internal")) for n in range(20_000)}) == 20_000
    assert fits(name)
    assert not fits(wire.name_of(".".join("a" * (LABELS_MAX + 1))))
    assert not fits(wire.name_of(".".join(["a" * 60] * 3)))
    assert len(wire.name_of(".".join(["a" * 60] * 3))) > NAME_MAX
