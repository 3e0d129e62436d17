# SPDX-License-Identifier: Apache-2.0
"""What of resolvers' answers reaches machines."""

from __future__ import annotations

import random

import dns.flags
import dns.message
import dns.rrset
import pytest

from flyebpf.dns import scrub, wire
from flyebpf.dns.cache import Entry, Key
from flyebpf.dns.metrics import Metrics
from flyebpf.dns.upstream import FailedError, Upstream, fits, query
from tests.dns_rig import question

A = "www.example 60 IN A 192.0.2.7"


def rrset(text: str) -> dns.rrset.RRset:
    name, ttl, klass, kind, data = text.split(maxsplit=4)
    return dns.rrset.from_text(f"{name}.", int(ttl), klass, kind, data)


def answer(*records: str, authority: tuple[str, ...] = (), type: str = "ANY") -> bytes:
    made = dns.message.make_response(dns.message.make_query("www.example.", type))
    for record in records:
        found = rrset(record)
        made.find_rrset(made.answer, found.name, 1, found.rdtype, create=True).update(found)
    made.authority = [rrset(record) for record in authority]
    made.additional = [rrset("ns.example 60 IN AAAA fdaa:0:1::9")]
    return bytes(made.to_wire())


def cleaned(*records: str, do: bool = False, authority: tuple[str, ...] = ()) -> scrub.Clean:
    return scrub.clean(dns.message.from_wire(answer(*records, authority=authority)), do)


def kept(clean: scrub.Clean) -> list[str]:
    read = dns.message.from_wire(clean.message)
    assert not read.additional
    return [str(r).replace(". ", " ", 1) for s in (read.answer, read.authority) for r in s]


@pytest.mark.parametrize(
    "record",
    [
        "www.example 60 IN AAAA fdaa:0:1:8000:1:0:10:2",
        "www.example 60 IN AAAA fdaa::3",
        "www.example 60 IN CNAME web.internal.",
        "www.example 60 IN CNAME WEB.Internal.",
        "www.example 60 IN CNAME internal.",
        "www.example 60 IN CNAME web.flycast.",
        "www.example 60 IN MX 10 mail.internal.",
        "www.example 60 IN NS ns.internal.",
        "www.example 60 IN PTR 1.0.0.0.a.a.d.f.ip6.arpa.",
        "www.example 60 IN SRV 1 2 3 db.internal.",
        "www.example 60 IN HTTPS 1 web.internal. alpn=h2",
        "www.example 60 IN HTTPS 1 . ipv6hint=2001:db8::1,fdaa:0:1::2",
        "www.example 60 IN SVCB 1 . ipv6hint=FDAA::1",
        'www.example 60 IN NAPTR 1 2 "s" "SIP" "" sip.internal.',
    ],
)
def test_what_only_this_host_may_say_is_left_out(record: str) -> None:
    found = cleaned(A, record)
    assert found.scrubbed
    assert kept(found) == [A]
    alone = cleaned(record)
    assert alone.scrubbed
    assert kept(alone) == []
    assert alone.ttl == 0


@pytest.mark.parametrize(
    "record",
    [
        "www.example 60 IN AAAA 2001:db8::1",
        "www.example 60 IN AAAA fdab::1",
        "www.example 60 IN AAAA fd00::1",
        "www.example 60 IN A 10.0.0.1",
        "www.example 60 IN CNAME internal.example.",
        "www.example 60 IN CNAME notinternal.",
        'www.example 60 IN TXT "web.internal"',
        'www.example 60 IN HTTPS 1 . ipv6hint="2001:db8::1"',
        "www.example 60 IN PTR 1.0.0.0.a.b.d.f.ip6.arpa.",
        "www.example 60 IN TYPE65400 \\# 3 666f6f",
    ],
)
def test_what_anybody_may_say_is_kept(record: str) -> None:
    found = cleaned(record)
    assert not found.scrubbed
    assert kept(found) == [record]


def test_only_the_private_addresses_of_several_are_left_out() -> None:
    found = cleaned("www.example 60 IN AAAA fdaa::9", "www.example 60 IN AAAA 2001:db8::9")
    assert kept(found) == ["www.example 60 IN AAAA 2001:db8::9"]


