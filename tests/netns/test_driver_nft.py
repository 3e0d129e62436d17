# SPDX-License-Identifier: Apache-2.0
"""The nftables driver in a namespace."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flyebpf.drivers.nft import NftDriver, run_nft
from flyebpf.errors import KernelError
from flyebpf.model.rows import NatRow
from tests.netns.driver_rig import namespace, sh

pytestmark = pytest.mark.root

ROW = NatRow("172.16.0.0/12", ("up0", "up1"))


@pytest.fixture
def driver() -> Iterator[NftDriver]:
    with namespace():
        yield NftDriver(3870)


def in_place(driver: NftDriver) -> bool:
    return driver.read(NatRow) == {ROW.key: driver.fingerprint(ROW)}


def test_one_table_with_the_fences(driver: NftDriver) -> None:
    assert driver.read(NatRow) == {}
    assert driver.apply(NatRow, [ROW], []) == []
    assert in_place(driver)
    rules = sh("nft list table inet flyebpf")
    assert 'ip saddr 172.16.0.0/12 iifgroup 3870 oifname { "up0", "up1" }' in rules
    assert "masquerade" in rules
    assert 'iifgroup 3870 counter name "vm_to_host" drop' in rules
    assert driver.counters()["vm_to_host"] == (0, 0)


@pytest.mark.parametrize(
    "damage",
    [
        "nft flush ruleset",
        "nft flush chain inet flyebpf input",
        "nft insert rule inet flyebpf input accept",
        "nft delete table inet flyebpf",
    ],
)
def test_damage_is_noticed_and_repaired(driver: NftDriver, damage: str) -> None:
    driver.apply(NatRow, [ROW], [])
    sh(damage)
    assert not in_place(driver)
    assert driver.apply(NatRow, [ROW], []) == []
    assert in_place(driver)


def test_counting_is_no_damage(driver: NftDriver) -> None:
    driver.apply(NatRow, [ROW], [])
    sh("ip link add vm0 group 3870 type veth peer name vm1; ip link set vm0 up")
    sh("ip link set vm1 up; ip addr add 172.16.0.1/32 dev vm0; ip addr add 172.16.0.9/24 dev vm1")
    assert in_place(driver)


def test_what_an_earlier_daemon_left_is_replaced(driver: NftDriver) -> None:
    driver.apply(NatRow, [ROW], [])
    after = NftDriver(3870)
    keys = list(after.read(NatRow))
    assert after.apply(NatRow, [ROW], []) == []
    assert after.apply(NatRow, [], keys) == []
    assert in_place(after)


def test_foreign_tables_are_left_alone(driver: NftDriver) -> None:
    sh("nft add table inet other; nft add table ip flyebpf")
    driver.apply(NatRow, [ROW], [])
    assert driver.apply(NatRow, [], [ROW.key]) == []
    assert sh("nft list tables").split("\n")[:2] == ["table inet other", "table ip flyebpf"]
    assert driver.read(NatRow) == {}


def test_a_rule_that_nft_refuses_leaves_the_old_ones() -> None:
    with namespace():
        driver = NftDriver(3870)
        driver.apply(NatRow, [ROW], [])
        (failure,) = driver.apply(NatRow, [NatRow("172.16.0.0/99", ("up0",))], [])
        assert failure.key == "172.16.0.0/99"
        assert "nft" in failure.error
        assert in_place(driver)


def test_vm_packets_to_the_host_are_dropped_and_counted(driver: NftDriver) -> None:
    driver.apply(NatRow, [ROW], [])
    with pytest.raises(KernelError, match="nft"):
        run_nft("nonsense", ("-f", "-"))
    sh("ip netns add drvvm")
    try:
        sh("ip link add vm0 group 3870 type veth peer name vm1 netns drvvm")
        sh("ip addr add 172.16.0.1/24 dev vm0; ip link set vm0 up")
        sh("ip -n drvvm addr add 172.16.0.9/24 dev vm1; ip -n drvvm link set vm1 up")
        sh("ip netns exec drvvm ping -c 1 -W 1 172.16.0.1 || true")
        assert driver.counters()["vm_to_host"][0] >= 1
    finally:
        sh("ip netns del drvvm")
