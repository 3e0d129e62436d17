# SPDX-License-Identifier: Apache-2.0
"""Services at IPv6 addresses, and packets of their clients and machines.

======  ==========================  ============  ==============
id      clients dial                machines      internal port
======  ==========================  ============  ==============
WEB     VIP tcp 80                  1             8080
DNS     VIP udp 53                  1             5353
BIG     VIP tcp 443                 1 and 2       443
SSH     VIP, VIP2 tcp 22            1             2222
NONE    VIP tcp 81, udp 81          none          81
WALL    VIP tcp 8443                1             8443 (a proxy's)
SLOW    VIP udp 82                  3, not by     82
                                    XDP redirect
GAME    VIP udp 5000-5003           2             6000
======  ==========================  ============  ==============
"""

from __future__ import annotations

import copy
from typing import Any

from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from flyebpf.bpf.layout import (
    SERVICE_PROXY,
    SERVICE_REVERSE,
    SLOT_LIVE,
    SLOT_VIA_TC,
    VIP_ALLOCATED,
    VIP_RANGES,
)
from tests import packets as p
from tests import packets6 as p6
from tests.bpf import rig as r
from tests.bpf.rig import Rig, Stats

WEB, DNS, BIG, SSH, NONE, WALL, SLOW, GAME = range(13, 21)


def build(rig: Rig) -> None:
    """On top of :mod:`tests.bpf.world`."""
    rig.vip(p6.VIP, VIP_ALLOCATED | VIP_RANGES)
    rig.vip(p6.VIP2)
    rig.slot(3, flags=SLOT_LIVE | SLOT_VIA_TC)
    one, two, both, three = rig.table([1]), rig.table([2]), rig.table([1, 2] * 8), rig.table([3])
    none = rig.table([])
    every = {"flags": SERVICE_REVERSE}
    rig.service(p6.VIP, r.TCP, 80, id=WEB, table=one, internal=8080, **every)
    rig.service(p6.VIP, r.UDP, 53, id=DNS, table=one, internal=5353, **every)
    rig.service(p6.VIP, r.TCP, 443, id=BIG, table=both, internal=443, **every)
    for vip in (p6.VIP, p6.VIP2):
        rig.service(vip, r.TCP, 22, id=SSH, table=one, internal=2222, **every)
    for proto in (r.TCP, r.UDP):
        rig.service(p6.VIP, proto, 81, id=NONE, table=none, internal=81, **every)
    flags = SERVICE_PROXY | SERVICE_REVERSE
    rig.service(p6.VIP, r.TCP, 8443, id=WALL, table=one, internal=8443, flags=flags)
    rig.service(p6.VIP, r.UDP, 82, id=SLOW, table=three, internal=82, **every)
    rig.service_range(p6.VIP, r.UDP, 5000, 14, id=GAME, table=two, internal=6000, **every)
    rig.reply(1, r.TCP, 8080, id=WEB, vip=p6.VIP, port=80, unique=False)
    rig.reply(1, r.UDP, 5353, id=DNS, vip=p6.VIP, port=53, unique=False)
    rig.reply(1, r.TCP, 2222, id=SSH, vip=p6.VIP, port=22, unique=False)
    rig.reply(2, r.UDP, 6000, id=GAME, vip=p6.VIP, port=5000, unique=False)


def from_uplink(**ip: Any) -> Packet:
    """Ethernet and IPv6 of a client's packet to VIP."""
    fields = {"src": p6.CLIENT, "dst": p6.VIP, "hlim": 57, "fl": 0x54321, "tc": 8, **ip}
    return Ether(src=p.ROUTER_MAC, dst=p.HOST_MAC) / IPv6(**fields)


