# SPDX-License-Identifier: Apache-2.0
"""edge_xdp: what comes in over an uplink, other than ICMP and fragments."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Padding, Raw

from flyebpf.bpf.layout import SLOT_LIVE, VIP_RANGES
from flyebpf.drivers.map_pools import NOWHERE
from flyebpf.errors import KernelError
from flyebpf.model.reasons import Count, DropReason
from tests import packets as p
from tests.bpf import world as w
from tests.bpf.expect import delivered, dropped, passed, received, row
from tests.bpf.rig import Outcome, Rig, Xdp

WEB_TO = {
    "macs": (p.vm_mac(1), p.gateway_mac(1)),
    "dst": p.private_ip(1),
    "dport": 8080,
    "ttl": 56,
}
DNS_TO = {**WEB_TO, "dst": p.services_ip(1), "dport": 5353}

DELIVERED = [
    row("a SYN opens a flow", p.SYN, 1, 8080, w.WEB),
    row("TCP options are no matter", p.SYN_OPTIONS, 1, 8080, w.WEB),
    row("IP options go along", p.IP_OPTIONS, 1, 8080, w.WEB),
    row("a segment without a flow is taken for one that another edge knew", p.DATA, 1, 8080, w.WEB),
    row("an odd number of bytes", p.ODD, 1, 8080, w.WEB),
    row("an acknowledgement without a flow", p.ACK, 1, 8080, w.WEB),
    row("the end of a flow that is not known", p.FIN, 1, 8080, w.WEB),
    row("a reset", p.RST, 1, 8080, w.WEB),
    row("Ethernet's padding stays and is not counted", p.PADDED, 1, 8080, w.WEB),
    row("padding is no part of any checksum", p.PADDED_NOISE, 1, 8080, w.WEB),
    row("UDP goes to fly-global-services", p.QUERY, 1, 5353, w.DNS),
    row("UDP without a checksum gets none", p.QUERY_NO_SUM, 1, 5353, w.DNS),
    row("UDP without data", p.EMPTY_QUERY, 1, 5353, w.DNS),
    row("UDP shorter than its IP packet", p.client_udp() / Padding(b"\0" * 3), 1, 5353, w.DNS),
    row("the first port of a range", p.client_udp(5000), 2, 6000, w.GAME),
    row("the last port of a range", p.client_udp(5003), 2, 6000, w.GAME),
    row("the second pool", p.client_tcp(dst=p.SMALL_VIP), 2, 80, w.TINY),
    row("TTL 2 is enough for one hop", p.client_tcp(ttl=2), 1, 8080, w.WEB),
    row("the longest TTL", p.client_tcp(ttl=255), 1, 8080, w.WEB),
    row("don't fragment is kept", p.client_tcp(flags="S") / Raw(b"x" * 1400), 1, 8080, w.WEB),
    row("DSCP and ECN are kept", p.client_tcp(tos=0xBB), 1, 8080, w.WEB),
    row("port 65535 of a client", p.client_tcp(sport=65535), 1, 8080, w.WEB),
    row("port 1 of a client", p.client_udp(sport=1), 1, 5353, w.DNS),
    row(
        "a TCP checksum that becomes 0 is 0",
        p.payload_for_zero(p.client_tcp(), **WEB_TO),
        1,
        8080,
        w.WEB,
    ),
    row(
        "a UDP checksum that becomes 0 is ffff",
        p.payload_for_zero(p.client_udp(payload=b""), **DNS_TO),
        1,
        5353,
        w.DNS,
    ),
]


@pytest.mark.parametrize(("packet", "number", "port", "service"), DELIVERED)
def test_first_packet(rig: Rig, packet: Packet, number: int, port: int, service: int) -> None:
    assert rig.xdp(packet) == delivered(packet, number, port, service)


@pytest.mark.parametrize(("packet", "number", "port", "service"), DELIVERED)
def test_later_packet(rig: Rig, packet: Packet, number: int, port: int, service: int) -> None:
    """The same packet again belongs to the flow; a SYN opens it anew."""
    rig.xdp(packet)
    again = TCP in packet and packet[TCP].flags == "S"
    assert rig.xdp(packet) == delivered(packet, number, port, service, new=again)
    assert len(rig.flows()) == 1


def test_zero_sums_are_what_the_rows_say() -> None:
    """The two rows about checksums of 0 are about that."""
    tcp = p.payload_for_zero(p.client_tcp(), **WEB_TO)
    udp = p.payload_for_zero(p.client_udp(payload=b""), **DNS_TO)
    assert Ether(p.to_vm(tcp, 1, 8080))[TCP].chksum == 0
    assert Ether(p.to_vm(udp, 1, 5353))[UDP].chksum == 0xFFFF


@pytest.mark.parametrize("high", range(0, 0x10000, 0x101))
def test_checksums_all_over_the_range(rig: Rig, high: int) -> None:
    """Every carry of the sums: payloads that move the checksum over its range."""
    for packet, port, service in (
        (p.client_tcp(payload=high.to_bytes(2, "big"), id=high), 8080, w.WEB),
        (p.client_udp(payload=high.to_bytes(2, "big"), id=high), 5353, w.DNS),
    ):
        first = rig.xdp(packet)
        assert first.packet == p.to_vm(packet, 1, port)
        assert set(first.stats) == {service}


def changed(packet: Packet, layer: type[Packet], **fields: object) -> bytes:
    """The packet with fields as they should not be; checksums are of no interest."""
    new = packet.copy()
    for name, value in fields.items():
        setattr(new[layer], name, value)
    return bytes(new)


def cut(packet: Packet, length: int) -> bytes:
    """The first bytes of the frame."""
    return bytes(packet)[:length]


R = DropReason
DROPPED = [
    row("an address that nobody owns", p.client_tcp(dst=p.FREE_VIP), R.VIP_UNALLOCATED),
    row("the pool's own network address", p.client_udp(dst="203.0.113.0"), R.VIP_UNALLOCATED),
    row("the last address of a pool", p.client_tcp(dst="198.18.5.15"), R.VIP_UNALLOCATED),
    row("a port without a service", p.client_tcp(8081), R.NO_SERVICE),
    row("the right port, the other protocol", p.client_udp(80), R.NO_SERVICE),
    row("the right port of another VIP", p.client_tcp(80, dst=p.VIP2), R.NO_SERVICE),
    row("below a range", p.client_udp(4999), R.NO_SERVICE),
    row("above a range", p.client_udp(5004), R.NO_SERVICE),
    row("a range of UDP is not one of TCP", p.client_tcp(5000), R.NO_SERVICE),
    row("a range's port on a VIP without it", p.client_udp(5000, dst=p.VIP2), R.NO_SERVICE),
    row("UDP without a machine is not answered", p.client_udp(81), R.NO_BACKEND),
    row("a service with handlers", p.client_tcp(8443, flags="S"), R.NEEDS_PROXY),
    row("GRE to an owned address", p.from_uplink(proto=47) / Raw(b"\0" * 20), R.PROTO),
    row("IPv6 in IPv4", p.from_uplink(proto=41) / Raw(b"\x60" * 40), R.PROTO),
    row("TTL 1", p.client_tcp(ttl=1), R.TTL),
    row("TTL 0", p.client_udp(ttl=0), R.TTL),
    row("a source in this network", p.client_tcp(src="0.1.2.3"), R.BAD_SOURCE),
    row("a loopback source", p.client_tcp(src="127.0.0.1"), R.BAD_SOURCE),
    row("a multicast source", p.client_udp(src="224.0.0.1"), R.BAD_SOURCE),
    row("a reserved source", p.client_udp(src="240.0.0.1"), R.BAD_SOURCE),
    row("the broadcast address as source", p.client_udp(src="255.255.255.255"), R.BAD_SOURCE),
    row("a VM's private address as source", p.client_tcp(src=p.private_ip(2)), R.BAD_SOURCE),
    row("an alias as source", p.client_tcp(src=p.alias_ip(2)), R.BAD_SOURCE),
    row("a VIP as source", p.client_tcp(src=p.VIP2), R.BAD_SOURCE),
    row("source and destination the same (land)", p.client_tcp(src=p.VIP), R.BAD_SOURCE),
    row("a VM's private address from outside", p.client_tcp(dst=p.private_ip(1)), R.PRIVATE_DST),
    row("fly-global-services from outside", p.client_udp(dst=p.services_ip(1)), R.PRIVATE_DST),
    row("an alias from outside", p.client_tcp(dst=p.alias_ip(1)), R.PRIVATE_DST),
    row("a broadcast frame", changed(p.SYN, Ether, dst="ff:ff:ff:ff:ff:ff"), R.GROUP_MAC),
    row("a ping to all", changed(p.ECHO, Ether, dst="ff:ff:ff:ff:ff:ff"), R.GROUP_MAC),
    row("a ping as if from all", changed(p.ECHO, Ether, src="ff:ff:ff:ff:ff:ff"), R.GROUP_MAC),
    row("to a group", changed(p.client_tcp(81), Ether, dst="01:00:5e:00:00:01"), R.GROUP_MAC),
    row("IP version 5", changed(p.SYN, IP, version=5), R.BAD_IP_HEADER),
    row("a header of 4 words", changed(p.SYN, IP, ihl=4), R.BAD_IP_HEADER),
    row("a header of no words", changed(p.SYN, IP, ihl=0), R.BAD_IP_HEADER),
    row("a total length below the header's", changed(p.SYN, IP, len=19), R.BAD_IP_HEADER),
    row("options longer than the total length", changed(p.SYN, IP, ihl=15), R.BAD_IP_HEADER),
    row("a total length beyond the frame", changed(p.SYN, IP, len=41), R.TRUNCATED),
    row("a frame cut inside TCP", cut(p.SYN, 53), R.TRUNCATED),
    row("a frame cut after IP", cut(p.SYN, 34), R.TRUNCATED),
    row("TCP of 19 bytes", changed(p.SYN, IP, len=39), R.BAD_L4_HEADER),
    row("an IP packet with no TCP in it", changed(p.SYN, IP, len=20), R.BAD_L4_HEADER),
    row("UDP of 7 bytes", changed(p.QUERY, IP, len=27), R.BAD_L4_HEADER),
    row("TCP data offset 4", changed(p.ACK, TCP, dataofs=4), R.BAD_L4_HEADER),
    row("TCP options beyond the packet", changed(p.ACK, TCP, dataofs=6), R.BAD_L4_HEADER),
    row("SYN and FIN", changed(p.SYN, TCP, flags="SF"), R.BAD_L4_HEADER),
    row("SYN and RST", changed(p.SYN, TCP, flags="SR"), R.BAD_L4_HEADER),
    row("SYN, RST and ACK", changed(p.SYN, TCP, flags="SRA"), R.BAD_L4_HEADER),
    row("from TCP port 0", p.client_tcp(sport=0), R.BAD_L4_HEADER),
    row("to TCP port 0", p.client_tcp(0), R.BAD_L4_HEADER),
    row("from UDP port 0", p.client_udp(sport=0), R.BAD_L4_HEADER),
    row("to UDP port 0", p.client_udp(0), R.BAD_L4_HEADER),
    row("a UDP length below its header's", changed(p.QUERY, UDP, len=7), R.BAD_L4_HEADER),
    row("a UDP length beyond the IP packet", changed(p.QUERY, UDP, len=17), R.BAD_L4_HEADER),
    row("a UDP length of 0", changed(p.QUERY, UDP, len=0), R.BAD_L4_HEADER),
]


@pytest.mark.parametrize(("packet", "reason"), DROPPED)
def test_dropped(rig: Rig, packet: Packet | bytes, reason: DropReason) -> None:
    assert rig.xdp(packet) == dropped(packet, reason)
    assert rig.flows() == []


PASSED = [
    row("a VLAN tag", p.VLAN),
    row("ARP", p.ARP_REQUEST),
    row("LLDP", p.NOT_IP),
    row("IPv6", p.IPV6),
    row("the host's own address", p.NOT_POOL),
    row("the host's own UDP", p.client_udp(dst="192.0.2.1")),
    row("a fragment for the host", p.client_udp(dst="192.0.2.1", flags="MF")),
    row("TTL 1 for the host", p.client_tcp(dst="192.0.2.1", ttl=1)),
    row("a pool address as source, for the host", p.client_tcp(dst="192.0.2.1", src=p.VIP)),
    row("just below a pool", p.client_tcp(dst="203.0.112.255")),
    row("just above a pool", p.client_tcp(dst="203.0.114.0")),
    row("just below the small pool", p.client_tcp(dst="198.18.4.255")),
    row("just above the small pool", p.client_tcp(dst="198.18.5.16")),
    row("just above the private pool", p.client_tcp(dst="172.32.0.0")),
    row("multicast", p.client_udp(dst="224.0.0.5")),
    row("broadcast, as DHCP needs it", p.client_udp(68, dst="255.255.255.255")),
    row("garbage in the header of something else", changed(p.NOT_POOL, IP, ihl=1, version=9)),
]


@pytest.mark.parametrize("packet", PASSED)
def test_passed_untouched(rig: Rig, packet: Packet | bytes) -> None:
    assert rig.xdp(packet) == passed(packet)


SHORT = {
    "tcp": p.SYN_OPTIONS,
    "udp": p.client_udp(payload=bytes(range(30))),
    "icmp": p.ECHO,
    "arp": p.ARP_REQUEST / Padding(bytes(30)),
    "ipv6": p.IPV6,
    "vlan": p.VLAN,
    "other": p.NOT_IP,
    "host": p.NOT_POOL / Padding(bytes(16)),
}
FOR_POOL = ("tcp", "udp", "icmp")


@pytest.mark.parametrize("name", SHORT)
def test_every_length(rig: Rig, name: str) -> None:
    """Frames of 14 (the least that the kernel tests) to 64 bytes: without a
    whole IP header nothing is known to be for the pools; with one, a part of a
    packet is not the packet."""
    for length in range(14, min(65, len(bytes(SHORT[name])))):
        packet = cut(SHORT[name], length)
        mine = name in FOR_POOL and length >= 34
        want = dropped(packet, R.TRUNCATED) if mine else passed(packet)
        assert rig.xdp(packet) == want, f"{length} bytes"


@pytest.mark.parametrize("name", FOR_POOL)
def test_every_total_length(rig: Rig, name: str) -> None:
    """Total lengths from 0 to the whole: no part of a header is ever enough."""
    whole = SHORT[name]
    size = {"tcp": 20 + 40, "udp": 20 + 8 + 30, "icmp": 20 + 8}[name]
    for total in range(size):
        packet = changed(whole, IP, len=total)
        reason = R.BAD_IP_HEADER if total < 20 else R.BAD_L4_HEADER
        assert rig.xdp(packet) == dropped(packet, reason), f"total length {total}"


def test_no_settings_nothing_is_ours(rig: Rig) -> None:
    """Before the daemon has written settings the host's traffic goes on."""
    rig.settings = type(rig.settings)()
    rig.write_settings()
    for packet in (p.SYN, p.NOT_POOL, p.ECHO, p.client_tcp(dst=p.private_ip(1))):
        assert rig.xdp(packet) == passed(packet)


