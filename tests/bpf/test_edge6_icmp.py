# SPDX-License-Identifier: Apache-2.0
"""edge_xdp: ICMPv6 echoes, and errors about what machines have sent as a VIP."""

from __future__ import annotations

import copy

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Padding, Raw

from flyebpf.model.reasons import Count, DropReason
from tests import packets as p
from tests import packets6 as p6
from tests.bpf import world6 as w
from tests.bpf.expect import dropped, row
from tests.bpf.rig import Outcome, Rig, Xdp

R = DropReason


def ping(data: bytes = bytes(range(56)), **ip: object) -> Packet:
    return w.from_uplink(**ip) / ICMPv6EchoRequest(id=7, seq=1, data=data)


def pong(packet: Packet) -> bytes:
    """The answer to a ping: turned round, with a hop limit of its own."""
    new = copy.deepcopy(packet)
    new[Ether].src, new[Ether].dst = packet[Ether].dst, packet[Ether].src
    new[IPv6].src, new[IPv6].dst, new[IPv6].hlim = packet[IPv6].dst, packet[IPv6].src, 64
    new[ICMPv6EchoRequest].type = 129
    del new[ICMPv6EchoRequest].cksum
    return bytes(new)


OPTIONS = w.from_uplink() / IPv6ExtHdrDestOpt() / ICMPv6EchoRequest(id=9)
ECHOES = [
    row("a ping", ping()),
    row("without data", ping(b"")),
    row("an odd number of bytes", ping(b"abc")),
    row("1400 bytes", ping(b"\xff" * 1400)),
    row("padding stays", ping(b"") / Padding(b"\xff" * 9)),
    row("options stay", OPTIONS),
    row("hop limit 255", ping(hlim=255)),
    row("the other VIP", ping(dst=p6.VIP2)),
]


@pytest.mark.parametrize("packet", ECHOES)
def test_echo(six: Rig, packet: Packet) -> None:
    assert six.xdp(packet) == Outcome(Xdp.TX, pong(packet), counts={Count.ECHO: 1})


def quoted(packet: Packet, port: int, vip: str = p6.VIP) -> bytes:
    """A machine's packet as a router on the way to the client has it."""
    return w.on_its_way(w.to_client(packet, vip, port))


def error_to_vm(error: Packet, quote: bytes, number: int, internal: int, at: int = 40) -> bytes:
    """The error as machine ``number`` should get it: about what it sent, the quoted L4
    checksum as the client would have seen it. ``at``: of the quoted ports."""
    new = copy.deepcopy(error)
    raw = bytearray(quote)
    raw[8:24] = bytes(IPv6(src=p6.address(number)))[8:24]
    raw[at : at + 2] = internal.to_bytes(2, "big")
    new[Raw].load = bytes(raw)
    new[Ether].dst, new[Ether].src = p.vm_mac(number), p.gateway_mac(number)
    new[IPv6].dst, new[IPv6].hlim = p6.address(number), error[IPv6].hlim - 1
    return bytes(new)


REPLY = w.vm_tcp(1, flags="PA", payload=b"HTTP/1.1 200 OK\r\n\r\n")
ERRORS = [
    row("port unreachable", REPLY, 80, 8080, w.WEB, ICMPv6DestUnreach, {"code": 4}),
    row("no route", REPLY, 80, 8080, w.WEB, ICMPv6DestUnreach, {"code": 0}),
    row("too big", REPLY, 80, 8080, w.WEB, ICMPv6PacketTooBig, {"mtu": 1300}),
    row("hops used up", REPLY, 80, 8080, w.WEB, ICMPv6TimeExceeded, {}),
    row("parameter problem", REPLY, 80, 8080, w.WEB, ICMPv6ParamProblem, {"ptr": 6}),
    row("about a datagram", w.ANSWER, 53, 5353, w.DNS, ICMPv6DestUnreach, {"code": 4}),
]


@pytest.mark.parametrize("known", [True, False], ids=["flow known", "flow chosen again"])
@pytest.mark.parametrize(("sent", "port", "internal", "service", "kind", "fields"), ERRORS)
def test_error(
    six: Rig,
    *,
    sent: Packet,
    port: int,
    internal: int,
    service: int,
    kind: type[Packet],
    fields: dict[str, int],
    known: bool,
) -> None:
    if known:
        six.xdp(w.SYN if TCP in sent else w.QUERY)
    quote = quoted(sent, port)
    error = w.error(quote, kind, **fields)
    before = len(six.flows())
    assert six.xdp(error) == Outcome(
        Xdp.REDIRECT,
        error_to_vm(error, quote, 1, internal),
        stats={service: w.received(error, new=False)},
    )
    assert len(six.flows()) == before, "an error opens no flow"


