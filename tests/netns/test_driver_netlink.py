# SPDX-License-Identifier: Apache-2.0
"""The netlink driver on veth pairs of a namespace."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from flyebpf.bpf.loader import prepare_bpffs
from flyebpf.bpf.program import Program, XdpLink
from flyebpf.drivers.link_table import LinkMonitor, LinkTable
from flyebpf.drivers.netlink import NetlinkDriver
from flyebpf.drivers.netlink_io import INGRESS
from flyebpf.model.rows import InterfaceRow, UplinkRow
from tests.netns.driver_rig import TC, XDP, namespace, program, programs, sh

pytestmark = pytest.mark.root

VM = InterfaceRow("tap.1", "11111111111111", "02:aa:00:00:00:01", ("172.16.0.2", "172.16.0.3"))
UPLINK = UplinkRow("up.0", "auto")


class Rig:
    def __init__(self, links: Path) -> None:
        self.table = LinkTable()
        self.links = links
        self.programs = programs()
        self.driver = self.start()

    def start(self, programs: dict[str, Program] | None = None) -> NetlinkDriver:
        return NetlinkDriver(self.links, self.table.get, programs or self.programs)

    def in_place(self, row: InterfaceRow | UplinkRow) -> bool:
        found = self.driver.read(type(row)).get(row.key)
        return found == self.driver.fingerprint(row)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    root = prepare_bpffs(tmp_path / "bpf")
    try:
        with namespace():
            sh("ip link add tap.1 type veth peer name vm1")
            sh("ip link add up.0 type veth peer name router; ip link set router up")
            rig = Rig(root / "links")
            yield rig
            rig.driver.close()
            rig.table.close()
    finally:
        sh(f"umount {root}")


def test_a_machines_interface_is_guarded_up_and_reachable(rig: Rig) -> None:
    assert not rig.in_place(VM)
    assert rig.driver.apply(InterfaceRow, [VM], []) == []
    assert rig.in_place(VM)
    shown = sh("tc filter show dev tap.1 ingress")
    assert f"flyebpf:vm_tc:{rig.programs['vm_tc'].id} direct-action" in shown
    shown = sh("tc filter show dev tap.1 egress")
    assert f"flyebpf:vm_out:{rig.programs['vm_out'].id} direct-action" in shown
    link = json.loads(sh("ip -j link show tap.1"))[0]
    assert link["group"] == "3870"
    assert {"UP", "ALLMULTI"} <= set(link["flags"])
    routes = {r["dst"]: r["protocol"] for r in json.loads(sh("ip -j route show dev tap.1"))}
    assert routes == {"172.16.0.2": "254", "172.16.0.3": "254"}
    neighbours = json.loads(sh("ip -j neigh show dev tap.1 nud permanent"))
    assert {(n["dst"], n["lladdr"]) for n in neighbours} == {(a, VM.mac) for a in VM.addresses}
    assert Path("/proc/sys/net/ipv6/conf/tap.1/disable_ipv6").read_text() == "1\n"


def test_nothing_is_made_for_an_interface_that_does_not_exist(rig: Rig) -> None:
    row = InterfaceRow("none0", "22222222222222", VM.mac, VM.addresses)
    (failure,) = rig.driver.apply(InterfaceRow, [row, VM], [])
    assert failure.key == "none0"
    assert failure.permanent
    assert failure.error == "interface none0 of machine 22222222222222 does not exist"
    assert rig.in_place(VM), "the other row went on"


@pytest.mark.parametrize(
    "damage",
    [
        "ip route del 172.16.0.2 dev tap.1",
        "ip neigh del 172.16.0.3 dev tap.1",
        "ip link set tap.1 down",
        "tc filter del dev tap.1 ingress",
        "tc filter del dev tap.1 egress",
        "sysctl -q -w net/ipv6/conf/tap.1/disable_ipv6=0",
    ],
)
def test_damage_is_noticed_and_repaired(rig: Rig, damage: str) -> None:
    rig.driver.apply(InterfaceRow, [VM], [])
    sh(damage)
    assert not rig.in_place(VM)
    assert rig.driver.apply(InterfaceRow, [VM], []) == []
    assert rig.in_place(VM)


def test_foreign_neighbours_are_no_damage(rig: Rig) -> None:
    rig.driver.apply(InterfaceRow, [VM], [])
    sh("ip neigh add 192.0.2.1 lladdr 02:00:00:00:00:09 nud permanent dev tap.1")
    assert rig.in_place(VM)
    sh("ip neigh replace 172.16.0.2 lladdr 02:00:00:00:00:09 nud permanent dev tap.1")
    assert not rig.in_place(VM)


def test_a_new_program_takes_the_old_ones_place(rig: Rig) -> None:
    rig.driver.apply(InterfaceRow, [VM], [])
    rig.driver.close()
    rig.programs = programs()
    rig.driver = rig.start()
    assert not rig.in_place(VM)
    assert rig.driver.apply(InterfaceRow, [VM], []) == []
    assert rig.in_place(VM)
    assert sh("tc filter show dev tap.1 ingress").count("direct-action") == 3
    assert sh("tc filter show dev tap.1 egress").count("direct-action") == 1


def test_a_machine_without_addresses_is_guarded_only(rig: Rig) -> None:
    rig.driver.apply(InterfaceRow, [VM], [])
    bare = InterfaceRow(VM.interface, VM.machine, VM.mac, ())
    rig.driver.apply(InterfaceRow, [bare], [])
    assert sh("ip route show dev tap.1") == ""
    assert "vm_tc" in sh("tc filter show dev tap.1 ingress")


def test_addresses_that_change_leave_nothing_behind(rig: Rig) -> None:
    rig.driver.apply(InterfaceRow, [VM], [])
    moved = InterfaceRow(VM.interface, VM.machine, VM.mac, ("172.16.0.2", "172.16.0.9"))
    rig.driver.close()
    rig.driver = rig.start()
    assert rig.driver.apply(InterfaceRow, [moved], []) == []
    assert rig.in_place(moved)
    routes = {route["dst"] for route in json.loads(sh("ip -j route show dev tap.1"))}
    assert routes == {"172.16.0.2", "172.16.0.9"}


def test_deletion_closes_the_interface_and_takes_only_what_is_ours(rig: Rig) -> None:
    rig.driver.apply(InterfaceRow, [VM], [])
    foreign = program(TC, "foreign")
    index = socket.if_nametoindex("tap.1")
    with IPRoute() as ip:
        ip.tc(
            "add-filter", "bpf", index, 1, parent=INGRESS, prio=7, protocol=3,
            fd=foreign.fd, name="somebody", direct_action=True,
        )  # fmt: skip
    assert rig.driver.apply(InterfaceRow, [], [VM.key, "gone0"]) == []
    assert rig.driver.read(InterfaceRow) == {}
    filters = sh("tc filter show dev tap.1 ingress")
    assert "vm_tc" not in filters
    assert "vm_out" not in sh("tc filter show dev tap.1 egress")
    assert "somebody" in filters
    assert not {"UP", "ALLMULTI"} & set(json.loads(sh("ip -j link show tap.1"))[0]["flags"])


def test_an_uplink_gets_both_programs_and_forwarding(rig: Rig) -> None:
    sh("sysctl -q -w net/ipv4/conf/all/rp_filter=1")
    assert rig.driver.apply(UplinkRow, [UPLINK], []) == []
    assert rig.in_place(UPLINK)
    assert rig.driver.uplinks.modes == {"up.0": "native"}
    link = json.loads(sh("ip -j -d link show up.0"))[0]
    assert link["xdp"]["prog"]["id"] == rig.programs["edge_xdp"].id
    assert "flyebpf:edge_tc" in sh("tc filter show dev up.0 ingress")
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == "1\n"
    assert Path("/proc/sys/net/ipv4/conf/up.0/rp_filter").read_text() == "2\n"


def test_the_next_daemon_adopts_the_link_and_swaps_in_place(rig: Rig) -> None:
    rig.driver.apply(UplinkRow, [UPLINK], [])
    (pin,) = rig.links.iterdir()
    with XdpLink.open(pin) as link:
        identity = link.info.id
    rig.driver.close()
    rig.driver = rig.start()
    assert rig.in_place(UPLINK), "the same programs: nothing to do"
    rig.driver.close()
    rig.programs = programs()
    rig.driver = rig.start()
    assert not rig.in_place(UPLINK)
    assert rig.driver.apply(UplinkRow, [UPLINK], []) == []
    assert rig.in_place(UPLINK)
    with XdpLink.open(pin) as link:
        assert link.info.id == identity, "swapped, not attached anew"


def test_generic_mode_and_a_mode_that_cannot_change(rig: Rig) -> None:
    assert rig.driver.apply(UplinkRow, [UplinkRow("up.0", "generic")], []) == []
    assert rig.driver.uplinks.modes == {"up.0": "generic"}
    (failure,) = rig.driver.apply(UplinkRow, [UplinkRow("up.0", "native")], [])
    assert failure.permanent
    assert "runs XDP in generic mode, not native" in failure.error


def test_a_foreign_program_is_never_replaced(rig: Rig) -> None:
    foreign = program(XDP, "foreign", 2)
    table = rig.table.get("up.0")
    assert table is not None
    with XdpLink.create(foreign, table.ifindex, "native"):
        (failure,) = rig.driver.apply(UplinkRow, [UPLINK], [])
        assert "somebody else" in failure.error
        assert "xdp off" in failure.remedy
        link = json.loads(sh("ip -j -d link show up.0"))[0]
        assert link["xdp"]["prog"]["id"] == foreign.id
    assert rig.driver.apply(UplinkRow, [UPLINK], []) == []


def test_what_is_no_link_at_our_pin_is_set_aside(rig: Rig) -> None:
    """An XDP program there: its info looks most like that of an XDP link."""
    pin = rig.links / "up%2E0-xdp"
    rig.programs["edge_xdp"].pin(pin)
    assert not rig.in_place(UPLINK)
    assert rig.driver.apply(UplinkRow, [UPLINK], []) == []
    assert rig.in_place(UPLINK)
    (aside,) = rig.links.glob("foreign-*")
    with Program.open(aside) as kept:
        assert kept.id == rig.programs["edge_xdp"].id


def test_an_uplink_that_is_made_anew_gets_a_new_link(rig: Rig) -> None:
    rig.driver.apply(UplinkRow, [UPLINK], [])
    sh("ip link del up.0; ip link add up.0 type veth peer name router")
    rig.table.forget()
    assert not rig.in_place(UPLINK)
    assert rig.driver.apply(UplinkRow, [UPLINK], []) == []
    assert rig.in_place(UPLINK)


def test_a_removed_uplink_is_clean(rig: Rig) -> None:
    rig.driver.apply(UplinkRow, [UPLINK], [])
    assert rig.driver.apply(UplinkRow, [], ["up.0"]) == []
    assert rig.driver.read(UplinkRow) == {}
    assert "xdp" not in json.loads(sh("ip -j -d link show up.0"))[0]
    assert "edge_tc" not in sh("tc filter show dev up.0 ingress")


def test_the_table_and_the_monitor_see_changes(rig: Rig) -> None:
    monitor = LinkMonitor()
    assert rig.table.get("new0") is None
    sh("ip link add new0 type veth peer name new1; ethtool -K new1 gro off")
    assert monitor.read() == {"new0", "new1"}
    assert rig.table.get("new0") is None, "remembered"
    assert rig.table.refresh({"new0"}) == {"new0"}
    before = rig.table.get("new0")
    assert before is not None
    assert not before.redirect, "the peer has no NAPI"
    sh("ethtool -K new1 gro on; ip link set new1 up; ip link set new0 up")
    assert rig.table.refresh({"new0"}) == {"new0"}
    after = rig.table.get("new0")
    assert after is not None
    assert after.redirect
    assert after.mac.hex(":") == json.loads(sh("ip -j link show new0"))[0]["address"]
    sh("ip link del new0")
    assert rig.table.refresh(monitor.read() or set()) >= {"new0"}
    assert rig.table.get("new0") is None
    monitor.close()
