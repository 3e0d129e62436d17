# SPDX-License-Identifier: Apache-2.0
"""peer_tc: what users' own computers send into their networks, on a device
without Ethernet headers as WireGuard's."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from scapy.layers.inet6 import ICMPv6ND_RA, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from flyebpf.bpf.layout import MESH_ETHERNET
from flyebpf.model.reasons import Count, DropReason
from tests import packets as p
from tests import packets6 as p6
from tests.bpf.expect import row
from tests.bpf.rig import Rig, mac_bytes
from tests.bpf.test_live import Wires, attach_tc, wires  # noqa: F401 - a fixture
from tests.bpf.tun import Tun

R = DropReason
ETHERNET = 14
MSS = p6.MESH_MTU - 60


@dataclass
class Gateway:
    """``users``: the users' device. ``fly``: the mesh."""

    rig: Rig
    wire: Wires
    users: Tun
    fly: Tun

    def counted(self) -> dict[Count, int]:
        counts = (Count.PEER_IN, Count.PEER_OUT, Count.SIXPN_IN, Count.SIXPN_OUT, Count.MSS)
        return {what: self.rig.count(what) for what in counts if self.rig.count(what)}


@pytest.fixture
def gateway(rig: Rig, wires: Wires) -> Iterator[Gateway]:  # noqa: F811
    users, fly = Tun("users"), Tun("fly0")
    for name, device, program in (("users", users, "peer_tc"), ("fly0", fly, "mesh_tc")):
        rig.ifindex[name] = device.ifindex
        attach_tc(rig, program, name)
    rig.host(p6.OTHER_HOST, "fly0")
    rig.settings.peers = users.ifindex
    rig.write_settings()
    yield Gateway(rig, wires, users, fly)
    for name, device in (("users", users), ("fly0", fly)):
        device.close()
        del rig.ifindex[name]


def l3(frame: bytes | Packet) -> bytes:
    return bytes(frame)[ETHERNET:]


def hop_less(frame: bytes | Packet) -> bytes:
    changed = bytearray(bytes(frame))
    changed[21] -= 1
    return bytes(changed)


def from_peer(dst: str, **ip: object) -> Packet:
    return p6.udp(1, **{"src": p6.peer(), "dst": dst, **ip})


def test_to_a_machine_here(gateway: Gateway) -> None:
    packet = from_peer(p6.address(2))
    gateway.users.arrive(l3(packet))
    assert gateway.wire.receive("guest2") == p6.delivered(packet, 2)
    gateway.wire.nothing_else()
    assert gateway.counted() == {Count.PEER_IN: 1}


def test_any_address_of_a_peers_prefix(gateway: Gateway) -> None:
    """WireGuard's AllowedIPs say which peer has which /120."""
    packet = from_peer(p6.address(2), src=p6.sixpn(p6.NETWORK, p6.HOST, p6.PEER, 0x07FF))
    gateway.users.arrive(l3(packet))
    assert gateway.wire.receive("guest2") == p6.delivered(packet, 2)


def test_to_a_machine_of_another_host(gateway: Gateway) -> None:
    packet = from_peer(p6.remote(9))
    gateway.users.arrive(l3(packet))
    assert gateway.fly.sent() == l3(p6.in_mesh_form(packet))
    assert gateway.counted() == {Count.PEER_IN: 1}


def test_to_another_peer(gateway: Gateway) -> None:
    packet = from_peer(p6.peer(8))
    gateway.users.arrive(l3(packet))
    assert gateway.users.sent() == l3(hop_less(packet))
    assert gateway.counted() == {Count.PEER_IN: 1, Count.PEER_OUT: 1}


def test_from_a_machine_here(gateway: Gateway) -> None:
    packet = p6.udp(1, dst=p6.peer())
    gateway.wire.send("guest1", packet)
    assert gateway.users.sent() == l3(hop_less(packet))
    assert gateway.counted() == {Count.PEER_OUT: 1}


def test_from_a_machine_of_another_host(gateway: Gateway) -> None:
    packet = p6.udp(1, src=p6.remote(9), dst=p6.peer())
    gateway.fly.arrive(l3(p6.in_mesh_form(packet)))
    assert gateway.users.sent() == l3(hop_less(packet))
    assert gateway.counted() == {Count.PEER_OUT: 1}


