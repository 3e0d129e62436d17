# SPDX-License-Identifier: Apache-2.0
"""Which machine is started for a client."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flyebpf.model.records import AnyRecord, Host, Latency, Machine, MachineState, Presence
from flyebpf.model.state import State
from flyebpf.plan import Planner
from flyebpf.plan.autostart import Choice
from tests.records import MESH, host, machine, web

STARTED, STOPPED, SUSPENDED, STARTING, STOPPING = (
    MachineState.STARTED,
    MachineState.STOPPED,
    MachineState.SUSPENDED,
    MachineState.STARTING,
    MachineState.STOPPING,
)
ONE = machine(1, state=STOPPED)
TWO = machine(2, state=STOPPED)
FAR = machine(3, state=STOPPED, host="h2", region="fra")


def able(number: int, **values: str) -> Host:
    return host(number, commands=("start", "stop"), **values)


def choice(*records: AnyRecord) -> Choice:
    """Of app web, in the view of host h1."""
    here, there = able(1), able(2, region="fra")
    present = (Presence("h1"), Presence("h2"))
    of: State = web(here, there, *present, *records)
    return Planner(MESH).choice(of, "web", ("app",))


def candidates(*records: AnyRecord) -> list[Machine]:
    return list(choice(*records).candidates)


def test_the_nearest_first() -> None:
    measured = Latency("h1", "ams", {"fra": 8000})
    assert candidates(FAR, TWO, ONE, measured) == [ONE, TWO, FAR]


def test_what_is_soonest_there() -> None:
    suspended, stopping = replace(TWO, state=SUSPENDED), machine(4, state=STOPPING)
    assert candidates(ONE, suspended, stopping) == [stopping, suspended, ONE]


def test_what_failed_comes_last() -> None:
    failed = replace(ONE, error="start: exit 1", state=SUSPENDED)
    assert candidates(failed, TWO) == [TWO, failed]


@pytest.mark.parametrize(
    "record",
    [
        replace(ONE, cordoned=True),
        replace(ONE, group="worker"),
        replace(ONE, state=STARTED),
        replace(ONE, state=STARTING),
        replace(ONE, host="h3"),
        replace(ONE, app="other"),
    ],
)
def test_who_cannot_be_started(record: Machine) -> None:
    assert candidates(record, TWO) == [TWO]


def test_hosts_that_cannot() -> None:
    assert candidates(FAR, host(2, region="fra")) == []
    assert candidates(FAR, able(2, region="fra", drained=True)) == []  # type: ignore[arg-type]
    gone = web(able(1), able(2), Presence("h1"), FAR)
    assert not Planner(MESH).choice(gone, "web", ("app",)).candidates


def test_what_runs_or_will() -> None:
    runs, will = replace(ONE, state=STARTED), replace(TWO, state=STARTING)
    found = choice(runs, will, FAR, replace(machine(5), state=STARTED, cordoned=True))
    assert found == Choice((runs,), (will,), (FAR,))