@pytest.mark.parametrize("dst", ["255.255.255.255", "0.0.0.0", "192.0.2.1"])
def test_pool_removed(rig: Rig, dst: str) -> None:
    """The place of a pool that was removed takes no packets, broadcasts (DHCP)
    least of all."""
    rig.settings.pool[1].prefix, rig.settings.pool[1].mask = NOWHERE
    rig.settings.pool[1].vip_base = 0
    rig.write_settings()
    packet = p.client_udp(68, dst=dst)
    assert rig.xdp(packet) == passed(packet)


def test_vip_released(rig: Rig) -> None:
    """Services left over do not make an address somebody's."""
    rig.vip(p.VIP, VIP_RANGES)
    for packet in (p.SYN, p.client_udp(5000), p.ECHO):
        assert rig.xdp(packet) == dropped(packet, R.VIP_UNALLOCATED)


def reset_for(packet: Packet, seq: int, ack: int, flags: str) -> bytes:
    """The reset that answers ``packet``."""
    return bytes(
        Ether(src=p.HOST_MAC, dst=p.ROUTER_MAC)
        / IP(src=packet[IP].dst, dst=packet[IP].src, ttl=64, id=0, flags="DF")
        / TCP(
            sport=packet[TCP].dport,
            dport=packet[TCP].sport,
            seq=seq,
            ack=ack,
            flags=flags,
            window=0,
        )
    )