def test_mss_of_connections_to_other_hosts(gateway: Gateway) -> None:
    options = [("MSS", 1440), ("NOP", None)]
    packet = p6.tcp(1, "S", src=p6.peer(), dst=p6.remote(9), options=options)
    gateway.users.arrive(l3(packet))
    want = p6.tcp(1, "S", src=p6.peer(), dst=p6.remote(9), options=[("MSS", MSS), ("NOP", None)])
    assert gateway.fly.sent() == l3(p6.in_mesh_form(want))
    assert gateway.counted() == {Count.PEER_IN: 1, Count.MSS: 1}


def test_over_a_plain_underlay(gateway: Gateway) -> None:
    """The device to other hosts has Ethernet headers: the packet gets one."""
    gateway.rig.settings.mesh_flags = MESH_ETHERNET
    gateway.rig.write_settings()
    gateway.rig.host(p6.OTHER_HOST, "up1", f"::ffff:{p.CLIENT2}")
    packet = from_peer(p6.remote(9))
    gateway.users.arrive(l3(packet))
    got = gateway.wire.receive("wire1")
    header = Ether(got)
    assert (header.dst, header.type) == (p.ROUTER_MAC, 0x86DD)
    assert header.src not in ("00:00:00:00:00:00", p.ROUTER_MAC)
    assert l3(got) == l3(p6.in_mesh_form(packet))


def test_neighbour_that_is_not_known(gateway: Gateway) -> None:
    gateway.rig.settings.mesh_flags = MESH_ETHERNET
    gateway.rig.write_settings()
    gateway.rig.host(p6.OTHER_HOST, "up0", "::ffff:192.0.2.66")
    gateway.users.arrive(l3(from_peer(p6.remote(9))))
    gateway.wire.nothing_else()
    assert gateway.rig.drops(R.NO_HOST) == 1


GOOD = l3(from_peer(p6.address(2)))
TOO_LONG = p6.udp(1, bytes(p6.MESH_MTU - 47), src=p6.peer(), dst=p6.remote(9))
BAD = [
    row("cut off in the header", GOOD[:39], R.TRUNCATED),
    row("cut off behind it", GOOD[:-1], R.TRUNCATED),
    row("IPv4", l3(p.SYN), R.PEER_SOURCE),
    row("from a machine here", l3(from_peer(p6.address(2), src=p6.address(1))), R.PEER_SOURCE),
    row("from a machine elsewhere", l3(from_peer(p6.address(2), src=p6.remote(9))), R.PEER_SOURCE),
    row(
        "from a peer of another host",
        l3(from_peer(p6.address(2), src=p6.sixpn(p6.NETWORK, p6.OTHER_HOST, p6.PEER, 0x702))),
        R.PEER_SOURCE,
    ),
    row("from no network", l3(from_peer(p6.address(2), src=p6.peer(network=0))), R.PEER_SOURCE),
    row(
        "as a host sends it",
        l3(from_peer(p6.address(2), src=p6.sixpn(p6.HOST, p6.NETWORK, p6.PEER, 0x702))),
        R.PEER_SOURCE,
    ),
    row("from a link-local address", l3(from_peer(p6.address(2), src="fe80::2")), R.PEER_SOURCE),
    row("from a public address", l3(from_peer(p6.address(2), src="2001:db8::1")), R.PEER_SOURCE),
    row("to another network", l3(from_peer(p6.address(4))), R.SIXPN_NETWORK),
    row("to no machine", l3(from_peer(p6.address(8))), R.SIXPN_MACHINE),
    row("to no host", l3(from_peer(p6.remote(9, p6.NO_HOST))), R.SIXPN_HOST),
    row("to the name server", l3(from_peer(p6.sixpn(p6.NETWORK, 0, 0, 3))), R.VM_TO_HOST),
    row("to the other name server", l3(from_peer(p6.NAMESERVER)), R.VM_TO_HOST),
    row("to nobody", l3(from_peer("fdaa::4")), R.SIXPN_ADDRESS),
    row("to a host", l3(from_peer(p6.sixpn(p6.NETWORK, p6.HOST, 0))), R.SIXPN_ADDRESS),
    row("to this host, in mesh form", l3(from_peer(p6.sixpn(p6.HOST, 0, 0, 1))), R.SIXPN_ADDRESS),
    row("to Flycast", l3(from_peer(p6.flycast())), R.NEEDS_PROXY),
    row("to Flycast of others", l3(from_peer(p6.flycast(p6.OTHER_NETWORK))), R.SIXPN_NETWORK),
    row("to the internet", l3(from_peer("2001:db8::1")), R.IPV6),
    row("to a group", l3(from_peer("ff02::1")), R.IPV6),
    row("hop limit used up", l3(from_peer(p6.address(2), hlim=1)), R.TTL),
    row("too long for the mesh", l3(TOO_LONG), R.TOO_BIG),
]


