# SPDX-License-Identifier: Apache-2.0
"""Addresses and packets that tests name, with a sentence for each packet.

Packets are scapy objects, Ethernet on. What the programs should make of one is
made by :func:`translated`: the same packet with other fields and every
checksum computed anew by scapy, so that it does not depend on how the programs
compute them.
"""

from __future__ import annotations

from typing import Any

from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Padding, Raw

HOST_MAC = "02:00:00:00:00:01"  # the uplink's
ROUTER_MAC = "02:00:00:00:00:02"

POOL = "203.0.113.0/24"
SMALL_POOL = "198.18.5.0/28"
PRIVATE = "172.16.0.0/12"
ALIAS = "100.64.0.0/12"

VIP = "203.0.113.10"
VIP2 = "203.0.113.11"
SMALL_VIP = "198.18.5.7"  # in the other pool
FREE_VIP = "203.0.113.99"  # in the pool, nobody's
ROUTER = "192.0.2.254"
CLIENT = "192.0.2.10"
CLIENT2 = "198.51.100.20"  # behind the second uplink
FAR_ROUTER = "192.0.2.77"  # one that sends ICMP errors
CLIENT_PORT = 40000


def vm_mac(number: int) -> str:
    """The MAC of machine ``number`` of a test."""
    return f"02:fe:00:00:00:{number:02x}"


def gateway_mac(number: int) -> str:
    """What machine ``number`` has for its gateway."""
    return f"02:fd:00:00:00:{number:02x}"


def private_ip(number: int) -> str:
    return f"172.16.0.{2 * number}"


def services_ip(number: int) -> str:
    """The machine's ``fly-global-services``."""
    return f"172.16.0.{2 * number + 1}"


def alias_ip(number: int) -> str:
    """How another machine sees it behind a VIP."""
    return f"100.64.0.{2 * number}"


def from_uplink(**ip: Any) -> Packet:
    """Ethernet and IP of a client's packet to VIP."""
    fields = {"src": CLIENT, "dst": VIP, "ttl": 57, "id": 4711, **ip}
    return Ether(src=ROUTER_MAC, dst=HOST_MAC) / IP(**fields)


def from_vm(number: int, **ip: Any) -> Packet:
    """Ethernet and IP of a packet of machine ``number``, TCP's source address."""
    fields = {"src": private_ip(number), "dst": CLIENT, "ttl": 64, "id": 815, **ip}
    return Ether(src=vm_mac(number), dst=gateway_mac(number)) / IP(**fields)


def client_tcp(port: int = 80, flags: str = "A", payload: bytes = b"", **ip: Any) -> Packet:
    sport = ip.pop("sport", CLIENT_PORT)
    header = TCP(sport=sport, dport=port, flags=flags, seq=1000, ack=2000, window=512)
    packet = from_uplink(**ip) / header
    return packet / Raw(payload) if payload else packet


def client_udp(port: int = 53, payload: bytes = b"question", **ip: Any) -> Packet:
    sport = ip.pop("sport", CLIENT_PORT)
    packet = from_uplink(**ip) / UDP(sport=sport, dport=port)
    return packet / Raw(payload) if payload else packet


def vm_tcp(
    number: int, sport: int = 8080, flags: str = "A", payload: bytes = b"", **ip: Any
) -> Packet:
    dport = ip.pop("dport", CLIENT_PORT)
    header = TCP(sport=sport, dport=dport, flags=flags, seq=5000, ack=1001, window=512)
    packet = from_vm(number, **ip) / header
    return packet / Raw(payload) if payload else packet


def vm_udp(number: int, sport: int = 5353, payload: bytes = b"answer", **ip: Any) -> Packet:
    """From ``fly-global-services``, unless ``src`` says otherwise."""
    dport = ip.pop("dport", CLIENT_PORT)
    ip = {"src": services_ip(number), **ip}
    packet = from_vm(number, **ip) / UDP(sport=sport, dport=dport)
    return packet / Raw(payload) if payload else packet


def vm_arp(number: int, asked: str, **fields: Any) -> Packet:
    """Machine ``number`` asks who has ``asked``."""
    arp = {
        "hwsrc": vm_mac(number),
        "psrc": private_ip(number),
        "hwdst": "00:00:00:00:00:00",
        "pdst": asked,
        **fields,
    }
    return Ether(src=vm_mac(number), dst="ff:ff:ff:ff:ff:ff") / ARP(**arp)


def icmp_error(quoted: Packet, type: int = 3, code: int = 3, **ip: Any) -> Packet:
    """An error from a router about ``quoted`` (IP on, as the router saw it), to
    that packet's sender. Quotes the whole of it."""
    fields = {"src": FAR_ROUTER, "dst": quoted[IP].src, **ip}
    return from_uplink(**fields) / ICMP(type=type, code=code) / Raw(bytes(quoted))


