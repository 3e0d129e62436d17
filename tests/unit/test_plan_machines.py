# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flyebpf.model.records import Machine, MachineState
from flyebpf.model.rows import InterfaceRow, ReplyRow, Row, SlotRow
from flyebpf.plan import Planner
from tests.records import CONFIG, HERE, machine, web

ONE = machine(1)


def rows(*machines: Machine, of: Machine = ONE) -> tuple[list[Row], str]:
    planner = Planner(CONFIG)
    found = planner.rows(web(*machines), ("machine", of.id))
    return found, "\n".join(planner.problems.get(("machine", of.id), []))


def guarded(of: Machine) -> InterfaceRow:
    """The guard of an interface that nothing passes."""
    return InterfaceRow(of.interface, of.id, of.mac, ())


@pytest.mark.parametrize(
    ("values", "live"),
    [
        ({}, True),
        ({"cordoned": True}, True),
        ({"state": MachineState.STOPPED}, False),
        ({"state": MachineState.SUSPENDED}, False),
    ],
)
def test_slot_interface_and_reply_whatever_the_state(values: dict[str, Any], live: bool) -> None:
    found, problem = rows(replace(ONE, **values))
    addresses = ("172.16.0.2", "172.16.0.3")
    assert found == [
        SlotRow(ONE.id, "tap1", "02:00:00:00:00:01", *addresses, live, 7, HERE.number, 101),
        InterfaceRow("tap1", ONE.id, "02:00:00:00:00:01", addresses),
        ReplyRow(ONE.id, 6, 8080, "203.0.113.1", 80, "web/tcp/80@203.0.113.1", unique=True),
    ]
    assert not problem


def test_machines_of_other_hosts_have_no_rows_here() -> None:
    assert rows(replace(ONE, host="h2")) == ([], "")
    assert rows() == ([], "")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"private_ip": "10.0.0.2"}, "10.0.0.2 is not in the private prefix 172.16.0.0/12"),
        ({"services_ip": "172.32.0.1"}, "172.32.0.1 is not in"),
        ({"services_ip": "fdaa::1"}, "fdaa::1 is not in"),
        ({"private_ip": ""}, "not in"),
        ({"services_ip": "172.16.0.2"}, "both"),
    ],
)
def test_impossible_addresses_leave_the_interface_guarded(
    values: dict[str, Any], message: str
) -> None:
    bad = replace(ONE, **values)
    found, problem = rows(bad)
    assert found == [guarded(bad)]
    assert message in problem


def test_an_uplink_is_never_a_machines() -> None:
    found, problem = rows(replace(ONE, interface="eth0"))
    assert found == []
    assert "eth0 is an uplink" in problem


def test_the_older_of_two_machines_keeps_the_interface() -> None:
    younger = replace(machine(2), id="0" * 14, interface="tap1")
    assert rows(ONE, younger) == rows(ONE)
    found, problem = rows(ONE, younger, of=younger)
    assert found == []
    assert "tap1" in problem


def test_one_interface_name_on_two_hosts_is_no_conflict() -> None:
    assert rows(ONE, machine(2, interface="tap1", host="h2")) == rows(ONE)


@pytest.mark.parametrize(
    "values",
    [
        {"private_ip": ONE.private_ip},
        {"private_ip": ONE.services_ip},
        {"services_ip": ONE.private_ip},
    ],
)
@pytest.mark.parametrize("host", ["h1", "h2"])
def test_the_older_of_two_machines_keeps_the_address(values: dict[str, Any], host: str) -> None:
    older, younger = replace(ONE, host=host), replace(machine(2), **values)
    found, problem = rows(older, younger, of=younger)
    assert found == [guarded(younger)]
    assert f"belongs to machine {ONE.id}" in problem
