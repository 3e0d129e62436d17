# SPDX-License-Identifier: Apache-2.0
"""What the programs let through to the proxy, and from it."""

from __future__ import annotations

import socket
import struct

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from flyebpf.bpf import layout
from flyebpf.drivers.proxy_steer import Sockets, key_of, packed
from flyebpf.model.reasons import Count, DropReason
from tests import packets as p
from tests import packets6 as p6
from tests.bpf.expect import dropped, row, shot
from tests.bpf.far import mesh
from tests.bpf.rig import Outcome, Rig, Tc, Xdp, ip_number, mac_bytes, u32

R = DropReason
HERE, THERE = "172.16.0.1", "172.17.0.1"
"""This host's proxy and another one's, as machines see them."""
PORT = 8080
TO_ONE = Ether(src=p.gateway_mac(1), dst=p.vm_mac(1))


def with_proxy(rig: Rig) -> Rig:
    """This host and another have one; machine 1 serves at PORT."""
    rig.settings.proxy = ip_number(HERE)
    rig.write_settings()
    for number, address in enumerate((HERE, THERE)):
        rig.maps["proxies"].update(socket.inet_aton(address), u32(number))
    rig.maps["proxy_ports"].update(bytes(layout.ProxyPortKey(1, PORT)), u32(1))
    return rig


@pytest.fixture
def proxied(rig: Rig) -> Rig:
    return with_proxy(rig)


# -- the edge

EDGE = [
    row("a SYN to a service with handlers", p.client_tcp(8443, flags="S")),
    row("what follows", p.client_tcp(8443, flags="PA", payload=b"hello")),
]


@pytest.mark.parametrize("packet", EDGE)
def test_edge_passes_what_is_the_proxys(proxied: Rig, packet: Packet) -> None:
    want = Outcome(Xdp.PASS, bytes(packet), counts={Count.PROXY: 1})
    assert proxied.xdp(packet) == want


def test_edge_passes_errors_about_the_proxys_packets(proxied: Rig) -> None:
    quoted = IP(src=p.VIP, dst=p.CLIENT) / TCP(sport=8443, dport=p.CLIENT_PORT)
    packet = p.from_uplink() / ICMP(type=3, code=4) / Raw(bytes(quoted)[:28])
    want = Outcome(Xdp.PASS, bytes(packet), counts={Count.PROXY: 1})
    assert proxied.xdp(packet) == want


EDGE_DROPPED = [
    row("a fragment", p.client_tcp(8443, flags="PA", payload=bytes(64)), R.NEEDS_PROXY),
    row("no service", p.client_tcp(8081, flags="S"), R.NO_SERVICE),
    row("nobody's address", p.client_tcp(8443, flags="S", dst=p.FREE_VIP), R.VIP_UNALLOCATED),
    row("to a machine's address", p.client_tcp(PORT, dst=p.private_ip(1)), R.PRIVATE_DST),
    row("to the proxy's source", p.client_tcp(PORT, dst=HERE), R.PRIVATE_DST),
]


@pytest.mark.parametrize(("packet", "reason"), EDGE_DROPPED)
def test_edge_drops(proxied: Rig, packet: Packet, reason: DropReason) -> None:
    if reason is R.NEEDS_PROXY:
        packet[IP].flags = "MF"
        packet = Ether(bytes(packet))
    assert proxied.xdp(packet) == dropped(packet, reason)


def test_shared_pool(proxied: Rig) -> None:
    """TCP and pings, whoever has the address; nothing else."""
    proxied.settings.pool[1].flags = layout.POOL_SHARED
    proxied.write_settings()
    syn = p.client_tcp(443, flags="S", dst="198.18.5.3")
    assert proxied.xdp(syn) == Outcome(Xdp.PASS, bytes(syn), counts={Count.PROXY: 1})
    ping = p.from_uplink(dst="198.18.5.3") / ICMP()
    assert proxied.xdp(ping).counts == {Count.ECHO: 1}
    udp = p.from_uplink(dst="198.18.5.3") / UDP(sport=5, dport=443)
    assert proxied.xdp(udp) == dropped(udp, R.VIP_UNALLOCATED)
    other = p.client_tcp(443, flags="S", dst=p.FREE_VIP)
    assert proxied.xdp(other) == dropped(other, R.VIP_UNALLOCATED)
    proxied.settings.pool[1].flags = 0
    proxied.write_settings()


# -- to a machine (vm_out)


def to_machine(src: str = HERE, dst: str = "", dport: int = PORT, **ip: object) -> Packet:
    where = dst or p.private_ip(1)
    return TO_ONE / IP(src=src, dst=where, **ip) / TCP(sport=40000, dport=dport, flags="S")