def test_names_that_were_not_asked_for_are_left_out() -> None:
    found = cleaned(
        *("www.example 60 IN CNAME a.example.", "a.example 60 IN CNAME b.other."),
        *("b.other 60 IN A 192.0.2.7", "bank.example 60 IN A 203.0.113.66"),
        *("web.internal 60 IN AAAA 2001:db8::1",),
        authority=("bank.example 60 IN NS ns.evil.",),
    )
    assert kept(found) == [
        "www.example 60 IN CNAME a.example.",
        "a.example 60 IN CNAME b.other.",
        "b.other 60 IN A 192.0.2.7",
    ]


def test_aliases_of_whole_domains() -> None:
    made = cleaned(
        *("example 60 IN DNAME other.", "www.example 60 IN CNAME www.other."),
        "www.other 60 IN A 192.0.2.7",
    )
    assert len(kept(made)) == 3


def test_proofs_are_for_those_who_ask_for_them() -> None:
    proof = "www.example 60 IN RRSIG A 8 2 60 20300101000000 20200101000000 1 example. AAAA"
    nsec = "www.example 60 IN NSEC x.example. A"
    soa = "example 60 IN SOA ns.example. root.example. 1 2 3 4 5"
    with_proof = cleaned(A, proof, do=True, authority=(soa, nsec))
    assert len(kept(with_proof)) == 4
    assert len(kept(cleaned(A, proof, authority=(soa, nsec)))) == 2


def test_ttls_are_found_and_bounded() -> None:
    found = cleaned("www.example 999999 IN CNAME a.example.", "a.example 77 IN A 192.0.2.7")
    assert [ttl for _, ttl in found.ttls] == [86400, 77]
    assert found.ttl == 77
    entry = Entry(found.message, found.rcode, found.ttls, 100.0, 177.0)
    asked = wire.parse(question("WWW.example"))
    assert isinstance(asked, wire.Query)
    for now, ttls in ((100.0, [86400, 77]), (150.9, [86350, 27]), (500.0, [30, 30])):
        read = dns.message.from_wire(entry.answer(asked, 512, now))
        assert [r.ttl for r in read.answer] == ttls
    assert dns.message.from_wire(entry.answer(asked, 60, 100.0)).flags & dns.flags.TC


def test_mutated_answers_do_no_harm() -> None:
    """Whatever a resolver sends is refused or clean."""
    dice = random.Random(5)
    upstream = Upstream("192.0.2.1", Metrics())
    corpus = [
        answer(A, "www.example 60 IN AAAA fdaa::1", "www.example 60 IN CNAME a.example."),
        answer("www.example 60 IN HTTPS 1 . ipv6hint=fdaa::1 alpn=h2", "www.example 9 IN MX 1 a."),
        answer(A, authority=("example 60 IN SOA ns.example. root.example. 1 2 3 4 5",)),
        answer("www.example 60 IN SRV 1 2 3 db.internal.", 'www.example 60 IN TXT "x" "y"'),
    ]
    outcomes = {"refused": 0, "clean": 0}
    for _ in range(10_000):
        data = bytearray(dice.choice(corpus))
        for _ in range(dice.choice((1, 1, 2, 5))):
            data[dice.randrange(2, len(data))] = dice.randrange(256)
        if dice.random() < 0.2:
            del data[dice.randrange(12, len(data)) :]
        try:
            read = upstream._parse(bytes(data))
            if len(read.question) != 1:
                continue
            found = scrub.clean(read, True)
        except FailedError:
            outcomes["refused"] += 1
            continue
        outcomes["clean"] += 1
        again = dns.message.from_wire(found.message)
        assert all(not scrub.is_ours(r.name) for r in (*again.answer, *again.authority))
        addresses = [rdata for r in again.answer if r.rdtype == 28 for rdata in r]
        assert not any(str(rdata).startswith("fdaa:") for rdata in addresses)
    assert min(outcomes.values()) > 1000


def test_queries_fit_only_their_own_answers() -> None:
    key = Key(wire.name_of("www.example"), 1, True, False)
    sent, other = query(key, edns=True), query(key, edns=True)
    answered = sent[:2] + b"\x81\x80" + sent[4:]
    assert fits(sent, answered)
    assert not fits(other, other[:2] + answered[2:]) or other[12:25] == sent[12:25]
    assert fits(other, other[:2] + answered[2:], case=False)
    assert not fits(sent, sent)
