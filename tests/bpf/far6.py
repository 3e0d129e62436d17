# SPDX-License-Identifier: Apache-2.0
"""IPv6 services whose machine is on another host, and packets as hosts send them.

======  ============  ==========================  =====================
id      clients dial  machine                     internal port
======  ============  ==========================  =====================
FAR     VIP tcp 90    ``FAR_MACHINE``, in slot 8  9090
FAR     VIP udp 90    the same                    9053
======  ============  ==========================  =====================
"""

from __future__ import annotations

import struct

from scapy.layers.inet6 import IPv6, fragment6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from flyebpf.bpf.layout import SERVICE_REVERSE
from tests import packets6 as p6
from tests.bpf import far, world6
from tests.bpf import rig as r
from tests.bpf.far import FAR_MACHINE, FAR_PORT, FAR_SLOT, FAR_UDP_PORT, HEADER, host_address
from tests.bpf.rig import Rig

FAR, FAR_UDP = 21, 22
ROOM = p6.MESH_MTU - HEADER
MSS = ROOM - 60


def build(rig: Rig) -> None:
    """On top of :mod:`tests.bpf.world`: both families."""
    far.build(rig)
    world6.build(rig)
    table = rig.table([FAR_SLOT])
    for proto, ident, internal in ((r.TCP, FAR, FAR_PORT), (r.UDP, FAR_UDP, FAR_UDP_PORT)):
        rig.service(
            p6.VIP, proto, 90, id=ident, table=table, internal=internal, flags=SERVICE_REVERSE
        )


def carried(
    packet: Packet | bytes,
    *,
    machine: int = FAR_MACHINE,
    port: int = 0,
    src: int | str = p6.HOST,
    dst: int | str = p6.OTHER_HOST,
    **outer: object,
) -> bytes:
    """The frame with the header put before its IPv6 packet, padding cut off."""
    inner = bytes(packet)[14:]
    inner = inner[: 40 + struct.unpack_from("!H", inner, 4)[0]]
    header = IPv6(
        **{
            "src": src if isinstance(src, str) else host_address(src),
            "dst": dst if isinstance(dst, str) else p6.sixpn(dst, 0, machine, port),
            "nh": 41,
            "hlim": 64,
            "plen": len(inner),
            **outer,
        }
    )
    return bytes(packet)[:12] + b"\x86\xdd" + bytes(header) + inner


def hopped(packet: Packet | bytes) -> bytes:
    """The packet with one hop less."""
    frame = bytearray(bytes(packet))
    frame[21] -= 1
    return bytes(frame)


def to_here(packet: Packet | bytes, number: int = 1, port: int = 8080, **outer: object) -> bytes:
    """A client's packet as ``OTHER_HOST``'s edge sends it to machine ``number``."""
    fields = {
        "machine": p6.machine_of(number),
        "port": port,
        "src": p6.OTHER_HOST,
        "dst": p6.HOST,
        **outer,
    }
    return carried(hopped(packet), **fields)  # type: ignore[arg-type]


def back_here(packet: Packet | bytes, **outer: object) -> bytes:
    """A machine's answer as ``OTHER_HOST`` sends it back to the edge: its source is
    the VIP already."""
    fields = {"machine": 0, "src": p6.OTHER_HOST, "dst": p6.HOST, **outer}
    return carried(hopped(packet), **fields)  # type: ignore[arg-type]


def without_macs(frame: bytes) -> bytes:
    """The kernel writes them."""
    return bytes(12) + frame[12:]


def parts(packet: Packet, size: int = 180) -> list[Packet]:
    """The fragments of a packet that has a fragment header."""

    ether = Ether(src=packet[Ether].src, dst=packet[Ether].dst)
    return [Ether(bytes(ether / part)) for part in fragment6(IPv6(bytes(packet[IPv6])), size)]
