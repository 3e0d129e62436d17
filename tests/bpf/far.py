# SPDX-License-Identifier: Apache-2.0
"""Services with a machine on ``OTHER_HOST``, and packets as hosts send them.

======  ==================  ==========================  =====================
id      clients dial        machine                     internal port
======  ==================  ==========================  =====================
FAR     VIP tcp 90, udp 90  ``FAR_MACHINE``, in slot 8  9090 (tcp), 9053 (udp)
TWINS   VIP and VIP2        the same                    9022 (several VIPs)
        tcp 92
======  ==================  ==========================  =====================

The mesh is ``lan0``, a plain underlay, unless a test says otherwise: in a test
run of a tc program there is always an Ethernet header.
"""

from __future__ import annotations

import struct

from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from flyebpf.bpf.layout import (
    MESH_ETHERNET,
    MESH_RETURN_EDGE,
    SERVICE_REVERSE,
    SLOT_LIVE,
    SLOT_REMOTE,
    Slot,
)
from tests import packets6 as p6
from tests.bpf.rig import TCP, UDP, Outcome, Rig, Tc, u32
from tests.packets import VIP, VIP2

FAR, FAR_UDP, TWINS = 10, 11, 12
FAR_SLOT = 8
FAR_MACHINE = 0x00C20099
FAR_PORT, FAR_UDP_PORT, TWIN_PORT = 9090, 9053, 9022
HEADER = 40  # bytes that are put before a packet
ROOM = p6.MESH_MTU - HEADER  # for a packet
MSS = ROOM - 40
NEXT_HOP = "fd00::2"
VIA_TC_MAGIC = 0x666C7965


def build(rig: Rig) -> None:
    """On top of :mod:`tests.bpf.world`."""
    slot = Slot(
        generation=1,
        flags=SLOT_LIVE | SLOT_REMOTE,
        machine_id=FAR_SLOT,
        network=p6.NETWORK,
        host=p6.OTHER_HOST,
        machine=FAR_MACHINE,
    )
    rig.maps["slots"].update(u32(FAR_SLOT), bytes(slot))
    far = rig.table([FAR_SLOT])
    rig.service(VIP, TCP, 90, id=FAR, table=far, internal=FAR_PORT)
    rig.service(VIP, UDP, 90, id=FAR_UDP, table=far, internal=FAR_UDP_PORT)
    for vip in (VIP, VIP2):
        rig.service(vip, TCP, 92, id=TWINS, table=far, internal=TWIN_PORT, flags=SERVICE_REVERSE)
    rig.host(p6.OTHER_HOST, "lan0", NEXT_HOP)
    rig.settings.mesh_flags = MESH_ETHERNET
    rig.write_settings()


def return_edge(rig: Rig) -> None:
    """Replies go back to the edge, as where the network filters sources."""
    rig.settings.mesh_flags |= MESH_RETURN_EDGE
    rig.write_settings()


def host_address(host: int) -> str:
    return p6.sixpn(host, 0, 0, 1)


def carried(
    packet: Packet | bytes,
    *,
    machine: int = FAR_MACHINE,
    port: int = 0,
    src: int | str = p6.HOST,
    dst: int | str = p6.OTHER_HOST,
    **outer: object,
) -> bytes:
    """The frame with the header put before its IPv4 packet, padding cut off.
    ``machine`` 0: a reply for the edge ``dst``. ``src`` and ``dst``: hosts, or
    whole addresses."""
    ether = Ether(bytes(packet)[:12] + b"\x86\xdd")
    inner = bytes(packet)[14:]
    inner = inner[: struct.unpack_from("!H", inner, 2)[0]]
    header = IPv6(
        **{
            "src": src if isinstance(src, str) else host_address(src),
            "dst": dst if isinstance(dst, str) else p6.sixpn(dst, 0, machine, port),
            "nh": 4,
            "hlim": 64,
            "plen": len(inner),
            **outer,
        }
    )
    return bytes(ether) + bytes(header) + inner


def hopped(packet: Packet) -> bytes:
    """The packet with one hop less; what it carries as it is."""
    new = Ether(bytes(packet))
    new[IP].ttl -= 1
    del new[IP].chksum
    return bytes(new)


def to_here(packet: Packet | bytes, number: int = 1, port: int = 8080, **outer: object) -> bytes:
    """A client's packet as ``OTHER_HOST``'s edge sends it to machine ``number``."""
    given = hopped(packet) if isinstance(packet, Packet) else packet
    fields = {
        "machine": p6.machine_of(number),
        "port": port,
        "src": p6.OTHER_HOST,
        "dst": p6.HOST,
        **outer,
    }
    return carried(given, **fields)  # type: ignore[arg-type]


def back_here(packet: Packet | bytes, **outer: object) -> bytes:
    """A machine's answer as ``OTHER_HOST`` sends it back to the edge: its source
    is the VIP already."""
    given = hopped(packet) if isinstance(packet, Packet) else packet
    fields = {"machine": 0, "src": p6.OTHER_HOST, "dst": p6.HOST, **outer}
    return carried(given, **fields)  # type: ignore[arg-type]


def via(host: int) -> bytes:
    """What edge_xdp writes before a packet for another host."""
    return struct.pack("=II", VIA_TC_MAGIC, host)


def mesh(rig: Rig, frame: bytes | Packet, **gso: int) -> Outcome:
    """``mesh_tc`` on a frame from the mesh, and ``mesh6_tc`` on what that leaves."""
    outcome = rig.tc(frame, "lan0", program="mesh_tc", **gso)
    if outcome.verdict == Tc.UNSPEC:
        return rig.tc(frame, "lan0", program="mesh6_tc", **gso)
    return outcome
