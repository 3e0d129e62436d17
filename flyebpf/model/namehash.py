# SPDX-License-Identifier: Apache-2.0
"""The hash by which the programs know DNS names; ``bpf/include/dns_name.h`` makes
the same one."""

from __future__ import annotations

import struct

NAME_MAX = 160
"""Bytes of the longest name in wire form that the programs take."""
LABELS_MAX = 8
_START = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)
_TIMES = (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53)
_U64 = 0xFFFFFFFFFFFFFFFF


def fits(name: bytes) -> bool:
    """Whether the programs take a name, in wire form."""
    at = labels = 0
    while name[at]:
        at += 1 + name[at]
        labels += 1
    return len(name) <= NAME_MAX and labels <= LABELS_MAX


def name_hash(name: bytes) -> bytes:
    """16 bytes for a name in wire form and lower case, root included."""
    first, second = _START
    for (word,) in struct.iter_unpack("<Q", name + bytes(-len(name) % 8)):
        first = (first ^ word) * _TIMES[0] & _U64
        first ^= first >> 32
        second = (second + (word ^ first)) * _TIMES[1] & _U64
        second ^= second >> 29
    return struct.pack("=QQ", first, second)
