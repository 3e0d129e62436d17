# SPDX-License-Identifier: Apache-2.0
"""Queries and answers as bytes, for the path that every internal query takes.

Small and strict (RFC 1035, 6891, 9619); whatever needs more of DNS than one
question goes through dnspython (``forward``, ``scrub``). Integers are in host
order, names are in wire form: labels with their lengths, the root at the end.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

HEADER = 12
NAME_MAX = 255
LABEL_MAX = 63
UDP_PLAIN = 512
"""What a client takes that says nothing (RFC 1035, 4.2.1), bytes."""
UDP_MAX = 1232
"""What is sent at most by UDP: with its headers it fits IPv6's least MTU."""
TCP_MAX = 65535
TTL = 5
FEW = 8
"""Addresses of a name that the programs at machines' interfaces answer."""
NEGATIVE_TTL = 1

QR, AA, TC, RD, RA, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0010
OPCODE = 0x7800
DO = 0x8000
IN = 1


class Type(IntEnum):
    """Record types by name (RFC 1035, 3596, 6891, 5936)."""

    A = 1
    NS = 2
    CNAME = 5
    SOA = 6
    PTR = 12
    TXT = 16
    AAAA = 28
    OPT = 41
    IXFR = 251
    AXFR = 252
    ANY = 255


class Rcode(IntEnum):
    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16


class Query(NamedTuple):
    """One accepted query.

    ``name``: as sent but in lower case; ``asked``: the question section as sent.
    ``size``: the longest answer by UDP that the client takes. ``version``: of
    EDNS, -1 without. ``flags``: the header's, of them RD and CD matter.
    """

    id: int
    flags: int
    name: bytes
    type: int
    klass: int
    asked: bytes
    size: int = UDP_PLAIN
    version: int = -1
    do: bool = False


class Answer(NamedTuple):
    """What there is to a question. ``rdata`` of records of ``type``, owned by the
    asked name. ``apex``: the name of the zone; its SOA goes with an answer
    without records. ``ordered``: the order means something."""

    rcode: int
    apex: bytes
    type: int = 0
    rdata: Sequence[bytes] = ()
    ordered: bool = False


_FIXED = struct.Struct("!HHHHHH")
_QUESTION = struct.Struct("!HH")
_RECORD = struct.Struct("!HHIH")
_OPTION = struct.Struct("!HH")


def parse(data: bytes) -> Query | bytes | None:
    """The query in a message; or the error to answer with; or None for silence:
    what is no query must never be answered, or two servers could go on forever.
    """
    if len(data) < HEADER:
        return None
    number, flags, questions, answers, authorities, additional = _FIXED.unpack_from(data)
    if flags & QR:
        return None
    if flags & OPCODE:
        return error(number, flags, Rcode.NOTIMP)
    end = _question_end(data)
    query: Query | None = None
    if questions == 1 and not answers and not authorities and 0 < end <= len(data) - 4:
        kind, klass = _QUESTION.unpack_from(data, end)
        asked = data[HEADER : end + 4]
        query = Query(number, flags, asked[:-4].lower(), kind, klass, asked)
        query = _with_additional(data, query, end + 4, additional)
    return query or error(number, flags, Rcode.FORMERR)


def _question_end(data: bytes) -> int:
    """Where the question's name ends; 0: it is none. Nothing comes before it
    that it could point to, so pointers are errors."""
    at, size = HEADER, len(data)
    while at < size:
        length = data[at]
        at += 1
        if not length:
            return at if at - HEADER <= NAME_MAX else 0
        if length > LABEL_MAX:
            return 0
        at += length
    return 0


def _with_additional(data: bytes, query: Query, at: int, count: int) -> Query | None:
    """The query with what its OPT record says (RFC 6891, 6.1). None: malformed."""
    opt: Query | None = None
    for _ in range(count):
        start, at = at, skip_name(data, at)
        if not at or at + 10 > len(data):
            return None
        kind, klass, ttl, length = _RECORD.unpack_from(data, at)
        at += 10
        if at + length > len(data):
            return None
        if kind == Type.OPT:
            if opt is not None or data[start] or not _options_valid(data, at, at + length):
                return None
            opt = query._replace(
                size=max(klass, UDP_PLAIN), version=ttl >> 16 & 0xFF, do=bool(ttl & DO)
            )
        at += length
    if at != len(data):
        return None
    return opt or query


def skip_name(data: bytes, at: int) -> int:
    """Where a name ends that may be compressed; 0 where it is none. A pointer
    has to point backwards (RFC 1035, 4.1.4); it is not followed."""
    size, start = len(data), at
    while at < size:
        length = data[at]
        if length >= 0xC0:
            known = at + 1 < size and ((length & 0x3F) << 8 | data[at + 1]) < start
            return at + 2 if known else 0
        if length > LABEL_MAX or at - start >= NAME_MAX:
            return 0
        at += 1 + length
        if not length:
            return at
    return 0


