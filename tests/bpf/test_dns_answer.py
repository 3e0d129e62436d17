# SPDX-License-Identifier: Apache-2.0
"""dns: queries that the program at a machine's interface answers, with the bytes of
the host's server, and those that it passes on."""

from __future__ import annotations

import os
import random
import struct
import time

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Padding, Raw

from flyebpf.drivers.map_names import raw_key, value_of
from flyebpf.model.reasons import Count, DropReason
from tests import packets6 as p6
from tests.bpf import dnsworld as d
from tests.bpf.expect import row, shot
from tests.bpf.rig import Outcome, Rig, Tc

R = DropReason
DNS_AT = 62  # of the message in a frame
ROUNDS = int(os.environ.get("FLYEBPF_DNS_ROUNDS", "100000"))


@pytest.fixture
def names(rig: Rig) -> Rig:
    d.build(rig)
    return rig


def dns(rig: Rig, frame: Packet | bytes, number: int = 1, **values: int) -> Outcome:
    return rig.tc(frame, f"vm{number}", program="dns", **values)


def unspec(frame: Packet | bytes) -> Outcome:
    """vm_tc leaves it to the next program, as it is."""
    return Outcome(Tc.UNSPEC, bytes(frame))


ANSWERED = [
    *(row(f"{name[-60:]}", d.query(name)) for name in d.NAMES),
    row("capital letters", d.query("WeB.InTERnal")),
    row("no recursion wanted", d.query(flags=0)),
    row("checking disabled", d.query(flags=d.RD | d.CD)),
    row("bits of answers are not repeated", d.query(flags=0x07EF)),
    row("EDNS", d.query(edns=d.opt())),
    row("EDNS with a size of nothing", d.query(edns=d.opt(0))),
    row("EDNS with DO", d.query(edns=d.opt(do=True))),
    row("EDNS with DO, a name of an even length", d.query("one.internal", edns=d.opt(do=True))),
    row("EDNS and a name of an odd length", d.query("x.internal", edns=d.opt())),
    row("a cookie", d.query(edns=d.opt(options=d.option(8)))),
    row("an empty option", d.query(edns=d.opt(options=d.option(0)))),
    row("a long option", d.query(edns=d.opt(options=d.option(40)))),
    row("the longest answer", d.query(list(d.NAMES)[-1], edns=d.opt())),
    row("eight and EDNS", d.query("eight.internal", edns=d.opt(do=True))),
]


@pytest.mark.parametrize("message", ANSWERED)
def test_same_bytes_as_the_server(names: Rig, message: bytes) -> None:
    want = d.server(message)
    assert want is not None
    frame = d.asked(message)
    assert names.vm(1, frame) == unspec(frame)
    assert dns(names, frame) == Outcome(Tc.REDIRECT, d.answered(want), counts={Count.DNS_ANSWER: 1})


@pytest.mark.parametrize("name", ["one.internal", "web.internal", "eight.internal"])
def test_every_address_comes_first(names: Rig, name: str) -> None:
    firsts = set()
    for number in (0, 1, 2, 5, 7, 8, 0xFFFE, 0xFFFF, *range(100, 116)):
        message = d.query(name, id=number)
        outcome = dns(names, d.asked(message))
        want = d.server(message)
        assert want is not None
        assert outcome.packet == d.answered(want)
        at = len(message) + 12
        firsts.add(want[at : at + 16])
    assert firsts == set(d.addresses(name))


def test_from_any_port_and_address_of_the_machine(names: Rig) -> None:
    message = d.query()
    frame = d.asked(message, src=p6.address(1, 0xFFFF), sport=1)
    want = p6.from_gateway(1, src=p6.NAMESERVER, dst=p6.address(1, 0xFFFF))
    outcome = dns(names, frame)
    assert outcome.packet == bytes(want / UDP(sport=53, dport=1) / Raw(d.server(message) or b""))


def test_padded_frame(names: Rig) -> None:
    want = d.server(d.query())
    assert want is not None
    assert dns(names, d.asked(d.query()) / Padding(bytes(9))).packet == d.answered(want)