GONE = {"seq": 1000, "ack": 2000, "dport": 81, "sport": p.CLIENT_PORT}
RESETS = [
    row("a SYN: its number is acknowledged", p.client_tcp(81, "S"), 0, 1001, "RA"),
    row("a SYN with data", p.client_tcp(81, "S", b"early"), 0, 1006, "RA"),
    row("an ACK says which number the reset has", p.client_tcp(81, "A"), 2000, 0, "R"),
    row("data", p.client_tcp(81, "PA", b"GET /"), 2000, 0, "R"),
    row("FIN with ACK", p.client_tcp(81, "FA"), 2000, 0, "R"),
    row("SYN with ACK", p.client_tcp(81, "SA"), 2000, 0, "R"),
    row("FIN without ACK", p.client_tcp(81, "F"), 0, 1001, "RA"),
    row("data without ACK", p.client_tcp(81, "P", b"abc"), 0, 1003, "RA"),
    row("no flags at all", p.client_tcp(81, 0), 0, 1000, "RA"),
    row("padding is not data", p.client_tcp(81, "S") / Padding(b"\xff" * 6), 0, 1001, "RA"),
    row(
        "TCP options are not data",
        p.from_uplink() / TCP(**GONE, flags="S", options=[("MSS", 1460), ("WScale", 7)]),
        0,
        1001,
        "RA",
    ),
    row(
        "IP options are not data",
        p.from_uplink(options=[b"\x94\x04\0\0"]) / TCP(**GONE, flags="S") / Raw(b"ab"),
        0,
        1003,
        "RA",
    ),
    row(
        "the longest headers",
        p.from_uplink(options=[b"\x01" * 40])
        / TCP(**GONE, flags="A", options=[("NOP", None)] * 40),
        2000,
        0,
        "R",
    ),
    row(
        "a sequence number that wraps",
        p.from_uplink() / TCP(**{**GONE, "seq": 0xFFFFFFFF}, flags="S"),
        0,
        0,
        "RA",
    ),
    row("the longest frame", p.client_tcp(81, "A", b"x" * 1446), 2000, 0, "R"),
]


