# SPDX-License-Identifier: Apache-2.0
"""The host port's devices in a namespace of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from flyebpf.drivers.host_port import HostPortDriver
from flyebpf.model.rows import HostPortRow
from flyebpf.model.sixpn import HOST_PORT, HOST_PORT_FAR
from tests.netns.driver_rig import TC, namespace, program, programs, sh

ROW = HostPortRow(HOST_PORT, HOST_PORT_FAR, ("fdaa::3/128", "fdaa:0:1::3/128"), "fdaa::/17")


class Rig:
    def __init__(self) -> None:
        self.programs = programs()
        self.created: list[str] = []
        self.driver = HostPortDriver(self.programs, self.created.append)

    def apply(self, *rows: HostPortRow) -> None:
        assert self.driver.apply(HostPortRow, rows, []) == []

    def in_place(self, row: HostPortRow = ROW) -> bool:
        """Whether the kernel holds exactly this."""
        return self.driver.read(HostPortRow) == {row.key: self.driver.fingerprint(row)}


@pytest.fixture
def rig() -> Iterator[Rig]:
    with namespace():
        made = Rig()
        yield made
        made.driver.close()


def test_made(rig: Rig) -> None:
    assert rig.driver.read(HostPortRow) == {}
    rig.apply(ROW)
    assert rig.in_place()
    assert rig.created == [HOST_PORT, HOST_PORT_FAR]
    near = sh(f"ip -6 addr show dev {HOST_PORT}")
    assert "NOARP" in near
    assert "fe80::" not in near
    assert sh(f"ip -6 addr show dev {HOST_PORT_FAR}") == ""
    assert f"dev {HOST_PORT} proto" in sh("ip -6 route show fdaa::/17")
    guard = f"flyebpf:host_tc:{rig.programs['host_tc'].id} direct-action"
    assert guard in sh(f"tc filter show dev {HOST_PORT_FAR} ingress")


def test_again_changes_nothing(rig: Rig) -> None:
    rig.apply(ROW)
    before = sh(f"ip -d addr show dev {HOST_PORT}")
    rig.apply(ROW)
    assert sh(f"ip -d addr show dev {HOST_PORT}") == before
    assert rig.created == [HOST_PORT, HOST_PORT_FAR]


@pytest.mark.parametrize(
    "damage",
    [
        f"ip link del {HOST_PORT}",
        f"ip link set {HOST_PORT} down",
        f"ip link set {HOST_PORT_FAR} down",
        f"ip link set {HOST_PORT} arp on",
        f"ip addr del fdaa::3/128 dev {HOST_PORT}",
        f"ip addr add fdaa:0:9::3/128 dev {HOST_PORT}",
        f"ip -6 route del fdaa::/17 dev {HOST_PORT}",
        f"tc filter del dev {HOST_PORT_FAR} ingress",
        f"sysctl -qw net.ipv6.conf.{HOST_PORT_FAR}.disable_ipv6=0",
        f"sysctl -qw net.ipv6.conf.{HOST_PORT}.accept_ra=1",
    ],
)
def test_repaired(rig: Rig, damage: str) -> None:
    rig.apply(ROW)
    sh(damage)
    assert not rig.in_place()
    rig.apply(ROW)
    assert rig.in_place()


def test_other_addresses(rig: Rig) -> None:
    rig.apply(ROW)
    other = replace(ROW, addresses=("fdaa::3/128", "fdaa:0:2::3/128"))
    rig.apply(other)
    assert rig.in_place(other)


def test_another_daemon_finds_it(rig: Rig) -> None:
    rig.apply(ROW)
    again = HostPortDriver(rig.programs, rig.created.append)
    assert again.read(HostPortRow) == {ROW.key: again.fingerprint(ROW)}
    again.close()


def test_a_new_program_takes_the_old_ones_place(rig: Rig) -> None:
    rig.apply(ROW)
    rig.programs["host_tc"] = program(TC, "host_tc")
    rig.driver.hold(True)
    rig.apply(ROW)
    assert not rig.in_place()
    rig.driver.hold(False)
    rig.apply(ROW)
    assert rig.in_place()


def test_interface_of_somebody_else_is_left_alone(rig: Rig) -> None:
    sh(f"ip link add {HOST_PORT} type veth peer other0")
    (failure,) = rig.driver.apply(HostPortRow, [ROW], [])
    assert "not flyebpf's" in failure.error
    assert rig.driver.apply(HostPortRow, [], [ROW.key]) == []
    assert HOST_PORT in sh("ip link show")


def test_deleted(rig: Rig) -> None:
    rig.apply(ROW)
    assert rig.driver.apply(HostPortRow, [], [ROW.key, "gone0"]) == []
    assert rig.driver.read(HostPortRow) == {}
    assert HOST_PORT not in sh("ip link show")
