# SPDX-License-Identifier: Apache-2.0
"""IPv6 and ICMPv6 headers by plain arithmetic, for the model."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from flyebpf.model.reasons import DropReason
from tests.bpf.arithmetic import checksum, get16

R = DropReason
TCP, UDP, ICMP6 = 6, 17, 58
HOP_BY_HOP, ROUTING, FRAGMENT, OPTIONS = 0, 43, 44, 60
GATEWAY = 0xFE80 << 112 | 1
MOST_HEADERS = 6


class Drop(Exception):  # noqa: N818 - an outcome, not an error
    """The packet ends, for a reason or (a message that matters to nobody) none."""

    def __init__(self, reason: DropReason | None) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class Upper:
    """Where the extension headers lead."""

    at: int
    end: int
    proto: int
    extended: bool = False
    fragment: bool = False
    later: bool = False


def walk(frame: bytes, end: int) -> Upper:
    """Over the extension headers, at most six."""
    upper = Upper(54, end, frame[20])
    for passed in range(MOST_HEADERS + 1):
        if upper.later or upper.proto not in (HOP_BY_HOP, ROUTING, FRAGMENT, OPTIONS):
            return upper
        if passed == MOST_HEADERS:
            break
        at = upper.at
        size = 8 if upper.proto == FRAGMENT else 8 + 8 * (frame[at + 1] if at + 1 < end else 0)
        if at + size > end:
            break
        if upper.proto == FRAGMENT:
            if upper.fragment:
                break
            upper.fragment = True
            upper.later = get16(frame, at + 2) >> 3 != 0
        elif (upper.proto == HOP_BY_HOP and upper.extended) or (
            upper.proto == ROUTING and frame[at + 3]
        ):
            break
        upper.proto, upper.at, upper.extended = frame[at], at + size, True
    raise Drop(R.IPV6_HEADER)


def check_size(upper: Upper) -> None:
    """The header that is looked at has to be there."""
    need = {TCP: 20, UDP: 8, ICMP6: 8}.get(upper.proto, 0)
    if not upper.later and upper.at + need > upper.end:
        raise Drop(R.FRAG_TINY if upper.fragment else R.BAD_L4_HEADER)


def check_options(options: bytes, mac: bytes) -> None:
    """Each of a length that can be; MACs are the machine's."""
    while options:
        size = options[1] * 8
        if size == 0 or size > len(options):
            raise Drop(R.BAD_L4_HEADER)
        if options[0] in (1, 2) and options[2:size] != mac:
            raise Drop(R.SPOOFED_ND)
        options = options[size:]


def pseudo(source: int, target: int, message: bytes) -> bytes:
    """What the checksum of an ICMPv6 message covers (RFC 8200, 8.1)."""
    ends = source.to_bytes(16, "big") + target.to_bytes(16, "big")
    return ends + struct.pack("!II", len(message), ICMP6) + message


def from_gateway(target: int, message: bytes, hops: int) -> bytes:
    """An ICMPv6 packet from the gateway, its checksum filled in."""
    check = checksum(pseudo(GATEWAY, target, message)).to_bytes(2, "big")
    message = message[:2] + check + message[4:]
    header = struct.pack("!IHBB", 6 << 28, len(message), ICMP6, hops)
    return header + GATEWAY.to_bytes(16, "big") + target.to_bytes(16, "big") + message


def one_hop_less(frame: bytes) -> bytes:
    return frame[:21] + bytes((frame[21] - 1,)) + frame[22:]


def with_mss(frame: bytes, at: int, most: int) -> bytes:
    """A SYN with its MSS option no higher than ``most``."""
    place, end = at + 20, at + (frame[at + 12] >> 4) * 4
    for _ in range(12):
        if place + 4 > min(end, len(frame)) or frame[place] == 0:
            return frame
        kind, size = frame[place], frame[place + 1]
        if kind == 2:
            old = get16(frame, place + 2)
            if size != 4 or old <= most:
                return frame
            out = frame[: place + 2] + most.to_bytes(2, "big") + frame[place + 4 :]
            odd = (place - at) % 2
            old, new = (swapped(old), swapped(most)) if odd else (old, most)
            check = 0xFFFF - ones_sum(0xFFFF - get16(frame, at + 16), 0xFFFF - old, new)
            return out[: at + 16] + check.to_bytes(2, "big") + out[at + 18 :]
        if kind != 1 and size < 2:
            return frame
        place += 1 if kind == 1 else size
    return frame


def swapped(word: int) -> int:
    return (word & 0xFF) << 8 | word >> 8


def ones_sum(*words: int) -> int:
    """One's complement: carries come in again from below."""
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
