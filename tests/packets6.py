# SPDX-License-Identifier: Apache-2.0
"""IPv6 addresses and packets that tests name, as :mod:`tests.packets` does for
IPv4.

Machines 1, 2 and 3 are on one private network, machine 4 on another; all are on
the host ``HOST``. ``OTHER_HOST`` is another host of the cluster, ``NO_HOST`` is
none.
"""

from __future__ import annotations

import copy
from ipaddress import IPv6Address
from typing import Any

from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6PacketTooBig,
    IPv6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tests.packets import gateway_mac, vm_mac

POOL = "2001:db8:f::/48"
VIP = "2001:db8:f::10"
VIP2 = "2001:db8:f::11"
FREE_VIP = "2001:db8:f::12"  # in the pool, nobody's
REST = "2001:db8:f::1:0:0:10"  # in the pool, but never given out
CLIENT = "2001:db8:c::10"
FAR_ROUTER = "2001:db8:77::1"  # one that sends ICMP errors

NETWORK = 0x01020304
OTHER_NETWORK = 0x01020305
HOST = 0x80A1A2A3
OTHER_HOST = 0x80A1A2A4
NO_HOST = 0x80A1A2A5
MESH_MTU = 1380
PEER = 10
GATEWAY = "fe80::1"
NAMESERVER = "fdaa::3"
NOBODY = "::"
ALL_ROUTERS = "ff02::2"


def network_of(number: int) -> int:
    return OTHER_NETWORK if number == 4 else NETWORK


def machine_of(number: int) -> int:
    """The machine field of machine ``number`` of a test."""
    return 0x00B10010 + number


def sixpn(network: int, host: int, machine: int, suffix: int = 2) -> str:
    """An address by its fields; in mesh form, ``network`` is the host's."""
    return str(IPv6Address(0xFDAA << 112 | network << 80 | host << 48 | machine << 16 | suffix))


def address(number: int, suffix: int = 2) -> str:
    """Of a machine of this host."""
    return sixpn(network_of(number), HOST, machine_of(number), suffix)


def remote(number: int, host: int = OTHER_HOST, network: int = NETWORK) -> str:
    """Of a machine of another host."""
    return sixpn(network, host, machine_of(number))


def peer(number: int = 7, network: int = NETWORK) -> str:
    """Of a user's WireGuard peer whose gateway is this host."""
    return sixpn(network, HOST, PEER, number << 8 | 2)


def flycast(network: int = NETWORK, number: int = 5) -> str:
    return sixpn(network, 1, 0, number)


def link_local(number: int) -> str:
    """What the machine's kernel makes of its MAC."""
    return f"fe80::fe:ff:fe00:{number:x}"


def group_of(target: str) -> str:
    """The solicited-node multicast address (RFC 4291, 2.7.1)."""
    low = int(IPv6Address(target)) & 0xFFFFFF
    return str(IPv6Address(0xFF02 << 112 | 1 << 32 | 0xFF << 24 | low))


def group_mac(group: str) -> str:
    """RFC 2464, 7."""
    low = int(IPv6Address(group)) & 0xFFFFFFFF
    return "33:33:" + ":".join(f"{byte:02x}" for byte in low.to_bytes(4, "big"))


def from_vm(number: int, **ip: Any) -> Packet:
    """Ethernet and IPv6 of a packet of machine ``number``, to machine 2."""
    fields = {"src": address(number), "dst": address(2), "hlim": 64, "fl": 0x12345, **ip}
    multicast = fields["dst"].startswith("ff")
    dst = group_mac(fields["dst"]) if multicast else gateway_mac(number)
    return Ether(src=vm_mac(number), dst=dst) / IPv6(**fields)


def with_(packet: Packet, layer: type[Packet], **fields: Any) -> Packet:
    """The packet with other fields in one of its layers."""
    new = packet.copy()
    for name, value in fields.items():
        setattr(new[layer], name, value)
    return new


def behind(*headers: Packet, **ip: Any) -> Packet:
    """An IPv6 packet of machine 1 with these headers one after the other."""
    packet = from_vm(1, **ip)
    for header in headers:
        packet = packet / header
    return packet


def tcp(number: int, flags: str = "A", payload: bytes = b"", **ip: Any) -> Packet:
    options = ip.pop("options", [])
    header = TCP(sport=50000, dport=5432, flags=flags, seq=77, ack=88, options=options)
    packet = from_vm(number, **ip) / header
    return packet / Raw(payload) if payload else packet


