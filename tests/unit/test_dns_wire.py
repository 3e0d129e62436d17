# SPDX-License-Identifier: Apache-2.0
"""Messages as bytes; dnspython is the oracle."""

from __future__ import annotations

import struct

import dns.flags
import dns.message
import pytest

from flyebpf.dns import wire
from flyebpf.dns.metrics import Metrics
from flyebpf.dns.responder import Responder
from flyebpf.dns.wire import Answer, Query, Rcode, Type
from tests.dns_rig import ALICE, question, reply, view

APEX = wire.name_of("internal")
WEB = wire.name_of("web.internal")
PLAIN = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + WEB + b"\0\x1c\0\1"


def with_counts(message: bytes, *counts: int) -> bytes:
    return message[:4] + struct.pack("!HHHH", *counts) + message[12:]


def opt(
    size: int = 1232, version: int = 0, flags: int = 0, options: bytes = b"", owner: bytes = b"\0"
) -> bytes:
    return owner + struct.pack("!HHBBHH", 41, size, 0, version, flags, len(options)) + options


def edns(*records: bytes) -> bytes:
    return with_counts(PLAIN, 1, 0, 0, len(records)) + b"".join(records)


def parsed(message: bytes) -> Query:
    query = wire.parse(message)
    assert isinstance(query, Query)
    return query


def rcode(message: bytes) -> int:
    """Of the error that a message is answered with."""
    found = wire.parse(message)
    assert isinstance(found, bytes), found
    assert len(found) == wire.HEADER
    assert found[:2] == message[:2]
    assert found[2] & 0x80
    return found[3] & 15


def test_a_plain_query() -> None:
    query = parsed(PLAIN)
    assert query == Query(7, 0x0100, WEB, 28, 1, WEB + b"\0\x1c\0\1")
    assert wire.room(query, tcp=False) == 512
    assert wire.room(query, tcp=True) == 65535


def test_case_is_folded_for_the_answer_and_kept_for_the_client() -> None:
    query = parsed(PLAIN.replace(b"web", b"wEb"))
    assert query.name == WEB
    assert query.asked.startswith(b"\3wEb")


@pytest.mark.parametrize(("size", "room"), [(0, 512), (511, 512), (900, 900), (4096, 1232)])
def test_edns_says_how_long_an_answer_may_be(size: int, room: int) -> None:
    query = parsed(edns(opt(size)))
    assert (query.version, query.do, wire.room(query, tcp=False)) == (0, False, room)
    assert parsed(edns(opt(flags=0x8000))).do


@pytest.mark.parametrize("length", range(12))
def test_what_is_shorter_than_a_header_is_met_with_silence(length: int) -> None:
    assert wire.parse(PLAIN[:length]) is None


@pytest.mark.parametrize("length", range(12, len(PLAIN)))
def test_cut_queries_are_malformed(length: int) -> None:
    assert rcode(PLAIN[:length]) == Rcode.FORMERR


def test_answers_are_met_with_silence() -> None:
    assert wire.parse(PLAIN[:2] + b"\x81" + PLAIN[3:]) is None
    assert wire.parse(PLAIN[:2] + b"\xff" * 20) is None


@pytest.mark.parametrize("opcode", range(1, 16))
def test_other_opcodes(opcode: int) -> None:
    message = PLAIN[:2] + bytes([opcode << 3]) + PLAIN[3:]
    assert rcode(message) == Rcode.NOTIMP
    answer = wire.parse(message)
    assert isinstance(answer, bytes)
    assert answer[2] >> 3 & 15 == opcode


@pytest.mark.parametrize(
    "message",
    [
        with_counts(PLAIN, 0, 0, 0, 0),
        with_counts(PLAIN, 2, 0, 0, 0),
        with_counts(PLAIN, 2, 0, 0, 0) + PLAIN[12:],
        with_counts(PLAIN, 1, 1, 0, 0) + PLAIN[12:],
        with_counts(PLAIN, 1, 0, 1, 0),
        with_counts(PLAIN, 1, 0, 0, 1),
        with_counts(PLAIN, 1, 0, 0, 65535) + opt(),
        PLAIN + b"\0",
        edns(opt()) + b"x",
        edns(opt(), opt()),
        edns(opt(owner=WEB)),
        edns(opt(owner=b"\xc0\x0c")),
        edns(opt()[:-1]),
        edns(opt(options=b"\0\3\0")),
        edns(opt(options=b"\0\3\0\5abcd")),
        edns(b"\xc0\xff" + opt()[1:]),
        edns(b"\x40" + opt()[1:]),
        PLAIN[:12] + b"\xc0\x0c" + PLAIN[-4:],
        PLAIN[:12] + b"\xc0\x00" + PLAIN[-4:],
        PLAIN[:12] + b"\x40" + b"a" * 64 + b"\0" + PLAIN[-4:],
        PLAIN[:12] + b"\x80a\0" + PLAIN[-4:],
        PLAIN[:12] + (b"\x3f" + b"a" * 63) * 4 + b"\0" + PLAIN[-4:],
    ],
)
def test_malformed_queries(message: bytes) -> None:
    assert rcode(message) == Rcode.FORMERR


def test_the_longest_name() -> None:
    labels = (b"\x3f" + b"a" * 63) * 3
    longest = labels + b"\x3d" + b"b" * 61 + b"\0"
    assert len(longest) == 255
    assert parsed(PLAIN[:12] + longest + PLAIN[-4:]).name == longest
    assert rcode(PLAIN[:12] + labels + b"\x3e" + b"b" * 62 + b"\0" + PLAIN[-4:]) == Rcode.FORMERR