def translated(packet: Packet, **changes: Any) -> bytes:
    """The frame with other ``macs`` (destination, source), ``src``, ``dst``,
    ``sport``, ``dport``, ``ttl``, all checksums right; a UDP checksum of 0 stays."""
    new = packet.copy()
    if "macs" in changes:
        new[Ether].dst, new[Ether].src = changes["macs"]
    ip = new[IP]
    for name in ("src", "dst", "ttl"):
        if name in changes:
            setattr(ip, name, changes[name])
    del ip.chksum
    for layer in (TCP, UDP):
        if layer not in new:
            continue
        for name in ("sport", "dport"):
            if name in changes:
                setattr(new[layer], name, changes[name])
        if not (layer is UDP and packet[UDP].chksum == 0):
            del new[layer].chksum
    return bytes(new)


def to_vm(packet: Packet, number: int, port: int) -> bytes:
    """What machine ``number`` should get for a client's packet."""
    address = services_ip(number) if UDP in packet else private_ip(number)
    return translated(
        packet,
        macs=(vm_mac(number), gateway_mac(number)),
        dst=address,
        dport=port,
        ttl=packet[IP].ttl - 1,
    )


def to_client(packet: Packet, vip: str, port: int) -> bytes:
    """What should leave for a machine's answer. The MACs are still the VM's:
    the kernel writes them when it knows the neighbour."""
    return translated(packet, src=vip, sport=port, ttl=packet[IP].ttl - 1)


def fragments_of(packet: Packet, size: int = 64) -> list[Packet]:
    """The packet in fragments of ``size`` bytes of IP payload, its checksums
    those of the whole."""
    return [Ether(bytes(part)) for part in fragment(Ether(bytes(packet)), fragsize=size)]


def payload_for_zero(packet: Packet, **changes: Any) -> Packet:
    """The packet with a payload such that its checksum, once translated, sums
    to 0."""
    layer = TCP if TCP in packet else UDP
    probe = packet / Raw(b"\0\0")
    built = Ether(translated(probe, **changes))
    return packet / Raw(int(built[layer].chksum).to_bytes(2, "big"))


SYN = client_tcp(flags="S")
"""The first segment of a connection."""
SYN_OPTIONS = from_uplink() / TCP(
    sport=CLIENT_PORT,
    dport=80,
    flags="S",
    seq=1000,
    options=[("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)],
)
"""A SYN as real clients send it, with TCP options."""
ACK = client_tcp(flags="A")
"""The last segment of the handshake."""
DATA = client_tcp(flags="PA", payload=b"GET / HTTP/1.1\r\n\r\n")
"""A segment with data."""
ODD = client_tcp(flags="PA", payload=b"odd length, 23 bytes...")
"""A segment with an odd number of bytes."""
FIN = client_tcp(flags="FA")
"""The client has said everything."""
RST = client_tcp(flags="R")
"""The client gives up."""
SYN_ACK = vm_tcp(1, flags="SA")
"""Machine 1 accepts the connection."""
QUERY = client_udp()
"""A datagram to the UDP service."""
QUERY_NO_SUM = from_uplink() / UDP(sport=CLIENT_PORT, dport=53, chksum=0) / Raw(b"question")
"""A datagram without a checksum, which IPv4 allows."""
EMPTY_QUERY = client_udp(payload=b"")
"""A datagram with nothing in it."""
IP_OPTIONS = from_uplink(options=[b"\x94\x04\0\0", b"\x01\x01\x01\0"]) / TCP(
    sport=CLIENT_PORT, dport=80, flags="S", seq=1000
)
"""A SYN with a router alert and more IP options."""
PADDED = SYN / Padding(b"\0" * 6)
"""A SYN in a frame of the 60 bytes that Ethernet asks for."""
PADDED_NOISE = SYN / Padding(b"\xa5" * 6)
"""The same, with padding that is not zero."""
ECHO = from_uplink() / ICMP(type=8, id=7, seq=1) / Raw(bytes(range(56)))
"""A ping."""
ECHO_ZERO = from_uplink() / ICMP(type=8, id=0, seq=0) / Raw(b"\0" * 8)
"""A ping of nothing but zeros: the answer's checksum is that of zeros."""

VLAN = Ether(src=ROUTER_MAC, dst=HOST_MAC) / Dot1Q(vlan=7) / IP(src=CLIENT, dst=VIP) / TCP(dport=80)
"""Tagged: not ours, even for a pool address."""
ARP_REQUEST = Ether(src=ROUTER_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(psrc=ROUTER, pdst="192.0.2.1")
"""The router looks for the host."""
NOT_POOL = from_uplink(dst="192.0.2.1") / TCP(dport=22, flags="S")
"""Somebody opens ssh to the host itself."""
NOT_IP = Ether(src=ROUTER_MAC, dst="01:80:c2:00:00:00", type=0x88CC) / Raw(b"lldp" * 12)
"""A neighbour announces itself by LLDP."""
IPV6 = Ether(
    bytes.fromhex(
        "020000000001"
        "020000000002"
        "86dd"
        "6000000000083a40"
        "20010db8000000000000000000000001"
        "20010db8000000000000000000000002"
        "8000f0f000010001"
    )
)
"""A ping over IPv6."""