@pytest.mark.parametrize(("packet", "seq", "ack", "flags"), RESETS)
def test_reset(rig: Rig, packet: Packet, seq: int, ack: int, flags: str) -> None:
    """TCP to a service without a machine is answered (RFC 9293, 3.10.7.1)."""
    assert rig.xdp(packet) == Outcome(
        Xdp.TX,
        reset_for(packet, seq, ack, flags),
        {R.NO_BACKEND: (1, len(bytes(packet)))},
        {Count.RST: 1},
    )


@pytest.mark.parametrize("flags", ["R", "RA"])
def test_reset_is_not_answered(rig: Rig, flags: str) -> None:
    packet = p.client_tcp(81, flags)
    assert rig.xdp(packet) == dropped(packet, R.NO_BACKEND)


def test_redirect_in_tc(rig: Rig) -> None:
    """A machine whose interface takes no XDP redirect: the packet goes on to
    edge_tc with the interface in its metadata."""
    for packet in (p.client_tcp(82, "S"), p.client_udp(82)):
        number, index = 3, rig.ifindex["vm3"]
        assert rig.xdp(packet) == Outcome(
            Xdp.PASS,
            p.to_vm(packet, number, 82),
            counts={Count.FLOW_NEW: 1, Count.VIA_TC: 1},
            stats={w.SLOW: received(packet, new=True)},
            meta=b"eylf" + index.to_bytes(4, "little"),
        )