@pytest.mark.parametrize(("packet", "reason"), BAD)
def test_dropped(gateway: Gateway, packet: bytes, reason: DropReason) -> None:
    gateway.users.arrive(packet)
    gateway.users.nothing()
    gateway.fly.nothing()
    gateway.wire.nothing_else()
    assert gateway.rig.drops(reason) == 1
    assert gateway.counted() == {}


HOST_MAC = "02:00:00:00:05:03"


def to_nameserver(network: int = p6.NETWORK, **ports: int) -> bytes:
    return l3(from_peer(p6.sixpn(network, 0, 0, 3), **{"dport": 53, **ports}))


def test_queries_go_to_the_host_port(gateway: Gateway) -> None:
    rig = gateway.rig
    rig.settings.host_port = rig.ifindex["lan0"]
    rig.settings.host_mac[:] = mac_bytes(HOST_MAC)
    rig.write_settings()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD)) as seen:
        seen.bind(("lan0", 0x86DD))
        seen.settimeout(5)
        gateway.users.arrive(to_nameserver())
        assert seen.recv(2048) == mac_bytes(HOST_MAC) * 2 + b"\x86\xdd" + to_nameserver()
    assert rig.count(Count.DNS_PASSED) == 1
    gateway.users.arrive(to_nameserver(dport=80))
    gateway.users.arrive(to_nameserver(p6.OTHER_NETWORK))
    gateway.users.nothing()
    assert rig.drops(R.VM_TO_HOST) == 1
    assert rig.drops(R.SIXPN_NETWORK) == 1


def test_queries_without_a_host_port(gateway: Gateway) -> None:
    gateway.users.arrive(to_nameserver())
    gateway.wire.nothing_else()
    assert gateway.rig.drops(R.VM_TO_HOST) == 1


def test_without_a_device_for_peers(gateway: Gateway) -> None:
    gateway.rig.settings.peers = 0
    gateway.rig.write_settings()
    gateway.users.arrive(GOOD)
    gateway.wire.nothing_else()
    assert gateway.rig.drops(R.PEER_SOURCE) == 1


FLYCAST = [
    row("a SYN", p6.tcp(1, "S", src=p6.peer(), dst=p6.flycast())),
    row("a ping", p6.ping(1, src=p6.peer(), dst=p6.flycast())),
]
NOT_FLYCAST = [
    row("another network's", p6.tcp(1, "S", src=p6.peer(), dst=p6.flycast(p6.OTHER_NETWORK)),
        R.SIXPN_NETWORK),
    row("another protocol", IPv6(src=p6.peer(), dst=p6.flycast(), nh=132) / bytes(8), R.PROTO),
    row("a router's message", IPv6(src=p6.peer(), dst=p6.flycast()) / ICMPv6ND_RA(), R.ND_TYPE),
]  # fmt: skip


@pytest.fixture
def flycast(gateway: Gateway) -> Gateway:
    """On a host with a proxy."""
    rig = gateway.rig
    rig.settings.proxy = 1
    rig.settings.host_port = rig.ifindex["lan0"]
    rig.settings.host_mac[:] = mac_bytes(HOST_MAC)
    rig.write_settings()
    return gateway


@pytest.mark.parametrize("packet", FLYCAST)
def test_flycast_is_the_proxys(flycast: Gateway, packet: Packet) -> None:
    """Into the host's stack, by the host port."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD)) as seen:
        seen.bind(("lan0", 0x86DD))
        seen.settimeout(5)
        flycast.users.arrive(l3(packet))
        assert seen.recv(2048) == mac_bytes(HOST_MAC) * 2 + b"\x86\xdd" + l3(packet)
    assert flycast.rig.count(Count.PROXY) == 1


@pytest.mark.parametrize(("packet", "reason"), NOT_FLYCAST)
def test_not_to_flycast(flycast: Gateway, packet: Packet, reason: DropReason) -> None:
    flycast.users.arrive(bytes(packet[IPv6]))
    flycast.users.nothing()
    flycast.wire.nothing_else()
    assert flycast.rig.drops(reason) == 1
    assert flycast.rig.count(Count.PROXY) == 0