def _options_valid(data: bytes, at: int, end: int) -> bool:
    while at + 4 <= end:
        at += 4 + _OPTION.unpack_from(data, at)[1]
    return at == end


def error(id: int, flags: int, rcode: int) -> bytes:
    """An answer of a header alone, to what cannot be taken as a query."""
    return _FIXED.pack(id, QR | flags & (OPCODE | RD) | rcode & 15, 0, 0, 0, 0)


def header(query: Query, flags: int, rcode: int, counts: tuple[int, int]) -> bytes:
    """Header and question of an answer with so many answers and authorities."""
    bits = QR | RA | query.flags & (RD | CD) | flags | rcode & 15
    edns = query.version >= 0
    return _FIXED.pack(query.id, bits, 1, *counts, edns) + query.asked


def opt(query: Query, rcode: int = 0) -> bytes:
    """The OPT record for an answer; nothing to a client that sent none."""
    if query.version < 0:
        return b""
    return b"\0" + _RECORD.pack(Type.OPT, UDP_MAX, rcode >> 4 << 24 | (DO if query.do else 0), 0)


def failure(query: Query, rcode: int) -> bytes:
    """An answer without records and without SOA."""
    return header(query, 0, rcode, (0, 0)) + opt(query, rcode)


def truncated(query: Query, flags: int = 0) -> bytes:
    """Ask again by TCP."""
    return header(query, TC | flags, 0, (0, 0)) + opt(query)


def room(query: Query, tcp: bool) -> int:
    """How long the answer may be, bytes."""
    return TCP_MAX if tcp else min(query.size, UDP_MAX)


def build(query: Query, answer: Answer, limit: int) -> bytes:
    """The whole answer, of at most ``limit`` bytes."""
    if not answer.rdata:
        soa = _soa_record(query, answer.apex)
        found = header(query, AA, answer.rcode, (0, 1)) + soa + opt(query)
        return found if len(found) <= limit else truncated(query, AA)
    tail = opt(query)
    left = limit - HEADER - len(query.asked) - len(tail)
    records, all_fit = _records(query, answer, left)
    cut = 0 if all_fit else TC
    if cut and limit == TCP_MAX:
        cut = 0  # there is no way to ask for more
    front = header(query, AA | cut, answer.rcode, (len(records), 0))
    return b"".join((front, *records, tail))


def _records(query: Query, answer: Answer, left: int) -> tuple[list[bytes], bool]:
    """Records of the asked name in ``left`` bytes, and whether all fit. What
    fits is sent even when the client has to ask again: some never do, and any
    part of the addresses serves them."""
    if answer.type == Type.AAAA:
        count = min(len(answer.rdata), left // 28)
        records = [_AAAA + address for address in _chosen(query, answer, count)]
        return records, count == len(answer.rdata)
    front = b"\xc0\x0c"
    records = [
        front + _RECORD.pack(answer.type, IN, TTL, len(rdata)) + rdata for rdata in answer.rdata
    ]
    if sum(map(len, records)) > left:
        return [], False
    return records, True


def _chosen(query: Query, answer: Answer, count: int) -> Sequence[bytes]:
    """So many of the addresses. Which one comes first is random: of a few, by the
    query's id, which clients choose at random (RFC 5452), as the programs at
    machines' interfaces do it."""
    found = answer.rdata
    if answer.ordered:
        return found[:count]
    if len(found) > FEW:
        return random.sample(found, count)
    first = query.id % len(found)
    return (*found[first:], *found[:first])[:count]


_AAAA = b"\xc0\x0c" + _RECORD.pack(Type.AAAA, IN, TTL, 16)


def _soa_record(query: Query, apex: bytes) -> bytes:
    """The SOA of a negative answer (RFC 2308), its owner a pointer into the
    question, which ends with the zone's name."""
    at = HEADER + len(query.name) - len(apex)
    return (
        _OPTION.pack(0xC000 | at, Type.SOA)
        + struct.pack("!HIH", IN, NEGATIVE_TTL, len(SOA_RDATA))
        + SOA_RDATA
    )


def name_of(text: str) -> bytes:
    """The wire form of a name that is known to be valid; text without escapes."""
    labels = [label.encode() for label in text.strip(".").split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def labels_of(name: bytes) -> list[bytes]:
    """The labels of a name in wire form that ``parse`` accepted."""
    labels, at = [], 0
    while length := name[at]:
        at += 1 + length
        labels.append(name[at - length : at])
    return labels


NAMESERVER = name_of("_api.internal")
SOA_RDATA = (
    NAMESERVER
    + name_of("hostmaster.internal")
    # Serial, refresh, retry, expire, minimum. The serial says nothing: nobody
    # transfers these zones, and it would tell of changes in other networks.
    + struct.pack("!IIIII", 1, 3600, 600, 86400, NEGATIVE_TTL)
)
