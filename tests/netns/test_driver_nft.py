# SPDX-License-Identifier: Apache-2.0
"""The nftables driver in a namespace."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet

from flyebpf.drivers.nft import Mesh, NftDriver, run_nft
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


PORT = 51820
MESH = Mesh(("fly0", "fly1"), (PORT, PORT + 2))


@pytest.fixture
def uplink() -> Iterator[NftDriver]:
    """A host with an uplink to ``drvnet``, where 192.0.2.9 listens."""
    with namespace():
        sh("ip netns add drvnet")
        sh("ip link add up0 type veth peer name out netns drvnet")
        sh("ip addr add 192.0.2.1/24 dev up0; ip link set up0 up")
        sh("ip -n drvnet addr add 192.0.2.9/24 dev out; ip -n drvnet link set out up")
        driver = NftDriver(3870, MESH)
        assert driver.apply(NatRow, [ROW], []) == []
        yield driver
        sh("ip netns del drvnet")


def test_nothing_of_the_private_networks_leaves_over_an_uplink(uplink: NftDriver) -> None:
    """As when a mesh device is gone, and the default route is all there is."""
    assert in_place(uplink)
    sh("ip -6 route add default via fe80::1 dev up0; ip route add default via 192.0.2.9")
    sh("ip -6 neigh add fe80::1 lladdr 02:00:00:00:00:01 dev up0; ip addr add fdaa::7/128 dev lo")
    before = uplink.counters()["mesh_to_uplink"][0]
    sh("ping -c 1 -W 1 fdaa:8000:2::1 || true")
    sh("ping -c 1 -W 1 172.16.16.1 || true")
    sh("ping -c 1 -W 1 -I fdaa::7 2001:db8::1 || true")
    assert uplink.counters()["mesh_to_uplink"][0] == before + 3
    sh("ping -c 1 -W 1 192.0.2.9")


def tagged(mac: str, packet: Packet) -> bytes:
    """A frame with a priority tag: IEEE 802.1Q, VLAN 0, which the kernel takes off."""
    return bytes(Ether(dst=mac, src="02:00:00:00:00:09") / Dot1Q(vlan=0, prio=5) / packet)


PRIVATE = [
    IPv6(src="fdaa:8000:1::1", dst="fdaa:8000:2::1") / UDP(),
    IPv6(src="2001:db8::1", dst="fdaa:8000:2::1") / UDP(),
    IPv6(src="fdaa:8000:1::1", dst="2001:db8:2::1") / UDP(),
    IP(src="192.0.2.9", dst="172.16.16.1") / UDP(),
]


@pytest.mark.parametrize("packet", PRIVATE, ids=lambda packet: f"{packet.src} to {packet.dst}")
def test_nothing_of_the_private_networks_comes_in_over_an_uplink(
    uplink: NftDriver, packet: Packet
) -> None:
    """Behind a tag that hides it from edge_xdp, towards the mesh; the same between
    public addresses gets there."""
    sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
    sh("ip link add fly0 arp off up type veth peer name end; ip link set end up")
    sh("ip -6 route add default dev fly0; ip route add default dev fly0")
    mac = "02:00:00:00:00:01"
    sh(f"ip link set up0 address {mac}")
    public = packet.__class__(src=PUBLIC[packet.version][0], dst=PUBLIC[packet.version][1])
    for sent, arrived in ((packet, 0), (public / UDP(), 1)):
        before = forwarded(uplink)
        script = f"{SEND}s.send(bytes.fromhex('{tagged(mac, sent).hex()}'))"
        sh(f"ip netns exec drvnet {sys.executable} -c {shlex.quote(script)}")
        dropped, through = (now - old for now, old in zip(forwarded(uplink), before, strict=True))
        assert (dropped, through) == (1 - arrived, arrived)


SEND = """import socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("out", 0))
"""
PUBLIC = {4: ("192.0.2.9", "198.51.100.1"), 6: ("2001:db8::1", "2001:db8:2::1")}


def forwarded(driver: NftDriver) -> tuple[int, int]:
    """Packets that the fence dropped, and UDP that left over the mesh's device."""
    rules = sh("nft -j list ruleset")
    if '"seen"' not in rules:
        sh("nft add table inet seen; nft add counter inet seen out")
        sh("nft add chain inet seen last '{ type filter hook postrouting priority 300; }'")
        sh("nft add rule inet seen last oifname fly0 meta l4proto udp counter name out")
    packets = sh("nft list counter inet seen out").split("packets ")[1].split()[0]
    return driver.counters()["uplink_to_mesh"][0], int(packets)


ASKS = """
import socket
for suffix in range(2, 66):
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND
    s.bind((f"fdaa:0:1:8000::{suffix:x}", 0))
    s.sendto(b"question", ("fdaa::3", 53))
"""


def test_queries_are_no_connections(driver: NftDriver) -> None:
    """One machine has 2^16 addresses: with a connection for each query it would
    fill the table that all machines' own traffic needs."""
    driver.apply(NatRow, [ROW], [])
    sh("ip netns add drvvm")
    try:
        sh("ip link add flyhost type veth peer name flyvms netns drvvm")
        sh("ip link set flyhost arp off address 02:00:00:00:00:01 up")
        sh("ip addr add fdaa::3/128 dev flyhost; ip -6 route add fdaa::/17 dev flyhost")
        sh("ip -n drvvm link set lo up; ip -n drvvm link set flyvms up")
        sh("ip -n drvvm -6 route add fdaa::3 dev flyvms")
        sh("ip -n drvvm neigh add fdaa::3 lladdr 02:00:00:00:00:01 dev flyvms")
        sh(f"ip netns exec drvvm {sys.executable} -c {shlex.quote(ASKS)}")
        assert re.search(r"^Udp6NoPorts\s+64$", sh("cat /proc/net/snmp6"), re.MULTILINE)
        assert sh("cat /proc/sys/net/netfilter/nf_conntrack_count").strip() == "0"
    finally:
        sh("ip netns del drvvm")


ANSWERS = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("192.0.2.9", {PORT}))
print("ready", flush=True)
while True:
    _, sender = s.recvfrom(100)
    s.sendto(str(sender[1]).encode(), sender)
"""


@contextmanager
def answering() -> Iterator[None]:
    """In ``drvnet``, somebody who tells who asks the port that it asks from."""
    command = ["ip", "netns", "exec", "drvnet", sys.executable, "-c", ANSWERS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            yield
        finally:
            server.terminate()


def test_wireguards_packets_are_no_connections_of_conntracks(uplink: NftDriver) -> None:
    """A VM that sends from its port could take the answers otherwise."""
    sh("ip netns add drvvm; ip link add vm0 group 3870 type veth peer name vm1 netns drvvm")
    try:
        sh("ip addr add 172.16.0.1/24 dev vm0; ip link set vm0 up")
        sh("sysctl -qw net.ipv4.ip_forward=1")
        sh("ip -n drvvm addr add 172.16.0.9/24 dev vm1; ip -n drvvm link set vm1 up")
        sh("ip -n drvvm route add default via 172.16.0.1")
        asked = f"echo x | socat -t 1 - UDP:192.0.2.9:{PORT},sourceport={PORT}"
        with answering():
            from_vm = int(sh(f"ip netns exec drvvm sh -c '{asked}'"))
            assert 32768 <= from_vm <= 49151
            assert int(sh(asked)) == PORT, "the host's own is as it was"
    finally:
        sh("ip netns del drvvm")
