# SPDX-License-Identifier: Apache-2.0
"""Nothing of a VM leaves over an uplink with its private address."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from flyebpf.drivers.nft import NftDriver
from flyebpf.model.rows import NatRow
from tests.netns.driver_rig import namespace, sh

pytestmark = pytest.mark.root

VM, FAR = "172.16.0.2", "198.51.100.9"
ETH_P_IP = 0x0800
SETUP = f"""
ip link add vm0 group 3870 address 02:00:00:00:00:01 type veth peer name guest
ip link add up0 type veth peer name wire
ip address add 192.0.2.1/24 dev up0
ip link set up0 arp off; ip link set wire arp off
for name in vm0 guest up0 wire; do ip link set $name up; done
ip route add {VM}/32 dev vm0
ip route add default dev up0
sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0
"""
QUOTED = IP(src=FAR, dst=VM) / UDP(sport=1, dport=2)

NO_CONNECTION = [
    pytest.param(TCP(sport=50000, dport=443, flags="R"), id="a reset of no connection"),
    pytest.param(TCP(sport=50000, dport=443, flags="SA"), id="an answer that nobody asked for"),
    pytest.param(TCP(sport=50000, dport=443, flags=""), id="a segment without flags"),
    pytest.param(UDP(sport=50000, dport=53, chksum=1), id="a wrong checksum"),
    pytest.param(ICMP(type=3, code=3) / QUOTED, id="an error about nothing"),
]


@pytest.fixture
def driver() -> Iterator[NftDriver]:
    with namespace():
        sh(SETUP)
        driver = NftDriver(3870)
        assert driver.apply(NatRow, [NatRow("172.16.0.0/12", ("up0",))], []) == []
        yield driver


def sent(packet: Packet) -> list[str]:
    """The sources of what leaves over the uplink for a packet of the VM."""
    guest = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP))
    with guest, wire:
        guest.bind(("guest", 0))
        wire.bind(("wire", ETH_P_IP))
        wire.settimeout(0.3)
        guest.send(bytes(Ether(dst="02:00:00:00:00:01") / IP(src=VM, dst=FAR) / packet))
        sources = []
        try:
            while True:
                sources.append(str(IP(wire.recv(2000)[14:]).src))
        except TimeoutError:
            return sources


def test_what_is_translated(driver: NftDriver) -> None:
    assert sent(TCP(sport=50000, dport=443, flags="S")) == ["192.0.2.1"]
    assert sent(UDP(sport=50000, dport=53)) == ["192.0.2.1"]
    assert driver.counters()["vm_nat"][0] == 2
    assert driver.counters()["vm_untracked"][0] == 0


@pytest.mark.parametrize("packet", NO_CONNECTION)
def test_what_cannot_be_translated(driver: NftDriver, packet: Packet) -> None:
    """Source NAT has an address only for what belongs to a connection."""
    assert sent(packet) == []
    assert driver.counters()["vm_untracked"][0] == 1
