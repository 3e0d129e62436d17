# SPDX-License-Identifier: Apache-2.0
"""What the bytes of a slot say (``struct slot`` of layout.h)."""

from __future__ import annotations

import socket
import struct

from flyebpf.bpf.layout import SLOT_LIVE, SLOT_REMOTE
from flyebpf.drivers.map_sixpn import Key

# struct slot: generation, flags, ifindex, addresses, MACs, machine_id, 6PN fields, pad.
SLOT = struct.Struct("=III4s4s6s6sQIII12x")
NUMBERS = struct.Struct("=III")  # the 6PN fields alone: network, host, machine
EMPTY = bytes(SLOT.size)


def generation_of(value: bytes) -> int:
    return int.from_bytes(value[:4], "little")


def following(generation: int) -> int:
    """The next generation; 0 is that of slots never used."""
    return generation % 0xFFFFFFFF + 1


def has_way(content: bytes) -> bool:
    """Of a slot's contents after the generation: whether packets have a way to
    the machine."""
    return content[4:8] != bytes(4) or bool(content[0] & SLOT_REMOTE)


def owner_of(value: bytes) -> tuple[bytes, bytes, bytes]:
    """Who a whole slot belongs to: another one's flows are not its own. A number
    is never used again, and so tells two machines of one id apart."""
    remote = int.from_bytes(value[4:8], "little") & SLOT_REMOTE
    return value[32:40], value[48:52], value[44:48] if remote else b""


def sixpn_keys(value: bytes) -> tuple[Key, ...]:
    """The keys in ``sixpn`` that lead to a whole slot."""
    flags = int.from_bytes(value[4:8], "little")
    network, _, number = NUMBERS.unpack_from(value, 40)
    if flags & (SLOT_LIVE | SLOT_REMOTE) != SLOT_LIVE or not number:
        return ()
    return ((0, number), (network, number)) if network else ((0, number),)


def ifindex_of(value: bytes) -> int:
    """Of a whole slot."""
    return int.from_bytes(value[8:12], "little")


def ipv4(address: str) -> bytes:
    """Zeros for none."""
    return socket.inet_aton(address) if address else bytes(4)


def machine_name(number: int) -> str:
    """``machine_id`` as machines are called."""
    return f"{number:014x}"
