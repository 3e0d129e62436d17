# SPDX-License-Identifier: Apache-2.0
"""What of a resolver's answer is passed on: what was asked for, and nothing that
only this host may say."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from flyebpf.dns import wire

LONGEST_TTL = 86_400
LONGEST_NEGATIVE_TTL = 900
_OURS = tuple(dns.name.from_text(zone) for zone in ("internal", "flycast", "a.a.d.f.ip6.arpa"))
_PROOFS = frozenset((dns.rdatatype.NSEC, dns.rdatatype.NSEC3, dns.rdatatype.RRSIG))


class Clean(NamedTuple):
    """``message``: id and flags are 0, no OPT. ``ttls``: offsets and values.
    ``ttl``: how long the whole may be kept. ``scrubbed``: whether there were
    records that may not come from outside."""

    message: bytes
    rcode: int
    ttls: tuple[tuple[int, int], ...]
    ttl: int
    scrubbed: bool


def clean(answer: dns.message.Message, do: bool) -> Clean:
    """A resolver's answer to its question, as it may be given to machines."""
    (question,) = answer.question
    name = question.name.canonicalize()
    kept = list(_relevant(answer, name, do))
    scrubbed = [_without_ours(rrset) for rrset in kept]
    made = dns.message.Message(id=0)
    made.flags = dns.flags.QR
    made.set_rcode(answer.rcode())
    made.question = [dns.rrset.RRset(name, question.rdclass, question.rdtype)]
    made.answer = [rrset for rrset in scrubbed if rrset is not None]
    authority = [rrset for rrset in answer.authority if _belongs(rrset, do)]
    made.authority = [found for rrset in authority if (found := _without_ours(rrset)) is not None]
    packed = made.to_wire(max_size=wire.TCP_MAX)
    return Clean(
        packed,
        int(answer.rcode()),
        tuple(_ttls(packed)),
        _lifetime(made),
        any(new is not old for new, old in zip(scrubbed, kept, strict=True)),
    )


def _relevant(
    answer: dns.message.Message, name: dns.name.Name, do: bool
) -> Iterator[dns.rrset.RRset]:
    """The records of the name, and of what it is an alias of, in their order."""
    chain = {name}
    for rrset in answer.answer:
        if rrset.rdclass != wire.IN or (rrset.rdtype == dns.rdatatype.RRSIG and not do):
            continue
        if rrset.rdtype == dns.rdatatype.DNAME and any(rrset.name.is_superdomain(n) for n in chain):
            yield rrset
        elif rrset.name in chain:
            if rrset.rdtype == dns.rdatatype.CNAME:
                chain.update(rdata.target for rdata in rrset)
            yield rrset


def _belongs(rrset: dns.rrset.RRset, do: bool) -> bool:
    wanted = rrset.rdtype == dns.rdatatype.SOA or (do and rrset.rdtype in _PROOFS)
    return wanted and rrset.rdclass == wire.IN


def _without_ours(rrset: dns.rrset.RRset) -> dns.rrset.RRset | None:
    """The records without those that only this host may answer; the same object
    if there are none of them, None if all are."""
    if is_ours(rrset.name):
        return None
    allowed = [rdata for rdata in rrset if not _is_forbidden(rdata)]
    if len(allowed) == len(rrset):
        return rrset
    return dns.rrset.from_rdata_list(rrset.name, rrset.ttl, allowed) if allowed else None


def is_ours(name: dns.name.Name) -> bool:
    """Whether a name is in a zone that is never asked for outside."""
    return any(name.is_subdomain(zone) for zone in _OURS)


def _is_forbidden(rdata: Any) -> bool:
    if rdata.rdtype == dns.rdatatype.AAAA:
        return is_private(rdata.to_wire())
    if rdata.rdtype in (dns.rdatatype.SVCB, dns.rdatatype.HTTPS):
        hints = getattr(rdata.params.get(6), "addresses", ())  # ipv6hint, RFC 9460
        if any(str(hint).lower().startswith("fdaa:") for hint in hints):
            return True
    return any(is_ours(name) for name in _names(rdata))


def is_private(address: bytes | None) -> bool:
    """Whether 16 bytes are an address of private networks."""
    return address is not None and address[:2] == b"\xfd\xaa"


def _names(rdata: Any) -> Iterator[dns.name.Name]:
    for cls in type(rdata).__mro__:
        for slot in getattr(cls, "__slots__", ()):
            value = getattr(rdata, slot, None)
            if isinstance(value, dns.name.Name):
                yield value


def _ttls(message: bytes) -> Iterator[tuple[int, int]]:
    """Offset and value of every record's TTL."""
    counts = struct.unpack_from("!HHH", message, 6)
    at = wire.skip_name(message, wire.HEADER) + 4
    for _ in range(sum(counts)):
        at = wire.skip_name(message, at)
        ttl, length = struct.unpack_from("!IH", message, at + 4)
        yield at + 4, min(ttl, LONGEST_TTL)
        at += 10 + length


def _lifetime(made: dns.message.Message) -> int:
    """Seconds that an answer may be kept: its shortest TTL, or what the SOA says
    of names that do not exist (RFC 2308, section 5); 0 when nothing says it."""
    if made.answer and made.rcode() == dns.rcode.NOERROR:
        return min(LONGEST_TTL, *(rrset.ttl for rrset in made.answer))
    for rrset in made.authority:
        if rrset.rdtype == dns.rdatatype.SOA:
            return int(min(LONGEST_NEGATIVE_TTL, rrset.ttl, rrset[0].minimum))
    return 0