DELIVERED = [
    row("this host's proxy", to_machine()),
    row("another host's proxy", to_machine(THERE)),
    row("with options", to_machine(options=[b"\x94\x04\0\0"])),
    row("an error of the gateway's", TO_ONE / IP(src=HERE, dst=p.private_ip(1)) / ICMP(type=3)),
    row("a client", to_machine(p.CLIENT)),
    row("the proxy as an app's address", to_machine(p.VIP, dport=50000)),
]


@pytest.mark.parametrize("packet", DELIVERED)
def test_delivered(proxied: Rig, packet: Packet) -> None:
    outcome = proxied.tc(packet, "vm1", program="vm_out")
    assert outcome == Outcome(Tc.UNSPEC, bytes(packet))


NOT_DELIVERED = [
    row("to another port", to_machine(dport=22)),
    row("from another address of the host's block", to_machine("172.16.0.9")),
    row("from another host that is none", to_machine("172.18.0.1")),
    row("to a machine without such a port", to_machine(dst=p.private_ip(2))),
    row("UDP", TO_ONE / IP(src=HERE, dst=p.private_ip(1)) / UDP(dport=PORT)),
    row("a ping of another host's", TO_ONE / IP(src=THERE, dst=p.private_ip(1)) / ICMP()),
    row("a first fragment", to_machine(flags="MF")),
    row("a later fragment", to_machine(frag=3)),
    row("cut off", Ether(bytes(to_machine())[:36])),
]


@pytest.mark.parametrize("packet", NOT_DELIVERED)
def test_not_delivered(proxied: Rig, packet: Packet) -> None:
    outcome = proxied.tc(packet, "vm1", program="vm_out")
    assert outcome == shot(packet, R.NOT_FOR_VM)


# -- from a machine (vm_tc)

ANSWERS = [
    row("to this host's proxy", p.vm_tcp(1, dst=HERE, dport=40000, flags="SA")),
    row("to another host's", p.vm_tcp(1, dst=THERE, dport=40000)),
    row("a reset", p.vm_tcp(1, dst=HERE, dport=40000, flags="RA")),
]


@pytest.mark.parametrize("packet", ANSWERS)
def test_answers_reach_the_proxy(proxied: Rig, packet: Packet) -> None:
    want = Outcome(Tc.OK, bytes(packet), counts={Count.PROXY: 1})
    assert proxied.vm(1, packet) == want


NO_ANSWERS = [
    row("a SYN", p.vm_tcp(1, dst=HERE, dport=22, flags="S")),
    row("from another port", p.vm_tcp(1, sport=9999, dst=HERE, dport=40000)),
    row("of a machine that serves none", p.vm_tcp(4, dst=HERE, dport=40000)),
    row("to no proxy", p.vm_tcp(1, dst="172.16.0.9", dport=40000, sport=9999)),
    row("UDP", p.from_vm(1, dst=HERE) / UDP(sport=PORT, dport=40000)),
    row("a ping", p.from_vm(1, dst=HERE) / ICMP()),
]


@pytest.mark.parametrize("packet", NO_ANSWERS)
def test_nothing_else_does(proxied: Rig, packet: Packet) -> None:
    number = 4 if packet[IP].src == p.private_ip(4) else 1
    assert proxied.vm(number, packet) == shot(packet, R.VM_TO_PRIVATE)


def test_a_vm_reaches_a_service_with_handlers(proxied: Rig) -> None:
    """As a client of this host's proxy, with its own address."""
    packet = p.vm_tcp(4, sport=50000, dst=p.VIP, dport=8443, flags="S")
    want = Outcome(Tc.OK, bytes(packet), counts={Count.PROXY: 1})
    assert proxied.vm(4, packet) == want


# -- Flycast


def through(rig: Rig, packet: Packet) -> tuple[Outcome, Outcome]:
    """Machine 1's packet through both programs at its interface that see it."""
    return rig.vm(1, packet), rig.tc(packet, "vm1", program="dns")


@pytest.mark.parametrize(
    "packet",
    [
        row("a SYN", p6.tcp(1, "S", dst=p6.flycast())),
        row("a ping", p6.ping(1, dst=p6.flycast())),
    ],
)
def test_flycast_is_the_proxys(proxied: Rig, packet: Packet) -> None:
    proxied.settings.host_port = proxied.ifindex["lan0"]
    proxied.settings.host_mac[:] = mac_bytes("02:00:00:00:05:03")
    proxied.write_settings()
    first, second = through(proxied, packet)
    assert (first.verdict, first.drops) == (Tc.UNSPEC, {})
    want = mac_bytes("02:00:00:00:05:03") + bytes(packet)[6:]
    assert second == Outcome(Tc.REDIRECT, want, counts={Count.PROXY: 1})