LABELS_9 = b"\1a" * 8 + b"\x08internal\0"
PASSED = [
    row("a name that is not in the map", d.query("nobody.internal")),
    row("another name with the same beginning", d.query("web.internal.example")),
    row("the root", d.query(b"\0")),
    row("type A", d.query(type=1)),
    row("type ANY", d.query(type=255)),
    row("another class", d.query(klass=3)),
    row("an answer", d.query(flags=0x8000)),
    row("an update", d.query(flags=0x2800)),
    row("two questions", d.query()[:4] + struct.pack("!H", 2) + d.query()[6:]),
    row("no question", d.query()[:4] + bytes(2) + d.query()[6:]),
    row("answers in a query", d.query()[:6] + b"\0\1" + d.query()[8:]),
    row("authorities in a query", d.query()[:8] + b"\0\1" + d.query()[10:]),
    row("two additional records", d.query()[:10] + b"\0\2" + d.query(edns=d.opt())[12:]),
    row("an additional record that is not there", d.query()[:10] + b"\0\1" + d.query()[12:]),
    row("something behind the question", d.query() + b"\0"),
    row("something behind the OPT record", d.query(edns=d.opt() + b"\0")),
    row("EDNS version 1", d.query(edns=d.opt(version=1))),
    row("OPT not at the root", d.query(edns=b"\1a" + d.opt())),
    row("another additional record", d.query(edns=d.opt().replace(b"\x29", b"\x01", 1))),
    row("two options", d.query(edns=d.opt(options=d.option(4) + d.option(4)))),
    row("an option that is too long", d.query(edns=d.opt(options=d.option(4)[:-1]))),
    row("half an option", d.query(edns=d.opt(options=b"\0\x0a"))),
    row("a compressed name", d.query(b"\xc0\x0c")),
    row("a name that ends compressed", d.query(b"\3web\xc0\x0c")),
    row("a label of 64 bytes", d.query(b"\x40" + b"a" * 64 + b"\0")),
    row("nine labels", d.query(LABELS_9)),
    row("a name of 161 bytes", d.query(b"\x33" + b"a" * 51 + (b"\x34" + b"a" * 52) * 2 + b"\1a\0")),
    row("a name without an end", d.query()[:24]),
    row("half a header", d.query()[:11]),
    row("a header alone", d.query()[:12]),
    row("nothing", b""),
    row("a long message", d.query() + bytes(400)),
    row("a longer one than there is room for", d.query(edns=d.opt(options=d.option(240)))),
]


@pytest.mark.parametrize("message", PASSED)
def test_passed_on(names: Rig, message: bytes) -> None:
    """The server decides; it gets the frame as it was, for the host port's MAC."""
    frame = d.asked(message) if message else d.asked(b"")
    assert names.vm(1, frame) == unspec(frame)
    assert dns(names, frame) == Outcome(Tc.REDIRECT, d.passed(frame), counts={Count.DNS_PASSED: 1})


def changed(frame: Packet, layer: type[Packet], **fields: object) -> Packet:
    new = Ether(bytes(frame))
    for name, value in fields.items():
        setattr(new[layer], name, value)
    return new


QUERY = d.asked(d.query())


@pytest.mark.parametrize(
    "frame",
    [
        row("no checksum", changed(QUERY, UDP, chksum=0)),
        row("port 0", changed(QUERY, UDP, sport=0)),
        row("a datagram shorter than its packet", changed(QUERY, UDP, len=20)),
        row("a datagram longer than its packet", changed(QUERY, UDP, len=90)),
        row("TCP", p6.from_vm(1, dst=p6.NAMESERVER) / TCP(sport=7, dport=53, flags="S")),
    ],
)
def test_passed_on_for_its_transport(names: Rig, frame: Packet) -> None:
    outcome = dns(names, frame)
    assert outcome == Outcome(Tc.REDIRECT, d.passed(frame), counts={Count.DNS_PASSED: 1})


def test_names_of_another_network_are_as_if_there_were_none(names: Rig) -> None:
    """Machine 4 is in another network, whose app of the same name has its own."""
    unknown = d.asked(d.query("web.internal"), 4)
    absent = d.asked(d.query("nobody.internal"), 4)
    for frame in (unknown, absent):
        assert dns(names, frame, 4) == Outcome(
            Tc.REDIRECT, d.passed(frame), counts={Count.DNS_PASSED: 1}
        )
    theirs = d.addresses("one.internal", p6.OTHER_NETWORK)
    d.enter(names, d.row("web.internal", p6.OTHER_NETWORK, theirs))
    answer = dns(names, unknown, 4).packet
    assert theirs[0] in answer
    assert not any(address in answer for address in d.addresses("web.internal"))
    assert all(a in dns(names, QUERY).packet for a in d.addresses("web.internal"))


@pytest.mark.parametrize("place", range(3))
def test_addresses_of_another_network_are_never_answered(names: Rig, place: int) -> None:
    """The memory of an entry that was replaced may be another network's already
    when the program reads it."""
    found = list(d.addresses("web.internal"))
    found[place] = d.addresses("web.internal", p6.OTHER_NETWORK)[place]
    d.enter(names, d.row("web.internal", of=tuple(found)))
    for number in range(3):
        frame = d.asked(d.query(id=number))
        assert dns(names, frame) == Outcome(
            Tc.REDIRECT, d.passed(frame), counts={Count.DNS_PASSED: 1}
        )


