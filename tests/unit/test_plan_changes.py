# SPDX-License-Identifier: Apache-2.0
"""Single changes in a cluster: each matters, and the owners that it touches are
enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from flyebpf.config import DaemonConfig
from flyebpf.model.health import CheckResult, MachineChecks
from flyebpf.model.records import (
    AnyRecord,
    App,
    Check,
    Latency,
    MachineState,
    Network,
    Presence,
    WireguardPeer,
)
from flyebpf.model.rows import Row
from flyebpf.model.sixpn import HOST_BIT, peer_prefix
from flyebpf.model.state import State
from flyebpf.plan import Owner, Planner
from tests.records import (
    CLUSTER,
    MESH,
    address,
    delete,
    deployment,
    host,
    machine,
    put,
    service,
    web,
)

FAR = {"fra": 8000, "lhr": 9000}
ONE, TWO, THREE = host(1), host(2, "fra"), host(3, "lhr")
M2, M3 = machine(2, host="h2"), machine(3, host="h3")
LAPTOP = WireguardPeer(
    "acme", "default", "laptop", "h1", "key1", peer_prefix(7, HOST_BIT | 1, 0), "2026-01-01"
)
PHONE = replace(LAPTOP, name="phone", created="2026-01-02")
BOTH_KEYS = {"0": "old", "1": "new"}
WORLD: tuple[AnyRecord, ...] = (ONE, TWO, THREE, M2, M3, Latency("h1", "ams", FAR))
PRESENT = (*WORLD, Presence("h1"), Presence("h2"), Presence("h3"))


@dataclass(frozen=True, slots=True)
class Case:
    """``before``: besides app web; ``gone``: the change deletes its record."""

    name: str
    before: Sequence[AnyRecord]
    change: AnyRecord
    gone: bool = False


def rotated(generation: int) -> AnyRecord:
    return replace(CLUSTER, mesh_generation=generation, next_generation=generation)


CHECKED = deployment(replace(service(80), checks=(Check("tcp"),)))
FAILS = MachineChecks(M2.id, (CheckResult("servicecheck-00-tcp-8080", False, "why"),))

CASES = [
    Case("a check fails", (*WORLD, CHECKED), FAILS),
    Case("a check is forgotten", (*WORLD, CHECKED, FAILS), FAILS, gone=True),
    Case("a daemon stops", PRESENT, Presence("h2"), gone=True),
    Case("the first daemon that is there", WORLD, Presence("h3")),
    Case("the last daemon that was there", (*WORLD, Presence("h3")), Presence("h3"), gone=True),
    Case("another host is drained", WORLD, replace(TWO, drained=True)),
    Case("this host is drained", (*WORLD, machine(1)), replace(ONE, drained=True)),
    Case("a host publishes its key", (*WORLD, replace(TWO, keys={})), TWO),
    Case("a host publishes its next key", WORLD, replace(TWO, keys=BOTH_KEYS)),
    Case("this host publishes its key", (*WORLD, replace(ONE, keys={})), ONE),
    Case("this host publishes its next key", WORLD, replace(ONE, keys=BOTH_KEYS)),
    Case("a host goes", WORLD, TWO, gone=True),
    Case("a host comes", (ONE, M2), TWO),
    Case("a host changes its address", WORLD, replace(TWO, endpoint="192.0.2.99")),
    Case("a host is in another region", WORLD, replace(TWO, region="nrt")),
    Case("a host loses its number to an older one", WORLD, replace(TWO, number=THREE.number)),
    Case("a host lets go of a number", (*WORLD, replace(TWO, number=THREE.number)), TWO),
    Case("this host is its rival", WORLD, replace(TWO, number=ONE.number, name="h0")),
    Case("new keys are sent with", (*WORLD, replace(ONE, keys=BOTH_KEYS),
         replace(TWO, keys={"1": "new"}), replace(THREE, keys=BOTH_KEYS)), rotated(1)),
    Case("this host has only the old key", WORLD, rotated(1)),
    Case("two regions change places", WORLD,
         Latency("h1", "ams", {"fra": 10_000, "lhr": 9000})),
    Case("nothing was measured any more", (*WORLD[:-1], Latency("h1", "ams", {"lhr": 1})),
         Latency("h1", "ams"), gone=True),
    Case("what measured is in another region", (*WORLD[:-1], Latency("h1", "ams", {"lhr": 1})),
         Latency("h1", "nrt", {"lhr": 1})),
    Case("a machine moves here", WORLD, machine(2)),
    Case("a machine moves away", (*WORLD, machine(1)), machine(1, host="h2")),
    Case("a machine elsewhere is stopped", WORLD, replace(M2, state=MachineState.STOPPED)),
    Case("an older machine elsewhere has its number",
         WORLD, replace(machine(9, host="h3", app="db"), id="0" * 14, number=M2.number)),
    Case("an app serves nothing any more", WORLD, deployment(service(80)), gone=True),
    Case("an app has no address any more", WORLD, address(), gone=True),
    Case("a network gets its record", (*WORLD, machine(1), App("web", "acme", "late")),
         Network("acme", "late", 9)),
    Case("a network takes another's number", (machine(1), App("web", "acme", "late"),
         Network("acme", "late", 9)), Network("acme", "early", 9)),
    Case("a network lets go of a number", (machine(1), App("web", "acme", "late"), ONE,
         Network("acme", "late", 9), Network("acme", "early", 9)),
         Network("acme", "early", 9), gone=True),
    Case("the first peer of this gateway", WORLD, LAPTOP),
    Case("the last one goes", (*WORLD, LAPTOP), LAPTOP, gone=True),
    Case("a key is free for another peer", (*WORLD, LAPTOP, PHONE), LAPTOP, gone=True),
    Case("a peer's network goes", (*WORLD, LAPTOP), Network("acme", "default", 7), gone=True),
]  # fmt: skip


def full(planner: Planner, state: State) -> dict[Owner, list[Row]]:
    planned = {owner: planner.rows(state, owner) for owner in planner.all_owners(state)}
    return {owner: rows for owner, rows in planned.items() if rows}


def settled(config: DaemonConfig, case: Case) -> set[Owner]:
    """The owners that the change touches; asserts that they are enough, and that
    the change makes a difference."""
    here, planner = web(*case.before), Planner(config)
    rows = full(planner, here)
    before, problems = dict(rows), dict(planner.problems)
    change = delete(here, case.change) if case.gone else put(here, case.change)
    touched = planner.owners(here.apply(change), here)
    for owner in touched:
        rows[owner] = planner.rows(here, owner)
    after = {owner: found for owner, found in rows.items() if found}
    other = Planner(config)
    assert after == full(other, here)
    assert planner.problems == other.problems
    assert (after, planner.problems) != (before, problems), "it matters"
    return touched


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_owners_of_a_change_are_enough(case: Case) -> None:
    settled(MESH, case)


@pytest.mark.parametrize(
    ("name", "owners"),
    [
        ("a daemon stops", {("app", "web"), ("names", "web")}),
        ("another host is drained", {("app", "web"), ("names", "web")}),
        ("a host publishes its next key", {("mesh", "h2")}),
        ("this host publishes its next key", {("host",), ("mesh", "h2"), ("mesh", "h3")}),
    ],
)
def test_what_goes_on_all_the_time_touches_few(name: str, owners: set[Owner]) -> None:
    (case,) = (case for case in CASES if case.name == name)
    assert settled(MESH, case) == owners


def test_an_order_that_stays_touches_nobody() -> None:
    here = web(*WORLD)
    change = put(here, Latency("h1", "ams", {"fra": 8500, "lhr": 9500}))
    assert Planner(MESH).owners(here.apply(change), here) == set()
    change = put(here, Latency("h2", "fra", {"ams": 1}))
    assert Planner(MESH).owners(here.apply(change), here) == set(), "that is no region of ours"
