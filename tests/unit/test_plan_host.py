# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from flyebpf.config import DaemonConfig, DataplaneConfig, EgressConfig, PoolsConfig, PrivateConfig
from flyebpf.model.reasons import DropReason
from flyebpf.model.rows import HostPortRow, NatRow, PolicyRow, SettingsRow, UplinkRow
from flyebpf.model.state import State
from flyebpf.plan import HOST, Planner
from tests.records import CONFIG, HERE, state

NOT_PUBLIC = DropReason.VM_NOT_PUBLIC
PRIVATE = DropReason.VM_TO_PRIVATE
MULTICAST = DropReason.VM_MULTICAST


def policy(config: DaemonConfig) -> tuple[dict[str, int], list[str]]:
    planner = Planner(config)
    rows = planner.rows(state(), HOST)
    found = {row.prefix: row.reason for row in rows if isinstance(row, PolicyRow)}
    return found, planner.problems.get(HOST, [])


def verdict(rules: dict[str, int], address: str) -> int:
    """What the longest matching prefix says."""
    matching = [ip_network(p) for p in rules if ip_address(address) in ip_network(p)]
    return rules[str(max(matching, key=lambda network: network.prefixlen))]


def test_settings_nat_and_uplinks() -> None:
    config = replace(
        CONFIG,
        uplinks=("eth0", "eth1"),
        pools=PoolsConfig(anycast_v4=("203.0.113.0/24",), shared_v4=("198.51.100.0/28",)),
        dataplane=DataplaneConfig(xdp_mode="generic"),
    )
    rows = Planner(config).rows(state(), HOST)
    assert rows[0] == SettingsRow(
        name="settings",
        pools=("203.0.113.0/24", "198.51.100.0/28"),
        private_prefix="172.16.0.0/12",
        alias_prefix="100.64.0.0/12",
        uplinks=("eth0", "eth1"),
        seed=0xDEADBEEF,
        host=HERE.number,
        host_port="flyhost",
    )
    assert [row for row in rows if isinstance(row, HostPortRow)] == [
        HostPortRow("flyhost", "flyvms", ("fdaa::3/128",), "fdaa::/17")
    ]
    assert [row for row in rows if isinstance(row, NatRow)] == [
        NatRow("172.16.0.0/12", ("eth0", "eth1"))
    ]
    assert [row for row in rows if isinstance(row, UplinkRow)] == [
        UplinkRow("eth0", "generic"),
        UplinkRow("eth1", "generic"),
    ]


def test_pools_that_repeat_or_contain_each_other_count_once() -> None:
    pools = PoolsConfig(
        anycast_v4=("203.0.113.0/25", "203.0.113.0/24"),
        shared_v4=("203.0.113.0/24", "2001:db8::/32"),
    )
    planner = Planner(replace(CONFIG, pools=pools))
    settings = planner.rows(state(), HOST)[0]
    assert isinstance(settings, SettingsRow)
    assert settings.pools == ("203.0.113.0/24",)
    assert "2001:db8::/32" in planner.problems[HOST][0]


def test_without_cluster_record_the_rest_is_planned() -> None:
    planner = Planner(CONFIG)
    rows = planner.rows(State(), HOST)
    assert "cluster record" in planner.problems[HOST][0]
    assert not [row for row in rows if isinstance(row, SettingsRow)]
    assert UplinkRow("eth0", "auto") in rows
    planner.rows(state(), HOST)
    assert HOST not in planner.problems


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("8.8.8.8", 0),
        ("172.15.255.255", 0),
        ("172.32.0.0", 0),
        ("198.17.255.255", 0),
        ("0.1.2.3", NOT_PUBLIC),
        ("10.1.2.3", NOT_PUBLIC),
        ("100.63.255.255", 0),
        ("100.64.0.1", PRIVATE),
        ("100.80.0.1", NOT_PUBLIC),
        ("127.0.0.1", NOT_PUBLIC),
        ("169.254.169.254", NOT_PUBLIC),
        ("172.16.0.1", PRIVATE),
        ("172.31.255.255", PRIVATE),
        ("192.168.1.1", NOT_PUBLIC),
        ("192.0.0.8", NOT_PUBLIC),
        ("198.18.0.1", NOT_PUBLIC),
        ("198.19.255.255", NOT_PUBLIC),
        ("224.0.0.1", MULTICAST),
        ("239.255.255.250", MULTICAST),
        ("240.0.0.1", NOT_PUBLIC),
        ("255.255.255.254", NOT_PUBLIC),
        ("255.255.255.255", MULTICAST),
    ],
)
def test_where_a_vm_may_send(address: str, reason: int) -> None:
    rules, problems = policy(CONFIG)
    assert verdict(rules, address) == reason
    assert not problems


@pytest.mark.parametrize(
    ("allow", "address", "reason"),
    [
        ("10.0.0.0/8", "10.1.2.3", 0),
        ("10.1.0.0/16", "10.1.2.3", 0),
        ("10.1.0.0/16", "10.2.2.3", NOT_PUBLIC),
        ("10.0.0.0/7", "10.1.2.3", 0),
        ("172.0.0.0/8", "172.16.0.1", PRIVATE),
        ("100.64.0.0/10", "100.64.0.1", PRIVATE),
        ("100.64.0.0/10", "100.127.0.1", 0),
        ("0.0.0.0/0", "192.168.0.1", 0),
        ("0.0.0.0/0", "127.0.0.1", NOT_PUBLIC),
        ("0.0.0.0/0", "224.0.0.1", MULTICAST),
        ("0.0.0.0/0", "255.255.255.255", MULTICAST),
        ("0.0.0.0/0", "172.16.0.1", PRIVATE),
    ],
)
def test_egress_allow_opens_what_is_not_the_clusters(allow: str, address: str, reason: int) -> None:
    rules, problems = policy(replace(CONFIG, egress=EgressConfig((allow,))))
    assert verdict(rules, address) == reason
    assert not problems


@pytest.mark.parametrize(
    "allow",
    [
        "172.16.0.0/12",
        "172.20.0.0/16",
        "100.64.0.0/16",
        "127.0.0.0/8",
        "224.0.0.5/32",
        "10.0.0.1/8",
    ],
)
def test_egress_allow_that_is_refused_changes_nothing(allow: str) -> None:
    rules, problems = policy(replace(CONFIG, egress=EgressConfig((allow,))))
    assert rules == policy(CONFIG)[0]
    assert len(problems) == 1
    assert allow in problems[0]


def test_the_clusters_prefix_wins_over_what_lies_inside_it() -> None:
    private = PrivateConfig(prefix="172.0.0.0/8", block="172.1.0.0/20", alias="101.0.0.0/8")
    rules, _ = policy(replace(CONFIG, private=private))
    assert verdict(rules, "172.16.0.1") == PRIVATE
    assert verdict(rules, "101.2.3.4") == PRIVATE
    assert verdict(rules, "100.64.0.1") == NOT_PUBLIC