def client_tcp(port: int = 80, flags: str = "A", payload: bytes = b"", **ip: Any) -> Packet:
    sport = ip.pop("sport", p.CLIENT_PORT)
    options = ip.pop("options", [])
    header = TCP(
        sport=sport, dport=port, flags=flags, seq=1000, ack=2000, window=512, options=options
    )
    packet = from_uplink(**ip) / header
    return packet / Raw(payload) if payload else packet


def client_udp(port: int = 53, payload: bytes = b"question", **ip: Any) -> Packet:
    sport = ip.pop("sport", p.CLIENT_PORT)
    packet = from_uplink(**ip) / UDP(sport=sport, dport=port)
    return packet / Raw(payload) if payload else packet


def from_vm(number: int, **ip: Any) -> Packet:
    return p6.from_vm(number, **{"dst": p6.CLIENT, **ip})


def vm_tcp(
    number: int = 1, sport: int = 8080, flags: str = "A", payload: bytes = b"", **ip: Any
) -> Packet:
    dport = ip.pop("dport", p.CLIENT_PORT)
    options = ip.pop("options", [])
    header = TCP(
        sport=sport, dport=dport, flags=flags, seq=5000, ack=1001, window=512, options=options
    )
    packet = from_vm(number, **ip) / header
    return packet / Raw(payload) if payload else packet


def vm_udp(number: int = 1, sport: int = 5353, payload: bytes = b"answer", **ip: Any) -> Packet:
    dport = ip.pop("dport", p.CLIENT_PORT)
    return from_vm(number, **ip) / UDP(sport=sport, dport=dport) / Raw(payload)


def translated(packet: Packet, **changes: Any) -> bytes:
    """The frame with other ``macs`` (destination, source), ``src``, ``dst``, ``sport``,
    ``dport``, ``hlim``, all checksums computed anew."""
    new = copy.deepcopy(packet)
    if "macs" in changes:
        new[Ether].dst, new[Ether].src = changes["macs"]
    for name in ("src", "dst", "hlim"):
        if name in changes:
            setattr(new[IPv6], name, changes[name])
    for layer in (TCP, UDP):
        if layer in new:
            for name in ("sport", "dport"):
                if name in changes:
                    setattr(new[layer], name, changes[name])
            del new[layer].chksum
    return bytes(new)


def to_vm(packet: Packet, number: int, port: int) -> bytes:
    """What machine ``number`` should get for a client's packet."""
    return translated(
        packet,
        macs=(p.vm_mac(number), p.gateway_mac(number)),
        dst=p6.address(number),
        dport=port,
        hlim=packet[IPv6].hlim - 1,
    )


def to_client(packet: Packet, vip: str, port: int) -> bytes:
    """What should leave for a machine's answer. The MACs are still the VM's."""
    return translated(packet, src=vip, sport=port, hlim=packet[IPv6].hlim - 1)


def length(packet: Packet | bytes) -> int:
    """Of a frame without padding: as services count it."""
    return 40 + int.from_bytes(bytes(packet)[18:20], "big")


def received(packet: Packet | bytes, *, new: bool) -> Stats:
    return Stats(in_packets=1, in_bytes=length(packet), flows=int(new))


def sent(packet: Packet | bytes) -> Stats:
    return Stats(out_packets=1, out_bytes=length(packet))


def on_its_way(packet: bytes) -> bytes:
    """A machine's packet, IPv6 on, as a router on the way to the client has it."""
    raw = bytearray(packet[14:])
    raw[7] -= 5
    return bytes(raw)


def error(quoted: bytes, kind: type[Packet] = ICMPv6DestUnreach, **fields: Any) -> Packet:
    """A router's error about a packet (IPv6 on), to that packet's sender."""
    ip = {"src": p6.FAR_ROUTER, **fields.pop("ip", {})}
    return from_uplink(**ip) / kind(**fields) / Raw(quoted)


SYN = client_tcp(flags="S")
ACK = client_tcp(flags="A")
QUERY = client_udp()
SYN_ACK = vm_tcp(1, flags="SA")
ANSWER = vm_udp(1)