def test_error_about_a_first_fragment(six: Rig) -> None:
    """A machine's datagram was too long for the way and went in fragments."""
    header = IPv6ExtHdrFragment(id=5, m=1)
    udp = UDP(sport=53, dport=p.CLIENT_PORT, len=2000, chksum=7)
    quote = bytes(IPv6(src=p6.VIP, dst=p6.CLIENT) / header / udp / Raw(bytes(80)))
    error = w.error(quote, ICMPv6PacketTooBig, mtu=1300)
    assert six.xdp(error).packet == error_to_vm(error, quote, 1, 5353, at=48)


def test_error_that_quotes_no_more_than_needed(six: Rig) -> None:
    quote = quoted(REPLY, 80)[:48]
    error = w.error(quote, ICMPv6PacketTooBig, mtu=1280)
    assert six.xdp(error).packet == error_to_vm(error, quote, 1, 8080)


@pytest.mark.parametrize("word", range(0, 0x10000, 0x1111))
def test_error_checksums(six: Rig, word: int) -> None:
    quote = quoted(w.vm_udp(1, payload=word.to_bytes(2, "big")), 53)
    error = w.error(quote, ICMPv6PacketTooBig, mtu=word)
    assert six.xdp(error).packet == error_to_vm(error, quote, 1, 5353)


def quote_with(at: int, value: int) -> Packet:
    """The quoted reply with another byte in its header."""
    raw = bytearray(quoted(REPLY, 80))
    raw[at] = value
    return w.error(bytes(raw))


def about(src: str = p6.VIP, dst: str = p6.CLIENT, port: int = 80, to: str = p6.VIP) -> Packet:
    header = IPv6(src=src, dst=dst) / TCP(sport=port, dport=p.CLIENT_PORT)
    return w.error(bytes(header), ip={"dst": to})


LATER = bytes(IPv6(src=p6.VIP, dst=p6.CLIENT) / IPv6ExtHdrFragment(offset=9) / Raw(bytes(40)))
DROPPED = [
    row("a pong that nobody asked for", w.from_uplink() / ICMPv6EchoReply(), R.ICMP_TYPE),
    row("a ping with a code", w.from_uplink() / ICMPv6EchoRequest(code=1), R.ICMP_TYPE),
    row("a neighbour's question", w.from_uplink() / ICMPv6ND_NS(tgt=p6.VIP), R.ICMP_TYPE),
    row("type 5", p6.with_(about(), ICMPv6DestUnreach, type=5), R.ICMP_TYPE),
    row("type 0", p6.with_(about(), ICMPv6DestUnreach, type=0), R.ICMP_TYPE),
    row("an address that nobody owns", ping(dst=p6.FREE_VIP), R.VIP_UNALLOCATED),
    row("one that nobody can get", ping(dst=p6.REST), R.VIP_UNALLOCATED),
    row("7 bytes", w.from_uplink(nh=58) / Raw(b"\x80" + bytes(6)), R.BAD_L4_HEADER),
    row("an error that quotes nothing", w.error(b""), R.BAD_L4_HEADER),
    row("an error that quotes part of IP", w.error(quoted(REPLY, 80)[:39]), R.BAD_L4_HEADER),
    row("an error that quotes only IP", w.error(quoted(REPLY, 80)[:40]), R.BAD_L4_HEADER),
    row("one that quotes 7 bytes of TCP", w.error(quoted(REPLY, 80)[:47]), R.BAD_L4_HEADER),
    row("a quote of version 4", quote_with(0, 0x45), R.BAD_L4_HEADER),
    row("a quote of ICMPv6", quote_with(6, 58), R.ICMP_NO_FLOW),
    row("a quote of options", quote_with(6, 60), R.ICMP_NO_FLOW),
    row("a quote of a later fragment", w.error(LATER), R.ICMP_NO_FLOW),
    row("a quote of 7 bytes behind a fragment header",
        w.error(bytes(IPv6(src=p6.VIP, dst=p6.CLIENT) / IPv6ExtHdrFragment(nh=6)) + bytes(7)),
        R.ICMP_NO_FLOW),
    row("a quote of another VIP", about(src=p6.VIP2), R.ICMP_NO_FLOW),
    row("a quote to a private network", about(dst=p6.address(2)), R.ICMP_NO_FLOW),
    row("a quote to a VIP", about(dst=p6.VIP2), R.ICMP_NO_FLOW),
    row("a quote of a port without service", about(port=8081), R.ICMP_NO_FLOW),
    row("a quote of a service without machine", about(port=81), R.ICMP_NO_FLOW),
    row("a quote of a proxy's service", about(port=8443), R.ICMP_NO_FLOW),
]  # fmt: skip


@pytest.mark.parametrize(("packet", "reason"), DROPPED)
def test_dropped(six: Rig, packet: Packet, reason: DropReason) -> None:
    assert six.xdp(packet) == dropped(packet, reason)
    assert six.flows() == []


def test_error_for_a_stopped_machine(six: Rig) -> None:
    six.xdp(w.SYN)
    six.slot(1, flags=0)
    error = w.error(quoted(REPLY, 80))
    assert six.xdp(error) == dropped(error, R.ICMP_NO_FLOW)