def test_redirect_in_tc_with_others_metadata(rig: Rig) -> None:
    """What another program left there stays behind ours."""
    packet = p.client_tcp(82, "S")
    outcome = rig.xdp(packet, meta=b"abcd")
    assert outcome.meta == b"eylf" + rig.ifindex["vm3"].to_bytes(4, "little") + b"abcd"
    assert outcome.packet == p.to_vm(packet, 3, 82)


def test_redirect_in_tc_without_room(rig: Rig) -> None:
    """Other programs' metadata leaves no room: changed already, so dropped."""
    packet = p.client_tcp(82, "S")
    assert rig.xdp(packet, meta=most_metadata(rig)) == Outcome(
        Xdp.DROP,
        p.to_vm(packet, 3, 82),
        {R.REDIRECT: (1, len(bytes(packet)))},
        {Count.FLOW_NEW: 1},
        {w.SLOW: received(packet, new=True)},
        most_metadata(rig),
    )


def most_metadata(rig: Rig) -> bytes:
    """As much as the kernel takes (32 bytes before Linux 6.3)."""
    for size in range(252, 0, -4):
        try:
            rig.xdp(p.ARP_REQUEST, meta=bytes(size))
        except KernelError:
            continue
        return bytes(size)
    raise AssertionError("the kernel takes no metadata")


