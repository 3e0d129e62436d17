# SPDX-License-Identifier: Apache-2.0
"""Which machines nobody needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flyebpf.model.records import Concurrency, Deployment, Machine, MachineState
from flyebpf.plan.autostop import Stop, Use, surplus
from tests.records import machine, service

STOPPED, SUSPENDED = MachineState.STOPPED, MachineState.SUSPENDED
SERVICE = replace(service(80), auto_stop="stop", concurrency=Concurrency("requests", 10))
ONE, TWO, THREE = machine(1), machine(2), machine(3)


def deployed(*services: Any, **values: Any) -> Deployment:
    return Deployment("web", services or (SERVICE,), **values)


def stops(
    machines: list[Machine], uses: dict[int, int], deployment: Deployment | None = None
) -> list[Stop]:
    known = {machine(number).id: Use(active) for number, active in uses.items()}
    return list(surplus(deployment or deployed(), machines, known))


def chosen(*arguments: Any) -> list[str]:
    return [stop.machine.id for stop in stops(*arguments)]


@pytest.mark.parametrize(
    ("uses", "stopped"),
    [
        ({}, [ONE]),  # nobody has anything to do
        ({1: 0, 2: 0, 3: 0}, [ONE]),  # all had something
        ({1: 5}, [TWO]),
        ({1: 9, 2: 8, 3: 1}, [THREE]),  # the one that has the least to do
        ({1: 10, 2: 3}, [THREE]),  # 3 - (1 + 1)
        ({1: 10, 2: 10, 3: 1}, []),  # 3 - (2 + 1)
        ({1: 10, 2: 10}, []),  # one is kept that has room
        ({1: 10, 2: 10, 3: 12}, []),
    ],
)
def test_more_than_enough(uses: dict[int, int], stopped: list[Machine]) -> None:
    """Running, less those over the soft limit, less one more."""
    assert chosen([ONE, TWO, THREE], uses) == [one.id for one in stopped]


def test_one_that_gets_no_clients() -> None:
    """It goes before one that serves them, and has as little to do."""
    found = surplus(deployed(), [ONE, TWO], {}, {TWO.id})
    assert [stop.machine for stop in found] == [TWO]


def test_a_lone_one() -> None:
    assert chosen([ONE], {}) == [ONE.id]
    assert chosen([ONE], {1: 0}) == []  # it had something to do lately


def test_each_region_for_itself() -> None:
    far = [machine(number, region="fra", host="h2") for number in (4, 5)]
    found = stops([ONE, TWO, *far], {2: 1})
    assert [stop.machine for stop in found] == [ONE, far[0]]
    assert found[0].running == (ONE, TWO)


def test_the_least_that_run() -> None:
    """In the primary region alone, where there is one."""
    two = replace(SERVICE, min_machines_running=2)
    far = [machine(number, region="fra") for number in (4, 5)]
    primary = deployed(two, primary_region="ams")
    assert chosen([ONE, TWO, *far], {}, primary) == [far[0].id]
    assert chosen([ONE, TWO, THREE], {}, primary) == [ONE.id]
    assert chosen([*far], {}, deployed(two)) == []


def test_who_is_not_stopped() -> None:
    off = replace(SERVICE, auto_stop="off")
    assert stops([ONE], {}, deployed(off)) == []
    assert stops([ONE], {}, deployed(SERVICE, off)) == []  # it serves both
    assert stops([replace(ONE, group="worker")], {}) == []  # no service of its own
    assert stops([replace(ONE, cordoned=True)], {}) == []
    assert stops([replace(ONE, state=STOPPED)], {}) == []


@pytest.mark.parametrize("state", ["starting", "stopping", "suspending"])
def test_what_is_changing_is_waited_for(state: str) -> None:
    assert stops([ONE, TWO, replace(THREE, state=MachineState(state))], {}) == []


def test_suspend_where_all_services_say_so() -> None:
    suspend = replace(SERVICE, auto_stop="suspend")
    assert stops([ONE], {}, deployed(suspend))[0].goal is SUSPENDED
    assert stops([ONE], {}, deployed(suspend, SERVICE))[0].goal is STOPPED


def test_the_lowest_soft_limit() -> None:
    low = replace(SERVICE, concurrency=Concurrency("connections", 2))
    assert chosen([ONE, TWO], {1: 2}, deployed(SERVICE, low)) == []
    assert chosen([ONE, TWO], {1: 1}, deployed(SERVICE, low)) == [TWO.id]