NOT_FLYCAST = [
    row("another network's", p6.tcp(1, "S", dst=p6.flycast(p6.NETWORK + 1)), R.SIXPN_NETWORK),
    row("from an address of another", p6.tcp(1, "S", src=p6.address(2), dst=p6.flycast()),
        R.SPOOFED_IP),
    row("no hop left", p6.tcp(1, "S", dst=p6.flycast(), hlim=1), R.TTL),
]  # fmt: skip


@pytest.mark.parametrize(("packet", "reason"), NOT_FLYCAST)
def test_not_to_flycast(proxied: Rig, packet: Packet, reason: DropReason) -> None:
    assert proxied.vm(1, packet) == shot(packet, reason)


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        row("UDP", p6.udp(1, dst=p6.flycast()), R.NEEDS_PROXY),
        row("another network's", p6.tcp(1, dst=p6.flycast(p6.NETWORK + 1)), R.NEEDS_PROXY),
        row("from an address of another", p6.tcp(1, src=p6.address(2), dst=p6.flycast()),
            R.SPOOFED_IP),
    ],
)  # fmt: skip
def test_the_second_program_looks_itself(proxied: Rig, packet: Packet, reason: DropReason) -> None:
    outcome = proxied.tc(packet, "vm1", program="dns")
    assert outcome == shot(packet, reason)


def answer6(src: str, body: Packet) -> Packet:
    mac = "02:00:00:00:05:03"
    return Ether(src=mac, dst=mac) / IPv6(src=src, dst=p6.address(1), hlim=64) / body


@pytest.mark.parametrize(
    "body", [row("TCP", TCP(sport=80, flags="SA")), row("a pong", ICMPv6EchoReply())]
)
def test_flycast_answers(proxied: Rig, body: Packet) -> None:
    packet = answer6(p6.flycast(), body)
    want = mac_bytes(p.vm_mac(1)) + mac_bytes(p.gateway_mac(1)) + bytes(packet)[12:]
    outcome = proxied.tc(packet, "lan0", program="host_tc")
    assert outcome == Outcome(Tc.REDIRECT, want, counts={Count.HOST_OUT: 1})


@pytest.mark.parametrize(
    "packet",
    [
        row("of another network", answer6(p6.flycast(p6.NETWORK + 1), TCP(sport=80))),
        row("UDP", answer6(p6.flycast(), UDP(sport=80))),
        row("from a machine", answer6(p6.address(2), TCP(sport=80))),
    ],
)
def test_no_answers_of_flycast(proxied: Rig, packet: Packet) -> None:
    outcome = proxied.tc(packet, "lan0", program="host_tc")
    assert outcome == shot(packet, R.HOST_SOURCE)


# -- over the mesh


def carried(src: str, dst: str, layer: Packet | None = None) -> Packet:
    return Ether() / IP(src=src, dst=dst) / (layer or TCP(sport=1, dport=PORT))


@pytest.mark.parametrize(
    "packet",
    [
        row("another host's proxy to a machine", carried(THERE, p.private_ip(1))),
        row("a machine of another host to the proxy here", carried("172.17.0.9", HERE)),
    ],
)
def test_mesh_passes(far: Rig, packet: Packet) -> None:
    with_proxy(far)
    assert mesh(far, packet) == Outcome(Tc.UNSPEC, bytes(packet))


@pytest.mark.parametrize(
    "packet",
    [
        row("a machine to a machine", carried("172.17.0.9", p.private_ip(1))),
        row("UDP", carried(THERE, p.private_ip(1), UDP(dport=PORT))),
        row("a machine to another host's proxy", carried("172.16.0.9", THERE)),
    ],
)
def test_mesh_drops(far: Rig, packet: Packet) -> None:
    with_proxy(far)
    assert mesh(far, packet) == shot(packet, R.MESH_FORM)


# -- sk_lookup

LOOKUP = struct.Struct("=QIII16sHHI16sIII")  # struct bpf_sk_lookup
DROP, PASS = 0, 1


def lookup(address: str, port: int, protocol: int = socket.IPPROTO_TCP) -> bytes:
    """Somebody opens a connection to this address and port."""
    six = ":" in address
    family = socket.AF_INET6 if six else socket.AF_INET
    four = b"" if six else socket.inet_aton(address)
    return LOOKUP.pack(
        *(0, family, protocol, 0, bytes(16), 0, 0),
        int.from_bytes(four, "little"),
        packed(address) if six else bytes(16),
        *(port, 0, 0),
    )