def test_several_machines(rig: Rig) -> None:
    """Flows spread over the table, and stay."""
    chosen = {}
    for port in range(40000, 40064):
        outcome = rig.xdp(p.client_tcp(443, "S", sport=port))
        chosen[port] = Ether(outcome.packet)[IP].dst
    assert set(chosen.values()) == {p.private_ip(1), p.private_ip(2)}
    for port, address in chosen.items():
        number = 1 if address == p.private_ip(1) else 2
        packet = p.client_tcp(443, "A", sport=port)
        assert rig.xdp(packet) == delivered(packet, number, 443, w.BIG, new=False)


def test_empty_slot_in_a_table(rig: Rig) -> None:
    """A table that names a slot without a live machine does not deliver there."""
    rig.slot(1, flags=0)
    packet = p.client_udp()
    assert rig.xdp(packet) == dropped(packet, R.NO_BACKEND)
    rig.slot(1, flags=SLOT_LIVE)
    assert rig.xdp(packet) == delivered(packet, 1, 5353, w.DNS)


def test_table_beyond_the_maps(rig: Rig) -> None:
    """Indexes that are too large find nothing, and nothing is read beyond."""
    rig.service(p.VIP, 17, 90, id=w.NONE, table=999_999, internal=90)
    rig.service(p.VIP, 17, 91, id=w.NONE, table=rig.table([999_999]), internal=91)
    for port in (90, 91):
        packet = p.client_udp(port)
        assert rig.xdp(packet) == dropped(packet, R.NO_BACKEND)