def test_records_beside_opt_are_skipped() -> None:
    other = b"\xc0\x0c" + struct.pack("!HHIH", 250, 255, 0, 3) + b"sig"
    assert parsed(edns(other)).version == -1
    assert parsed(edns(other, opt())).version == 0
    assert parsed(edns(opt(), other)).version == 0


@pytest.mark.parametrize("message", [PLAIN, edns(opt()), edns(opt(flags=0x8000))])
def test_answers_as_dnspython_reads_them(message: bytes) -> None:
    query = parsed(message)
    asked = dns.message.from_wire(message)
    data = [bytes([0xFD, 0xAA, *range(13), last]) for last in range(3)]
    found = dns.message.from_wire(
        wire.build(query, Answer(0, APEX, Type.AAAA, data), wire.room(query, tcp=False))
    )
    assert asked.is_response(found)
    assert {rdata.to_wire() for rdata in found.answer[0]} == set(data)
    assert found.flags == dns.flags.QR | dns.flags.AA | dns.flags.RD | dns.flags.RA
    assert found.edns == asked.edns
    assert found.ednsflags == asked.ednsflags
    assert found.payload == (1232 if asked.edns == 0 else 0)


def test_flags_of_the_query_are_repeated() -> None:
    for flags in (0, 0x0100, 0x0010, 0x0110):
        query = parsed(PLAIN[:2] + struct.pack("!H", flags) + PLAIN[4:])
        found = dns.message.from_wire(wire.build(query, Answer(0, APEX), 512))
        repeated = dns.flags.RD | dns.flags.CD
        assert found.flags & repeated == flags & repeated


def test_negative_answers_fit_the_longest_name() -> None:
    name = (b"\x3f" + b"a" * 63) * 3 + b"\x34" + b"b" * 52 + APEX
    query = parsed(PLAIN[:12] + name + PLAIN[-4:])
    found = reply(wire.build(query, Answer(Rcode.NXDOMAIN, APEX), 512))
    assert (found.rcode, found.soa, found.truncated) == ("NXDOMAIN", "internal.", False)


def test_truncation_keeps_what_fits() -> None:
    data = [bytes([0xFD, 0xAA, *range(12), *divmod(n, 256)]) for n in range(100)]
    for message, most in ((PLAIN, 512), (edns(opt(700)), 700), (edns(opt(9000)), 1232)):
        query = parsed(message)
        found = reply(wire.build(query, Answer(0, APEX, Type.AAAA, data), wire.room(query, False)))
        assert found.truncated
        assert most - 28 < found.size <= most
        whole = reply(wire.build(query, Answer(0, APEX, Type.AAAA, data), wire.room(query, True)))
        assert (whole.truncated, len(whole.data)) == (False, 100)


def test_a_text_that_does_not_fit_is_left_out() -> None:
    text = b"".join(b"\xff" + b"x" * 255 for _ in range(3))
    found = reply(wire.build(parsed(PLAIN), Answer(0, APEX, Type.TXT, (text,)), 512))
    assert (found.truncated, found.data) == (True, [])


def respond(message: bytes, tcp: bool = False) -> dns.message.Message:
    answer = Responder(view(), None, Metrics()).take(message, ALICE, tcp)
    assert isinstance(answer, bytes)
    return dns.message.from_wire(answer)


@pytest.mark.parametrize("version", [1, 2, 255])
def test_versions_of_edns_that_nobody_knows(version: int) -> None:
    found = respond(edns(opt(version=version)))
    assert (found.rcode(), found.edns) == (dns.rcode.BADVERS, 0)
    assert found.question
    assert not found.answer


@pytest.mark.parametrize(
    ("type", "klass", "rcode"),
    [
        ("AXFR", "IN", "REFUSED"),
        ("IXFR", "IN", "REFUSED"),
        ("TKEY", "IN", "REFUSED"),
        ("TXT", "CH", "REFUSED"),
        ("AAAA", "ANY", "REFUSED"),
        ("AAAA", "NONE", "REFUSED"),
        ("OPT", "IN", "FORMERR"),
    ],
)
def test_questions_that_are_not_answered(type: str, klass: str, rcode: str) -> None:
    front = PLAIN[:-4]
    numbers = dns.rdatatype.from_text(type), dns.rdataclass.from_text(klass)
    assert dns.rcode.to_text(respond(front + struct.pack("!HH", *numbers)).rcode()) == rcode


def test_the_responder_counts() -> None:
    metrics = Metrics()
    responder = Responder(view(), None, metrics)
    for message in (
        *(question("web.internal"), question("web.internal"), question("nobody.internal")),
        *(question("vms.web.internal", "TXT"), question("web.internal", "TYPE1234")),
        *(question("example.com", "A"), PLAIN + b"x", b"x", PLAIN[:2] + b"\x80" + PLAIN[3:]),
    ):
        responder.take(message, ALICE, False)
    found = metrics.snapshot()
    assert sorted(found["queries"]) == [
        ["A", "REFUSED", "refused", 1],
        ["AAAA", "NOERROR", "internal", 2],
        ["AAAA", "NXDOMAIN", "internal", 1],
        ["TXT", "NOERROR", "internal", 1],
        ["other", "NOERROR", "internal", 1],
    ]
    assert (found["counts"]["malformed"], found["counts"]["silent"]) == (1, 2)
    assert sum(found["latency"]["internal"]) == 5
    assert 0 < found["seconds"]["internal"] < 1


def test_a_fault_is_an_answer_and_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    responder = Responder(None, None, Metrics())  # type: ignore[arg-type]
    answer = responder.take(question("web.internal"), ALICE, False)
    assert isinstance(answer, bytes)
    assert reply(answer).rcode == "SERVFAIL"
    assert responder.metrics.counts["faults"] == 1
    assert "fault of the DNS server" in caplog.text
