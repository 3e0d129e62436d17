# SPDX-License-Identifier: Apache-2.0
"""Mutated queries: never an exception, and what is accepted is what dnspython
reads too.

``FLYEBPF_DNS_FUZZ`` sets the number of queries; one run in the suite is short.
"""

from __future__ import annotations

import os
import random
import struct
import time
from collections import Counter

import dns.edns
import dns.exception
import dns.message
import dns.name
import pytest

from flyebpf.dns import wire
from flyebpf.dns.metrics import Metrics
from flyebpf.dns.responder import Responder
from flyebpf.dns.wire import Query
from tests.dns_rig import ALICE, WORLD, at, machine, nibbles, question, view

QUERIES = int(os.environ.get("FLYEBPF_DNS_FUZZ", "100000"))
NAMES = (
    *("web.internal", "WEB.internal", "ams.web.internal", "top2.nearest.of.web.internal"),
    *("vms.web.internal", "primary.role.kv._metadata.web.internal", "_instances.internal"),
    *("laptop._peer.internal", "web.flycast", "internal", "example.com", "."),
    *("a" * 63 + ".internal", ".".join(["b" * 60] * 4), nibbles(at(16))),
)
TYPES = ("AAAA", "TXT", "A", "PTR", "SOA", "NS", "ANY", "HTTPS")


def seeds() -> list[bytes]:
    options = [dns.edns.GenericOption(10, b"12345678"), dns.edns.GenericOption(12, bytes(40))]
    ways = (
        {},
        {"use_edns": 0, "payload": 1232},
        {"use_edns": 0, "payload": 4096, "want_dnssec": True, "options": options},
        {"use_edns": 1},
    )
    return [question(name, kind, **way) for name in NAMES for kind in TYPES for way in ways]


def mutated(dice: random.Random, message: bytes, others: list[bytes]) -> bytes:
    """One to four small or large changes; small ones more often, so that enough
    of the queries are accepted."""
    data = bytearray(message)
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(16):
            case 0:
                data[at : at + 1] = bytes([dice.randrange(256)])
            case 1 if at < len(data):
                data[at] ^= 1 << dice.randrange(8)
            case 2:
                data[at:at] = dice.randbytes(dice.randint(1, 8))
            case 3:
                del data[at : at + dice.randint(1, 8)]
            case 4:
                del data[at:]
            case 5:  # a pointer
                data[at : at + 2] = struct.pack("!H", 0xC000 | dice.randrange(len(data) + 4))
            case 6:  # counts
                where = dice.choice((4, 6, 8, 10))
                data[where : where + 2] = struct.pack("!H", dice.choice((0, 1, 2, 3, 65535)))
            case 7:
                other = dice.choice(others)
                data[at:] = other[dice.randrange(len(other)) :]
            case 8:
                data += dice.randbytes(dice.randint(1, 16))
            case _ if len(data) > 14:  # a byte of the name or after it
                data[dice.randrange(13, len(data))] = dice.randrange(256)
        if not data:
            break
    return bytes(data)


def as_dnspython_reads(data: bytes, query: Query) -> None:
    """Options that nobody here looks at are made opaque first: dnspython has an
    opinion on their contents."""
    try:
        read = dns.message.from_wire(data)
    except (dns.exception.DNSException, ValueError):
        read = dns.message.from_wire(opaque(data))
    assert read.opcode() == dns.opcode.QUERY
    (asked,) = read.question
    labels = [label.lower() for label in asked.name.labels]
    assert b"".join(bytes([len(label)]) + label for label in labels) == query.name
    assert (asked.rdtype, asked.rdclass, read.id) == (query.type, query.klass, query.id)
    assert read.edns == query.version
    assert bool(read.ednsflags & wire.DO) == query.do
    if read.edns >= 0:
        assert max(read.payload, 512) == query.size


def opaque(data: bytes) -> bytes:
    """The query with its other additional records left out, and options of OPT
    given a private code."""
    at = wire.skip_name(data, wire.HEADER) + 4
    kept, count = [data[12:at]], 0
    for _ in range(struct.unpack_from("!H", data, 10)[0]):
        start, at = at, wire.skip_name(data, at)
        kind, length = struct.unpack_from("!H6xH", data, at)
        end = at + 10 + length
        if kind == 41:
            record, option = bytearray(data[start:end]), at + 10 - start
            while option < len(record):
                (size,) = struct.unpack_from("!H", record, option + 2)
                record[option : option + 2] = b"\xff\x00"
                option += 4 + size
            kept.append(bytes(record))
            count += 1
        at = end
    return data[:10] + struct.pack("!H", count) + b"".join(kept)


def check_answer(data: bytes, answer: bytes) -> None:
    assert answer[:2] == data[:2]
    assert answer[2] & 0x80
    if len(answer) > wire.HEADER:
        read = dns.message.from_wire(answer)
        assert dns.name.Name(read.question[0].name.labels) == read.question[0].name
        end = wire.skip_name(data, wire.HEADER) + 4
        assert answer[wire.HEADER : end] == data[wire.HEADER : end]


@pytest.mark.parametrize("seed", [1])
def test_mutated_queries(seed: int) -> None:
    dice = random.Random(seed)
    corpus = seeds()
    metrics = Metrics()
    world = view(*WORLD, *(machine(100 + number) for number in range(60)))
    responder = Responder(world, None, metrics)
    outcomes: Counter[str] = Counter()
    times = []
    for number in range(QUERIES):
        data = mutated(dice, dice.choice(corpus), corpus)
        begun = time.perf_counter()
        query = wire.parse(data)
        answer = responder.take(data, ALICE, number % 2 == 0)
        times.append(time.perf_counter() - begun)
        assert answer is None or isinstance(answer, bytes)
        kind = type(query).__name__
        outcomes[kind] += 1
        if isinstance(query, Query):
            as_dnspython_reads(data, query)
        if answer is not None and number % 10 == 0:
            check_answer(data, answer)
    assert metrics.counts["faults"] == 0
    assert set(outcomes) == {"Query", "bytes", "NoneType"}
    assert min(outcomes.values()) > QUERIES / 50
    assert outcomes["Query"] > QUERIES / 5
    times.sort()
    assert times[len(times) * 99 // 100] < 0.005
    print(f"{outcomes}, p99 {times[len(times) * 99 // 100] * 1e6:.0f} us")


def test_datagrams_of_1_to_16_bytes() -> None:
    dice = random.Random(3)
    responder = Responder(view(), None, Metrics())
    for size in range(1, 17):
        for _ in range(500):
            data = bytearray(dice.randbytes(size))
            if size > 2 and dice.random() < 0.7:
                data[2] &= 0x07
            answer = responder.take(bytes(data), ALICE, False)
            if size < 12 or data[2] & 0x80:
                assert answer is None
            else:
                assert isinstance(answer, bytes)
                assert len(answer) == 12
    assert responder.metrics.counts["faults"] == 0