@pytest.fixture
def steered(rig: Rig) -> tuple[Rig, socket.socket]:
    """A pool of each family, in it a port and a range bound to listener 0, and a port
    to one without sockets; a shared pool. The listener has a socket for IPv4."""
    binds, number = rig.maps["binds"], u32(0)
    for address, bits, value in (
        ("203.0.113.0", 96 + 24, layout.BIND_NOBODY),
        ("2001:db8::", 32, layout.BIND_NOBODY),
        ("198.18.5.0", 96 + 28, layout.BIND_SHARED),
    ):
        binds.update(key_of(packed(address), bits), u32(value))
    binds.update(key_of(packed("203.0.113.10"), 144, 443), number)
    binds.update(key_of(packed("203.0.113.10"), 140, 5008), number)
    binds.update(key_of(packed("203.0.113.10"), 144, 8443), u32(7))
    binds.update(key_of(packed("2001:db8::1"), 144, 443), number)
    binds.update(key_of(bytes(16), 144, 443), number)
    listening = socket.create_server(("127.0.0.1", 0))
    rig.maps["proxy_sockets"].update(u32(0), listening.fileno().to_bytes(8, "little"))
    return rig, listening


STEERED = [
    row("a bound port", "203.0.113.10", 443),
    row("the first of a range", "203.0.113.10", 5008),
    row("the last of a range", "203.0.113.10", 5023),
    row("any address of a shared pool", "198.18.5.9", 443),
]


@pytest.mark.parametrize(("address", "port"), STEERED)
def test_steered(steered: tuple[Rig, socket.socket], address: str, port: int) -> None:
    rig, listening = steered
    before = rig.count(Count.PROXY_STEERED)
    verdict, cookie = rig.programs["steer_sklookup"].test_lookup(lookup(address, port))
    assert verdict == PASS
    assert cookie == listening.getsockopt(socket.SOL_SOCKET, 57, 8)  # SO_COOKIE
    assert rig.count(Count.PROXY_STEERED) == before + 1
    listening.close()


def test_clients_wait_for_the_proxy(steered: tuple[Rig, socket.socket]) -> None:
    """Whose listener has no socket gets one that takes nothing, while there is one."""
    rig, listening = steered
    sockets = Sockets(rig.maps["proxy_sockets"], rig.maps["proxy_own"])
    sockets.wait()
    for address, port in (("203.0.113.10", 8443), ("2001:db8::1", 443)):
        before = rig.count(Count.PROXY_AWAY)
        verdict, cookie = rig.programs["steer_sklookup"].test_lookup(lookup(address, port))
        assert (verdict, cookie != bytes(8)) == (PASS, True)
        assert rig.count(Count.PROXY_AWAY) == before + 1
    sockets.refuse()
    run = rig.programs["steer_sklookup"].test_lookup(lookup("203.0.113.10", 8443))
    assert run == (DROP, bytes(8))
    listening.close()


REFUSED = [
    row("another port", "203.0.113.10", 80, socket.IPPROTO_TCP, Count.PROXY_REFUSED),
    row("before a range", "203.0.113.10", 5007, socket.IPPROTO_TCP, Count.PROXY_REFUSED),
    row("behind a range", "203.0.113.10", 5024, socket.IPPROTO_TCP, Count.PROXY_REFUSED),
    row("another address", "203.0.113.11", 443, socket.IPPROTO_TCP, Count.PROXY_REFUSED),
    row("the host's ssh at an app's address", "2001:db8::1", 22, 6, Count.PROXY_REFUSED),
    row("UDP", "203.0.113.10", 443, socket.IPPROTO_UDP, Count.PROXY_REFUSED),
    row("a listener without sockets", "203.0.113.10", 8443, 6, Count.PROXY_AWAY),
    row("the other family's socket is missing", "2001:db8::1", 443, 6, Count.PROXY_AWAY),
]


@pytest.mark.parametrize(("address", "port", "protocol", "what"), REFUSED)
def test_refused(
    steered: tuple[Rig, socket.socket], address: str, port: int, protocol: int, what: Count
) -> None:
    rig, listening = steered
    before = rig.count(what)
    run = rig.programs["steer_sklookup"].test_lookup(lookup(address, port, protocol))
    assert run == (DROP, bytes(8))
    assert rig.count(what) == before + 1
    listening.close()


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db9::1", "127.0.0.1"])
def test_a_listeners_own_port(steered: tuple[Rig, socket.socket], address: str) -> None:
    """Nobody finds the proxy at the host's addresses."""
    rig, listening = steered
    rig.maps["proxy_own"].update(u32(40123), u32(1))
    run = rig.programs["steer_sklookup"].test_lookup
    assert run(lookup(address, 40123)) == (DROP, bytes(8))
    assert run(lookup(address, 40123, socket.IPPROTO_UDP)) == (PASS, bytes(8))
    listening.close()


@pytest.mark.parametrize(
    ("address", "port"),
    [row("the host's own IPv4", "192.0.2.1", 22), row("its own IPv6", "2001:db9::1", 22)],
)
def test_the_hosts_own(steered: tuple[Rig, socket.socket], address: str, port: int) -> None:
    """Somebody opens ssh to the host itself."""
    rig, listening = steered
    assert rig.programs["steer_sklookup"].test_lookup(lookup(address, port)) == (PASS, bytes(8))
    listening.close()
