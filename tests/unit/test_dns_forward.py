# SPDX-License-Identifier: Apache-2.0
"""Forwarding against resolvers on loopback that lie, are slow or away."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import pytest

from flyebpf.dns import wire
from flyebpf.dns.asker import Asker
from flyebpf.dns.forward import ForwardConfig, Forwarder
from flyebpf.dns.limits import LimitsConfig
from flyebpf.dns.metrics import Metrics
from flyebpf.dns.upstream import parse_address
from flyebpf.errors import InvalidError
from flyebpf.model.sixpn import HOST_BIT
from tests.dns_resolver import Answers, Behave, Question, Resolver, addresses, running, silent
from tests.dns_rig import ALICE, Reply, question, reply

BOB = Asker(2, HOST_BIT | 1, 600)
SOA = "example. 300 IN SOA ns.example. root.example. 1 2 3 4 120"


class Rig:
    """A forwarder and its resolvers, the first one asked first."""

    def __init__(self, resolvers: list[Resolver], forwarder: Forwarder) -> None:
        self.resolvers = resolvers
        self.forwarder = forwarder
        self.counts = forwarder.metrics.counts
        for place, upstream in enumerate(forwarder.upstreams):
            upstream.srtt = 0.3 + 0.05 * place  # no second query on a busy machine

    async def ask(
        self,
        name: str = "www.example",
        type: str = "A",
        *,
        asker: Asker = ALICE,
        limit: int = 1232,
        **values: Any,
    ) -> Reply:
        query = wire.parse(question(name, type, **({"use_edns": 0} | values)))
        assert isinstance(query, wire.Query)
        found = self.forwarder.lookup(query, asker, limit)
        return reply(found if isinstance(found, bytes) else await found)


Test = Callable[[Rig], Coroutine[Any, Any, None]]


def run(
    test: Test,
    *behaviours: Behave,
    delays: tuple[float, ...] = (),
    limits: LimitsConfig | None = None,
    **config: Any,
) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            resolvers = [
                await stack.enter_async_context(
                    running(behave, delay=delays[at] if at < len(delays) else 0.0)
                )
                for at, behave in enumerate(behaviours)
            ]
            upstreams = tuple(resolver.upstream for resolver in resolvers)
            made = Forwarder(
                ForwardConfig(upstreams, explore=0.0, **config), limits or LimitsConfig(), Metrics()
            )
            await test(Rig(resolvers, made))
            made.stop()
            await asyncio.sleep(0)
            assert made.metrics.counts["faults"] == 0

    asyncio.run(main())


def set_clock(monkeypatch: pytest.MonkeyPatch, clock: Callable[[], float]) -> None:
    """The forwarder's, not the event loop's."""
    monkeypatch.setattr("flyebpf.dns.forward.time", SimpleNamespace(monotonic=clock))


def test_an_answer_is_forwarded_and_cached() -> None:
    async def test(rig: Rig) -> None:
        first = await rig.ask()
        assert (first.rcode, first.data) == ("NOERROR", ["192.0.2.7"])
        assert first.message.flags == dns.flags.QR | dns.flags.RD | dns.flags.RA
        again = await rig.ask("WwW.eXaMpLe")
        assert again.data == first.data
        assert str(again.message.answer[0].name) == "WwW.eXaMpLe."
        assert str(again.message.question[0].name) == "WwW.eXaMpLe."
        assert rig.resolvers[0].names() == ["www.example."]
        assert (rig.counts["cache_hits"], rig.counts["cache_misses"]) == (1, 1)
        assert (await rig.ask(use_edns=-1)).message.edns == -1
        assert (await rig.ask(use_edns=0)).message.edns == 0

    run(test, addresses)


def test_ttls_go_down_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(rig: Rig) -> None:
        start = time.monotonic()
        await rig.ask()
        set_clock(monkeypatch, lambda: start + 20.5)
        assert (await rig.ask()).message.answer[0].ttl in (39, 40)
        set_clock(monkeypatch, lambda: start + 61)
        assert (await rig.ask()).message.answer[0].ttl == 60
        assert len(rig.resolvers[0].asked) == 2

    run(test, addresses)


def test_queries_are_hard_to_guess() -> None:
    """Ids, ports and case (draft-vixie-dnsext-dns0x20) all differ."""

    async def test(rig: Rig) -> None:
        for number in range(60):
            await rig.ask(f"a-rather-long-name-{number % 10}.of.the.example", "AAAA")
            rig.forwarder.cache.__init__(1 << 20, 0)  # type: ignore[misc]
        asked = rig.resolvers[0].asked
        assert len({question.message.id for question in asked}) > 50
        assert len({question.client[1] for question in asked}) > 40
        assert len({question.name for question in asked}) > 55
        assert all(question.message.payload == 1232 for question in asked)

    run(test, addresses)


@pytest.mark.parametrize(("do", "cd"), [(True, False), (False, True), (True, True)])
def test_dnssec_flags_are_passed_on_and_kept_apart(do: bool, cd: bool) -> None:
    async def test(rig: Rig) -> None:
        await rig.ask()
        await rig.ask(want_dnssec=do, flags=dns.flags.RD | (dns.flags.CD if cd else 0))
        asked = rig.resolvers[0].asked[1].message
        assert bool(asked.ednsflags & dns.flags.DO) == do
        assert bool(asked.flags & dns.flags.CD) == cd

    run(test, addresses)


def test_truncated_answers_are_asked_for_by_tcp() -> None:
    def cut(question: Question) -> Answers:
        if not question.tcp:
            return question.answer(flags=dns.flags.TC)
        return question.answer(*(f"{question.name} 9 IN A 192.0.2.{n}" for n in range(200)))

    async def test(rig: Rig) -> None:
        by_udp = await rig.ask()
        assert (by_udp.truncated, by_udp.data) == (True, [])
        by_tcp = await rig.ask(limit=wire.TCP_MAX)
        assert (by_tcp.truncated, len(by_tcp.data)) == (False, 200)
        assert [question.tcp for question in rig.resolvers[0].asked] == [False, True]

    run(test, cut)


def spoiled(spoil: Callable[[Question, bytes], Answers]) -> Behave:
    """A resolver that by UDP answers wrong, and by TCP right."""

    def behave(question: Question) -> Answers:
        right = addresses(question)
        assert isinstance(right, bytes)
        return right if question.tcp else spoil(question, right)

    return behave


def evil(question: Question) -> bytes:
    return question.answer(f"{question.name} 60 IN A 203.0.113.66")


def other_id(question: Question, number: int = 1) -> bytes:
    data = evil(question)
    return (int.from_bytes(data[:2], "big") + number & 0xFFFF).to_bytes(2, "big") + data[2:]


WRONG: dict[str, Callable[[Question], bytes]] = {
    "wrong id": other_id,
    "another question": lambda q: evil(q).replace(q.wire[13:16], b"xyz"),
    "another type": lambda q: evil(q).replace(b"\0\1\0\1\xc0\x0c", b"\0\x1c\0\1\xc0\x0c"),
    "a query": lambda q: evil(q)[:2] + b"\1\0" + evil(q)[4:],
    "another opcode": lambda q: evil(q)[:2] + b"\xa1\x80" + evil(q)[4:],
    "a short datagram": lambda q: evil(q)[:11],
    "a header alone": lambda q: evil(q)[:4] + bytes(8),
    "nothing": lambda q: b"",
}


@pytest.mark.parametrize("how", WRONG)
def test_wrong_answers_are_waited_out(how: str) -> None:
    async def test(rig: Rig) -> None:
        assert (await rig.ask()).data == ["192.0.2.7"]
        assert rig.counts["spoofed"] == 2
        assert rig.resolvers[0].names(tcp=True) == []

    run(test, spoiled(lambda q, right: [WRONG[how](q), WRONG[how](q), right]))


@pytest.mark.parametrize("how", WRONG)
def test_many_wrong_answers_make_it_ask_by_tcp(how: str) -> None:
    async def test(rig: Rig) -> None:
        assert (await rig.ask()).data == ["192.0.2.7"]
        assert rig.counts["upstream_tcp"] == 1

    run(test, spoiled(lambda q, right: [WRONG[how](q)] * 20))


def other_case(question: Question) -> bytes:
    data = bytearray(evil(question))
    data[13] ^= 0x20
    return bytes(data)


def test_who_guesses_all_but_the_case_makes_it_ask_by_tcp() -> None:
    async def test(rig: Rig) -> None:
        assert (await rig.ask()).data == ["192.0.2.7"]
        assert rig.counts["spoofed"] == 1
        assert [question.tcp for question in rig.resolvers[0].asked] == [False, True]

    run(test, spoiled(lambda q, right: other_case(q)))


def test_resolvers_that_do_not_keep_the_case_are_of_use() -> None:
    def lower(question: Question) -> Answers:
        answer = addresses(question)
        assert isinstance(answer, bytes)
        return answer[:12] + answer[12:].lower()

    async def test(rig: Rig) -> None:
        for number in range(3):
            assert (await rig.ask(f"w{number}.example")).data == ["192.0.2.7"]
        assert rig.counts["upstream_failures"] == 0

    run(test, lower)


def test_answers_from_another_address_or_port_are_not_seen() -> None:
    strangers = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    strangers[0].bind(("127.0.0.2", 0))

    def behave(question: Question) -> Answers:
        for stranger in strangers:
            stranger.sendto(evil(question), question.client)
        return addresses(question)

    async def test(rig: Rig) -> None:
        assert (await rig.ask()).data == ["192.0.2.7"]
        assert rig.counts["spoofed"] == 0

    run(test, behave, delays=(0.1,))
    for stranger in strangers:
        stranger.close()


def test_a_liar_by_tcp_is_not_believed_either() -> None:
    def lies(question: Question) -> Answers:
        return other_id(question) if question.tcp else question.answer(flags=dns.flags.TC)

    async def test(rig: Rig) -> None:
        assert (await rig.ask()).data == ["192.0.2.7"]
        assert rig.resolvers[0].names(tcp=True)

    run(test, lies, addresses)


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTAUTH])
def test_the_next_one_is_asked_when_one_refuses(rcode: int) -> None:
    async def test(rig: Rig) -> None:
        assert (await rig.ask()).data == ["192.0.2.7"]
        assert rig.counts["upstream_failures"] >= 1

    run(test, lambda q: q.answer(rcode=rcode), addresses)


@pytest.mark.parametrize(
    "garbage",
    [b"\xff" * 40, b"\xc0\x0c" * 20, b"\0\1\0\1\0\0\0\5\xff\xff", b"\0" * 500, b"\xc0\xff\0\1"],
)
def test_garbage_in_an_answer_is_a_failure(garbage: bytes) -> None:
    def behave(question: Question) -> Answers:
        data = bytearray(evil(question))
        end = wire.skip_name(bytes(data), 12) + 4
        data[end:] = garbage
        data[6:12] = b"\0\3\0\3\0\3"
        return bytes(data)

    async def test(rig: Rig) -> None:
        assert (await rig.ask()).data == ["192.0.2.7"]

    run(test, behave, addresses)


def many(count: int) -> Behave:
    def behave(question: Question) -> Answers:
        if not question.tcp:
            return question.answer(flags=dns.flags.TC)
        addresses = (f"10.0.{number // 256}.{number % 256}" for number in range(count))
        return question.answer(*(f"{question.name} 60 IN A {address}" for address in addresses))

    return behave


def test_long_answers_cost_the_asker_more() -> None:
    async def test(rig: Rig) -> None:
        names = [f"{n}.example" for n in range(4)]
        rcodes = [(await rig.ask(name, limit=wire.TCP_MAX)).rcode for name in names]
        assert rcodes == ["NOERROR", "NOERROR", "SERVFAIL", "SERVFAIL"]
        assert rig.counts["forward_limited"] == 2
        assert (await rig.ask("other.example", asker=BOB)).rcode == "NOERROR"

    run(test, many(400), limits=LimitsConfig(forward_rate=1, forward_burst=100))


def test_large_answers_cost_the_asker_more() -> None:
    """One record of 60,000 bytes, that the asker may not even take."""
    text = " ".join(['"' + "x" * 250 + '"'] * 240)

    def large(question: Question) -> Answers:
        if not question.tcp:
            return question.answer(flags=dns.flags.TC)
        return question.answer(f"{question.name} 60 IN TXT {text}")

    async def test(rig: Rig) -> None:
        rcodes = [(await rig.ask(f"{n}.example", "TXT")).rcode for n in range(5)]
        assert rcodes == ["NOERROR", "NOERROR", "SERVFAIL", "SERVFAIL", "SERVFAIL"]
        assert (await rig.ask("other.example", "TXT", asker=BOB)).rcode == "NOERROR"

    run(test, large, limits=LimitsConfig(forward_rate=0.1, forward_burst=100))


def test_failures_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flyebpf.dns.forward._FAILED_MAX", 10)

    async def test(rig: Rig) -> None:
        await asyncio.gather(*(rig.ask(f"{number}.example") for number in range(40)))
        failed = rig.forwarder._failed
        assert len(failed) == 10
        assert list(failed.values()) == sorted(failed.values())
        await rig.ask("39.example")
        assert len(failed) == 10

    run(test, silent, deadline=0.2)


def test_no_more_sockets_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def test(rig: Rig) -> None:
        with monkeypatch.context() as patched:
            patched.setattr("flyebpf.dns.upstream.socket.socket", none)
            assert (await rig.ask()).rcode == "SERVFAIL"
        assert rig.forwarder.upstreams[0].failures == 0  # it is not the resolver's

    run(test, addresses)


def test_answers_of_too_many_records_are_failures() -> None:
    async def test(rig: Rig) -> None:
        assert (await rig.ask()).data == ["192.0.2.7"]

    run(test, many(501), addresses)


def test_an_answer_that_only_its_compression_made_short_enough() -> None:
    """SRV targets may not be compressed (RFC 2782), but a liar can do it."""

    def behave(question: Question) -> Answers:
        if not question.tcp:
            return question.answer(flags=dns.flags.TC)
        asked = question.wire[12 : wire.skip_name(question.wire, 12) + 4]
        target = b"\xc0\x0c"
        records = b"".join(
            target + b"\0\x21\0\1\0\0\0\x3c\0\x08" + number.to_bytes(2, "big") + bytes(4) + target
            for number in range(500)
        )
        return question.wire[:2] + b"\x81\x80\0\1\1\xf4\0\0\0\0" + asked + records

    async def test(rig: Rig) -> None:
        name = ".".join(["x" * 60] * 4)
        assert (await rig.ask(name, "SRV", limit=wire.TCP_MAX)).rcode == "SERVFAIL"

    run(test, behave)


def test_resolvers_without_edns_are_asked_without() -> None:
    def old(question: Question) -> Answers:
        if question.message.edns >= 0:
            return question.wire[:2] + b"\x81\x81" + bytes(8)
        return addresses(question)

    async def test(rig: Rig) -> None:
        assert (await rig.ask()).data == ["192.0.2.7"]
        assert [question.message.edns for question in rig.resolvers[0].asked] == [0, -1]

    run(test, old)


# Away and slow.


def test_a_silent_resolver_costs_little_and_is_left_out_then() -> None:
    async def test(rig: Rig) -> None:
        begun = time.monotonic()
        assert (await rig.ask()).data == ["192.0.2.7"]
        assert time.monotonic() - begun < 2.5
        away = rig.forwarder.upstreams[0]
        for _ in range(3):
            away._learn(None)
        before = len(rig.resolvers[0].asked)
        for number in range(20):
            await rig.ask(f"{number}.example")
        assert len(rig.resolvers[0].asked) - before <= 3  # only to see whether it is back

    run(test, silent, addresses)


def test_a_slow_resolver_is_overtaken() -> None:
    async def test(rig: Rig) -> None:
        begun = time.monotonic()
        assert (await rig.ask()).data == ["192.0.2.7"]
        assert time.monotonic() - begun < 2.5

    run(test, evil, addresses, delays=(4.0, 0.0))


def test_a_lost_datagram_is_sent_again() -> None:
    async def test(rig: Rig) -> None:
        assert (await rig.ask()).data == ["192.0.2.7"]
        assert len(rig.resolvers[0].asked) == 2

    run(test, lambda q: addresses(q) if q.number else None)


def test_a_closed_port_is_noticed_at_once() -> None:
    async def test(rig: Rig) -> None:
        closed = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        closed.close()
        rig.forwarder.upstreams[0].address = ("127.0.0.1", port)
        begun = time.monotonic()
        assert (await rig.ask()).data == ["192.0.2.7"]
        assert time.monotonic() - begun < 0.1 + 0.5

    run(test, silent, addresses)


def test_nobody_answers() -> None:
    async def test(rig: Rig) -> None:
        begun = time.monotonic()
        assert (await rig.ask()).rcode == "SERVFAIL"
        assert 0.3 < time.monotonic() - begun < 3
        asked = len(rig.resolvers[0].asked)
        assert (await rig.ask()).rcode == "SERVFAIL"  # at once, and nobody is asked
        assert len(rig.resolvers[0].asked) == asked

    run(test, silent, silent, deadline=0.5)


def test_no_resolver_is_configured() -> None:
    async def test(rig: Rig) -> None:
        assert (await rig.ask()).rcode == "SERVFAIL"

    run(test)


def test_old_answers_are_better_than_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(rig: Rig) -> None:
        await rig.ask()
        rig.resolvers[0].behave = silent
        start = time.monotonic()
        real = time.monotonic
        set_clock(monkeypatch, lambda: real() + 3600)
        old = await rig.ask()
        assert (old.rcode, old.data, old.message.answer[0].ttl) == ("NOERROR", ["192.0.2.7"], 30)
        assert 0.15 < real() - start < 2
        begun = real()
        await asyncio.sleep(0.5)  # the search ends without success
        assert (await rig.ask()).data == ["192.0.2.7"]
        assert real() - begun < 0.65  # nobody is waited for
        assert rig.counts["stale"] == 2
        rig.resolvers[0].behave = addresses
        set_clock(monkeypatch, lambda: real() + 3620)
        assert (await rig.ask()).message.answer[0].ttl == 60
        set_clock(monkeypatch, lambda: real() + 200_000)
        rig.resolvers[0].behave = silent
        assert (await rig.ask()).rcode == "SERVFAIL"  # a day is too old

    run(test, addresses, deadline=0.6, stale_after=0.2)


# What is kept, and how often it is asked.


@pytest.mark.parametrize(
    ("authority", "ttl"),
    [(SOA, 120), (SOA.replace(" 120", " 99999").replace("300", "99999"), 900), ("", 0)],
)
@pytest.mark.parametrize("rcode", [dns.rcode.NXDOMAIN, dns.rcode.NOERROR])
def test_negative_answers(authority: str, ttl: int, rcode: int) -> None:
    async def test(rig: Rig) -> None:
        for _ in range(2):
            found = await rig.ask()
            assert (found.rcode, found.data) == (dns.rcode.to_text(rcode), [])
            assert found.soa == ("example." if authority else "")
        assert len(rig.resolvers[0].asked) == (1 if ttl else 2)
        entries = list(rig.forwarder.cache._entries.values())
        assert [round(e.expires - e.stored) for e in entries] == ([ttl] if ttl else [])

    run(test, lambda q: q.answer(rcode=rcode, authority=authority))


def test_ttl_0_is_for_those_who_waited() -> None:
    async def test(rig: Rig) -> None:
        both = await asyncio.gather(rig.ask(), rig.ask())
        assert [found.message.answer[0].ttl for found in both] == [0, 0]
        await rig.ask()
        assert len(rig.resolvers[0].asked) == 2

    run(test, lambda q: q.answer(f"{q.name} 0 IN A 192.0.2.7"))


def test_the_same_question_is_asked_once_for_all() -> None:
    async def test(rig: Rig) -> None:
        found = await asyncio.gather(*(rig.ask(asker=ALICE) for _ in range(50)))
        assert {tuple(one.data) for one in found} == {("192.0.2.7",)}
        assert len(rig.resolvers[0].asked) == 1
        assert rig.counts["shared"] == 49

    run(test, addresses, delays=(0.05,))


def test_one_machine_cannot_use_up_the_forwarder() -> None:
    async def test(rig: Rig) -> None:
        names = [f"{number}.example" for number in range(30)]
        mine = asyncio.gather(*(rig.ask(name) for name in names))
        await asyncio.sleep(0)
        other = await rig.ask("other.example", asker=BOB)
        assert other.data == ["192.0.2.7"]
        rcodes = [found.rcode for found in await mine]
        assert (rcodes.count("NOERROR"), rcodes.count("SERVFAIL")) == (10, 20)
        assert rig.counts["forward_limited"] == 20
        assert rig.forwarder._shares.used == 0
        assert (await rig.ask("later.example")).rcode == "NOERROR"

    run(test, addresses, delays=(0.2,), limits=LimitsConfig(forwarded=10))


def test_many_that_ask_much_do_not_use_up_the_forwarder() -> None:
    """Each within its own limits: who asks little is served all the same."""
    many = [Asker(1, HOST_BIT | 1, number) for number in range(100, 110)]

    async def test(rig: Rig) -> None:
        asked = [rig.ask(f"{n}.of-{a.machine}.example", asker=a) for a in many for n in range(10)]
        rcodes = [found.rcode for found in await asyncio.gather(*asked)]
        # What all may ask, of which the first ask most, and what each calm one may.
        assert 20 <= rcodes.count("NOERROR") <= 20 + 3 * len(many)
        for number in range(3):
            assert (await rig.ask(f"{number}.calm.example", asker=BOB)).rcode == "NOERROR"
        assert (await rig.ask("4.calm.example", asker=BOB)).rcode == "SERVFAIL"

    limits = LimitsConfig(
        forward_total_rate=0.1, forward_total_burst=20, forward_calm_rate=0.1, forward_calm_burst=2
    )
    run(test, addresses, limits=limits)


def test_what_one_asks_for_at_great_cost_does_not_hold_up_others() -> None:
    def behave(question: Question) -> Answers:
        return addresses(question) if "other" in question.name.lower() else many(400)(question)

    async def test(rig: Rig) -> None:
        await asyncio.gather(*(rig.ask(f"{n}.example", limit=wire.TCP_MAX) for n in range(10)))
        rcodes = [(await rig.ask(f"{n}.other.example", asker=BOB)).rcode for n in range(20)]
        assert rcodes == ["NOERROR"] * 20
        assert (await rig.ask("more.example")).rcode == "SERVFAIL"

    limits = LimitsConfig(
        forward_rate=0.1, forward_burst=100,
        forward_total_rate=0.1, forward_total_burst=200, forward_calm_rate=0.1,
        forward_calm_burst=2,
    )  # fmt: skip
    run(test, behave, limits=limits)


def test_those_who_do_not_wait_leave_nothing_behind() -> None:
    async def test(rig: Rig) -> None:
        asked: list[Awaitable[Reply]] = [rig.ask(f"{n}.example") for n in range(10)]
        tasks = [asyncio.ensure_future(one) for one in asked]
        tasks[0].cancel()  # before it has begun
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert rig.forwarder._shares.used == 0

    run(test, addresses, delays=(0.1,))


def test_the_cache_is_bounded() -> None:
    async def test(rig: Rig) -> None:
        for number in range(200):
            await rig.ask(f"{number}.example")
        cache = rig.forwarder.cache
        assert 0 < cache.used <= 20_000
        assert 10 < len(cache) < 60
        hits = rig.counts["cache_hits"]
        await rig.ask("199.example")
        assert rig.counts["cache_hits"] == hits + 1

    run(test, addresses, cache_bytes=20_000)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", ("192.0.2.1", 53)),
        ("192.0.2.1:5353", ("192.0.2.1", 5353)),
        ("2001:DB8::1", ("2001:db8::1", 53)),
        ("[2001:db8::1]:54", ("2001:db8::1", 54)),
        ("[::1]", ("::1", 53)),
    ],
)
def test_addresses_of_resolvers(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "dns.example", "192.0.2.1:0", "1.2.3", "[::1]:99999", "::1%"])
def test_what_is_no_address_of_a_resolver(text: str) -> None:
    with pytest.raises(InvalidError, match="resolver"):
        parse_address(text)


def test_over_ipv6() -> None:
    async def main() -> None:
        async with running(addresses, address="::1") as resolver:
            made = Forwarder(ForwardConfig((resolver.upstream,)), LimitsConfig(), Metrics())
            assert (await Rig([resolver], made).ask()).data == ["192.0.2.7"]

    asyncio.run(main())