def udp(number: int, payload: bytes = b"hello", **ip: Any) -> Packet:
    sport, dport = ip.pop("sport", 50000), ip.pop("dport", 9)
    packet = from_vm(number, **ip) / UDP(sport=sport, dport=dport)
    return packet / Raw(payload) if payload else packet


def ping(number: int, payload: bytes = bytes(range(24)), **ip: Any) -> Packet:
    return from_vm(number, **ip) / ICMPv6EchoRequest(id=3, seq=4, data=payload)


def solicit(number: int, target: str, *, mac: str | None = "", **ip: Any) -> Packet:
    """Machine ``number`` asks for ``target``'s MAC. ``mac``: of the option; its
    own by default, None for no option."""
    ip = {"src": address(number), "dst": group_of(target), "hlim": 255, **ip}
    packet = from_vm(number, **ip) / ICMPv6ND_NS(tgt=target)
    return packet if mac is None else packet / ICMPv6NDOptSrcLLAddr(lladdr=mac or vm_mac(number))


def advert(number: int, target: str, *, mac: str | None = "", **ip: Any) -> Packet:
    """Machine ``number`` says that ``target`` is at its MAC."""
    ip = {"src": link_local(number), "dst": "ff02::1", "hlim": 255, **ip}
    packet = from_vm(number, **ip) / ICMPv6ND_NA(tgt=target, R=0)
    return packet if mac is None else packet / ICMPv6NDOptDstLLAddr(lladdr=mac or vm_mac(number))


def router_solicit(number: int, *, mac: str | None = "", **ip: Any) -> Packet:
    ip = {"src": link_local(number), "dst": ALL_ROUTERS, "hlim": 255, **ip}
    packet = from_vm(number, **ip) / ICMPv6ND_RS()
    return packet if mac is None else packet / ICMPv6NDOptSrcLLAddr(lladdr=mac or vm_mac(number))


def rebuilt(packet: Packet) -> bytes:
    """The frame with every checksum computed anew."""
    new = copy.deepcopy(packet)
    layer: Packet | None = new
    while layer:
        for name in ("chksum", "cksum"):
            if name in layer.fields:
                delattr(layer, name)
        layer = layer.payload or None
    return bytes(new)


def from_gateway(number: int, **ip: Any) -> Packet:
    """Ethernet and IPv6 of what machine ``number`` gets from its gateway."""
    fields = {"src": GATEWAY, "dst": address(number), "hlim": 64, **ip}
    return Ether(src=gateway_mac(number), dst=vm_mac(number)) / IPv6(**fields)


def gateway_advert(number: int, target: str, asker: str = "") -> bytes:
    """The answer to :func:`solicit`."""
    header = from_gateway(number, dst=asker or address(number), hlim=255)
    advert = ICMPv6ND_NA(tgt=target, R=1, S=1, O=1)
    return bytes(header / advert / ICMPv6NDOptDstLLAddr(lladdr=gateway_mac(number)))


def gateway_pong(packet: Packet) -> bytes:
    """The answer to a ping of machine 1 to its gateway."""
    echo = packet[ICMPv6EchoRequest]
    reply = ICMPv6EchoReply(id=echo.id, seq=echo.seq, data=echo.data)
    ip = packet[IPv6]
    header = from_gateway(1, dst=ip.src, tc=ip.tc, fl=ip.fl)
    return bytes(header / reply)


def delivered(packet: Packet, number: int) -> bytes:
    """What machine ``number`` of this host gets: other MACs, one hop less."""
    frame = bytearray(bytes(packet))
    frame[:12] = bytes.fromhex((vm_mac(number) + gateway_mac(number)).replace(":", ""))
    frame[21] -= 1
    return bytes(frame)


def in_mesh_form(packet: Packet | bytes) -> bytes:
    """What goes to another host: fields swapped, one hop less. The MACs serve
    the kernel's parser only."""
    frame = bytearray(bytes(packet))
    for at in (22, 38):
        network, host = frame[at + 2 : at + 6], frame[at + 6 : at + 10]
        frame[at + 2 : at + 10] = host + network
    frame[21] -= 1
    return bytes(frame)


QUOTE = 1280 - 48


def too_big(number: int, packet: Packet | bytes) -> bytes:
    """What the gateway says of a packet that the mesh does not take (RFC 4443)."""
    frame = bytes(packet)
    header = from_gateway(number, dst=str(IPv6Address(frame[22:38])))
    return bytes(header / ICMPv6PacketTooBig(mtu=MESH_MTU) / Raw(frame[14 : 14 + QUOTE]))