@pytest.mark.parametrize("count", [0, 9, 0xFFFFFFFF])
def test_numbers_of_addresses_that_cannot_be_are_passed_on(names: Rig, count: int) -> None:
    entered = d.row("web.internal")
    value = struct.pack("=I", count) + value_of(entered.addresses)[4:]
    names.maps["names"].update(raw_key(entered.key), value)
    assert dns(names, QUERY).packet == d.passed(QUERY)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        row("another machine's source", d.asked(d.query(), src=p6.address(2)), R.SPOOFED_IP),
        row("a link-local source", d.asked(d.query(), src=p6.link_local(1)), R.SPOOFED_IP),
        row("not for the server", d.asked(d.query(), dst=p6.address(2)), R.VM_TO_HOST),
        row("for a network's server", d.asked(d.query(), dst="fdaa:102:304::3"), R.VM_TO_HOST),
        row("not IPv6", changed(QUERY, Ether, type=0x0800), R.VM_TO_HOST),
    ],
)
def test_looks_again_at_what_vm_tc_has_seen(names: Rig, frame: Packet, reason: R) -> None:
    assert dns(names, frame) == shot(frame, reason)


def test_interface_without_a_machine(names: Rig) -> None:
    assert names.tc(QUERY, "up0", program="dns") == shot(QUERY, R.UNKNOWN_VM)


def test_without_a_host_port_names_are_answered_all_the_same(names: Rig) -> None:
    names.settings.host_port = 0
    names.write_settings()
    assert dns(names, QUERY).verdict is Tc.REDIRECT
    absent = d.asked(d.query("nobody.internal"))
    assert dns(names, absent) == shot(absent, R.VM_TO_HOST)


def test_flood_of_one_machine_is_limited_and_costs_no_other(names: Rig) -> None:
    frame = bytes(d.asked(d.query("nobody.internal")))
    fast, other = d.fast(names, 1), d.fast(names, 2)
    theirs = bytes(d.asked(d.query(), 2))
    verdicts = []
    for _ in range(5000):
        verdicts.append(fast.run(frame)[0])
        if Tc.SHOT in verdicts:
            break
    assert verdicts[:16] == [Tc.REDIRECT] * 16
    assert Tc.SHOT in verdicts, "all were passed on"
    assert fast.dropped(R.DNS_LIMIT) == 1
    assert other.run(theirs)[0] == Tc.REDIRECT


def test_vm_tc_lets_only_dns_to_the_server(names: Rig) -> None:
    for frame in (
        d.asked(d.query(), dport=54),
        p6.from_vm(1, dst=p6.NAMESERVER) / TCP(dport=853, flags="S"),
        p6.ping(1, dst=p6.NAMESERVER),
    ):
        assert names.vm(1, frame) == shot(frame, R.VM_TO_HOST)
    spoofed = d.asked(d.query(), src=p6.address(2))
    assert names.vm(1, spoofed) == shot(spoofed, R.SPOOFED_IP)
    local = d.asked(d.query(), src=p6.link_local(1))
    assert names.vm(1, local) == shot(local, R.SPOOFED_IP)


def test_mutated_queries(names: Rig) -> None:
    """The server and the program agree about every query, however broken."""
    rng = random.Random(5)
    whole = [d.query(name, edns=edns) for name in d.NAMES for edns in (None, d.opt(do=True))]
    answers, times = 0, []
    fast = d.fast(names, 1)
    for number in range(ROUNDS):
        if number % 100 == 0:
            names.maps["dns_limits"].update(struct.pack("=I", 1), bytes(8))
        message = d.mutated(rng, rng.choice(whole))
        frame = d.raw(message)
        want = d.server(message)
        begun = time.perf_counter()
        verdict, packet = fast.run(frame)
        times.append(time.perf_counter() - begun)
        assert verdict == Tc.REDIRECT
        if packet == d.passed(frame):
            assert want is None or is_left_to_the_server(message), message.hex()
            continue
        answers += 1
        assert want is not None, message.hex()
        assert packet[DNS_AT:] == want, message.hex()
    assert answers > ROUNDS // 100
    assert sorted(times)[len(times) * 99 // 100] < 0.005


def is_left_to_the_server(message: bytes) -> bool:
    """Sound, but more than the program looks at: several options, or other records
    beside OPT."""
    additional = int.from_bytes(message[10:12], "big")
    end = next(12 + len(wired) + 4 for wired in d.KNOWN if message[12:].lower().startswith(wired))
    return additional > 1 or message[end : end + 3] != b"\0\0\x29" or len(message) > end + 15
