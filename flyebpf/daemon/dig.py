# SPDX-License-Identifier: Apache-2.0
"""One question to the DNS process, as a machine of a network would ask it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from flyebpf.api.backend import DigAnswer, DigRecord
from flyebpf.dns.asker import Asker
from flyebpf.dns.client import DnsClient
from flyebpf.errors import InvalidError, UnavailableError

ASKER = 1
"""The machine field of who asks: of the host itself, which no machine has."""
PAYLOAD = 1232


def dig(client: DnsClient, place: tuple[int, int], name: str, kind: str, *, tcp: bool) -> DigAnswer:
    """``place``: numbers of the network and of the host where it asks. Raises
    InvalidError, UnavailableError."""
    query = question(name, kind)
    begun = time.perf_counter()
    data = client.ask(query, Asker(*place, ASKER), tcp=tcp)
    seconds = time.perf_counter() - begun
    if data is None:
        raise UnavailableError(f"the DNS server is silent about {name}", "Ask for another name.")
    message = dns.message.from_wire(data, ignore_trailing=True)
    return DigAnswer(
        rcode=dns.rcode.to_text(message.rcode()),
        flags=dns.flags.to_text(message.flags).split(),
        answers=tuple(shown(message.answer)),
        authority=tuple(shown(message.authority)),
        size=len(data),
        milliseconds=round(seconds * 1000, 3),
        truncated=bool(message.flags & dns.flags.TC),
    )


def question(name: str, kind: str) -> bytes:
    """The query. Raises InvalidError for a name or a type that there cannot be."""
    try:
        owner = dns.name.from_text(name)
        rdtype = dns.rdatatype.from_text(kind)
        made = dns.message.make_query(owner, rdtype, use_edns=0, payload=PAYLOAD)
        return bytes(made.to_wire())
    except (dns.exception.DNSException, ValueError, UnicodeError) as error:
        raise InvalidError(
            f"{kind} {name} cannot be asked for: {error}",
            "Give a type such as AAAA, TXT or PTR, and a name such as my-app.internal.",
        ) from error


def shown(found: Iterable[dns.rrset.RRset]) -> Iterator[DigRecord]:
    """Record by record, in the order of the message."""
    for rrset in found:
        for rdata in rrset:
            kind = dns.rdatatype.to_text(rrset.rdtype)
            yield DigRecord(str(rrset.name), rrset.ttl, kind, rdata.to_text())
