# SPDX-License-Identifier: Apache-2.0
"""vm6_tc: machines' answers to IPv6 clients."""

from __future__ import annotations

import copy

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    fragment6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Padding, Raw

from flyebpf.bpf.layout import FLOW_CLOSING, FLOW_CONFIRMED, FLOW_REPLIED
from flyebpf.model.reasons import DropReason
from tests import packets as p
from tests import packets6 as p6
from tests.bpf import world6 as w
from tests.bpf.expect import row, shot
from tests.bpf.rig import Outcome, Rig, Tc

R = DropReason


def answered(packet: Packet, vip: str, port: int, service: int) -> Outcome:
    sent = w.to_client(packet, vip, port)
    return Outcome(Tc.REDIRECT, sent, stats={service: w.sent(packet)})


OPTIONS = w.from_vm(1) / IPv6ExtHdrDestOpt() / TCP(sport=8080, dport=p.CLIENT_PORT, flags="A")
ANSWERS = [
    row("a connection is accepted", w.SYN, w.SYN_ACK, 80, w.WEB),
    row("data, an odd number of bytes", w.SYN, w.vm_tcp(1, flags="PA", payload=b"odd"), 80, w.WEB),
    row("the end", w.SYN, w.vm_tcp(1, flags="FA"), 80, w.WEB),
    row("refused", w.SYN, w.vm_tcp(1, flags="RA"), 80, w.WEB),
    row("behind options", w.SYN, OPTIONS, 80, w.WEB),
    row("a datagram", w.QUERY, w.ANSWER, 53, w.DNS),
    row("padding stays", w.QUERY, w.ANSWER / Padding(b"\xa5" * 5), 53, w.DNS),
    row("the last hop", w.QUERY, w.vm_udp(1, hlim=2), 53, w.DNS),
]


@pytest.mark.parametrize(("asked", "answer", "port", "service"), ANSWERS)
def test_answer(six: Rig, asked: Packet, answer: Packet, port: int, service: int) -> None:
    six.xdp(asked)
    assert six.vm(1, answer) == answered(answer, p6.VIP, port, service)
    assert six.vm(1, answer) == answered(answer, p6.VIP, port, service), "and the next one"


def test_answer_of_the_other_vip(six: Rig) -> None:
    six.xdp(w.client_tcp(22, "S", dst=p6.VIP2))
    answer = w.vm_tcp(1, 2222, "SA")
    assert six.vm(1, answer) == answered(answer, p6.VIP2, 22, w.SSH)


def test_answer_from_a_range(six: Rig) -> None:
    six.xdp(w.client_udp(5003))
    answer = w.vm_udp(2, 6000)
    assert six.vm(2, answer) == answered(answer, p6.VIP, 5003, w.GAME)


def test_both_tables_learn(six: Rig) -> None:
    """A flow is confirmed when the client goes on after the answer, and the entry by
    which answers find it at the next answer."""
    six.xdp(w.SYN)
    six.vm(1, w.SYN_ACK)
    assert [flow.state for flow in six.flows()] == [FLOW_REPLIED]
    six.xdp(w.ACK)
    six.vm(1, w.vm_tcp(1, payload=b"x"))
    assert [flow.state for flow in six.flows()] == [FLOW_REPLIED | FLOW_CONFIRMED]
    assert [entry.state for entry in six.reverses()] == [FLOW_REPLIED | FLOW_CONFIRMED]
    six.vm(1, w.vm_tcp(1, flags="FA"))
    assert six.flows()[0].state & six.reverses()[0].state & FLOW_CLOSING


def test_entry_that_had_to_make_room(six: Rig) -> None:
    """The oldest VIP and port are known otherwise; the flow has the last word."""
    six.xdp(w.SYN)
    six.xdp(w.client_tcp(22, "S", dst=p6.VIP2))
    six.change_reverses(seal=0)
    assert six.vm(1, w.SYN_ACK) == answered(w.SYN_ACK, p6.VIP, 80, w.WEB)
    answer = w.vm_tcp(1, 2222, "SA")
    assert six.vm(1, answer) == shot(answer, R.REPLY_NO_FLOW)


def test_out_where_the_client_came_in(six: Rig) -> None:
    six.settings.uplink_count = 1
    six.write_settings()
    six.xdp(w.SYN)
    assert six.vm(1, w.SYN_ACK).verdict == Tc.REDIRECT


@pytest.mark.parametrize("word", range(0, 0x10000, 0x1111))
def test_checksums(six: Rig, word: int) -> None:
    six.xdp(w.QUERY)
    answer = w.vm_udp(1, payload=word.to_bytes(2, "big"))
    assert six.vm(1, answer).packet == w.to_client(answer, p6.VIP, 53)


def fragments(packet: Packet) -> list[Packet]:
    ether = Ether(src=packet[Ether].src, dst=packet[Ether].dst)
    return [Ether(bytes(ether / part)) for part in fragment6(IPv6(bytes(packet[IPv6])), 180)]


LONG = w.from_vm(1) / IPv6ExtHdrFragment(id=9) / UDP(sport=5353, dport=p.CLIENT_PORT)
LONG = LONG / Raw(bytes(range(200)))


def test_fragments_follow_the_first(six: Rig) -> None:
    six.xdp(w.QUERY)
    want = fragments(Ether(w.to_client(LONG, p6.VIP, 53)))
    for part, wanted in zip(fragments(LONG), want, strict=True):
        outcome = six.vm(1, part)
        assert outcome == Outcome(Tc.REDIRECT, bytes(wanted), stats={w.DNS: w.sent(part)})


def test_fragment_of_another_machine(six: Rig) -> None:
    """It has its own source, and so another key."""
    six.xdp(w.QUERY)
    first, second, *_ = fragments(LONG)
    six.vm(1, first)
    second[IPv6].src, second[Ether].src = p6.address(2), p.vm_mac(2)
    assert six.vm(2, second) == shot(second, R.VM_FRAGMENT)


def test_fragment_of_a_vip_that_has_gone(six: Rig) -> None:
    """To another app, say, which would seem to have sent it."""
    six.xdp(w.QUERY)
    first, second, *_ = fragments(LONG)
    six.vm(1, first)
    six.service_generation(w.DNS, 2)
    assert six.vm(1, second) == shot(second, R.VM_FRAGMENT)


EMPTY = w.client_udp(payload=b"")


def quoting(asked: Packet, number: int, port: int, **changes: object) -> Packet:
    """A machine's error about a client's packet, as it got that."""
    got = Ether(w.to_vm(asked, number, port))[IPv6]
    for name, value in changes.items():
        setattr(got, name, value)
    return w.from_vm(number) / ICMPv6DestUnreach(code=4) / Raw(bytes(got))


def error_to_client(error: Packet, asked: Packet, hops: int = 1) -> bytes:
    """It comes from the VIP and quotes what the client sent."""
    quote = bytearray(bytes(asked[IPv6]))
    got = error[Raw].load
    quote[7] = got[7]
    at = 40
    layer = 16 if TCP in asked else 6
    quote[at + layer : at + layer + 2] = got[at + layer : at + layer + 2]
    new = copy.deepcopy(error)
    new[Raw].load = bytes(quote)
    new[IPv6].src, new[IPv6].hlim = p6.VIP, error[IPv6].hlim - hops
    return bytes(new)


@pytest.mark.parametrize(
    ("asked", "port", "service"),
    [
        row("about a datagram", w.QUERY, 5353, w.DNS),
        row("about an empty one, the least that can be quoted", EMPTY, 5353, w.DNS),
        row("about a segment", w.SYN, 8080, w.WEB),
    ],
)
def test_error(six: Rig, asked: Packet, port: int, service: int) -> None:
    six.xdp(asked)
    error = quoting(asked, 1, port)
    want = error_to_client(error, asked)
    assert six.vm(1, error) == Outcome(Tc.REDIRECT, want, stats={service: w.sent(error)})
    assert six.flows()[0].state == 0, "an error is no answer"


SECOND = p6.address(1, 3)
NOT_ANSWERED = [
    row("another client", w.vm_tcp(1, dst="2001:db8:c::11"), R.REPLY_NO_FLOW),
    row("another port of the client", w.vm_tcp(1, dport=40001), R.REPLY_NO_FLOW),
    row("another port of the machine", w.vm_tcp(1, 8081), R.IPV6),
    row("a connection of its own", w.vm_tcp(1, 50000, "S"), R.IPV6),
    row("by the other protocol", w.vm_udp(1, 8080), R.IPV6),
    row("from another address of the machine", w.vm_tcp(1, src=SECOND), R.IPV6),
    row("from its link-local address", w.vm_tcp(1, src=p6.link_local(1)), R.IPV6),
    row("from nobody", w.vm_tcp(1, src="::"), R.IPV6),
    row("from the VIP itself", w.vm_tcp(1, src=p6.VIP), R.SPOOFED_IP),
    row("from the VIP's port", w.vm_tcp(1, 80), R.IPV6),
    row("from another machine", w.vm_tcp(1, src=p6.address(2)), R.SPOOFED_IP),
    row("hop limit 1", w.vm_tcp(1, hlim=1), R.TTL),
    row("SYN and RST", w.vm_tcp(1, flags="SR"), R.BAD_L4_HEADER),
    row("a header of 4 words", p6.with_(w.vm_tcp(1), TCP, dataofs=4), R.BAD_L4_HEADER),
    row("a datagram longer than its packet", p6.with_(w.ANSWER, UDP, len=99), R.BAD_L4_HEADER),
    row("to a VIP", w.vm_tcp(1, dst=p6.VIP2), R.IPV6),
    row("to a mapped IPv4 address", w.vm_tcp(1, dst="::ffff:192.0.2.10"), R.IPV6),
    row("a ping to the client", w.from_vm(1) / ICMPv6EchoRequest(), R.IPV6),
    row("a pong to the client", w.from_vm(1) / ICMPv6EchoReply(), R.IPV6),
    row("another protocol", w.from_vm(1, nh=47) / Raw(bytes(20)), R.IPV6),
    row("a later fragment", fragments(LONG)[1], R.VM_FRAGMENT),
    row("an error about another's packet", quoting(w.SYN, 1, 8080, src="2001:db8::9"), R.IPV6),
    row("an error about what went to another", quoting(w.SYN, 1, 8080, dst=SECOND), R.IPV6),
    row("an error about no flow", quoting(w.client_tcp(sport=7), 1, 8080), R.REPLY_NO_FLOW),
    row("an error about ICMPv6", quoting(w.SYN, 1, 8080, nh=58), R.IPV6),
    row("an error about version 4", quoting(w.SYN, 1, 8080, version=4), R.IPV6),
    row("an error that quotes 7 bytes of TCP",
        w.from_vm(1) / ICMPv6DestUnreach() / Raw(w.to_vm(w.SYN, 1, 8080)[14:61]), R.IPV6),
]  # fmt: skip


@pytest.mark.parametrize(("packet", "reason"), NOT_ANSWERED)
def test_no_answer(six: Rig, packet: Packet, reason: DropReason) -> None:
    """Nothing leaves as the VIP that no client has asked for."""
    six.xdp(w.SYN)
    six.xdp(w.QUERY)
    assert six.vm(1, packet) == shot(packet, reason)


@pytest.mark.parametrize(
    "change",
    [
        row("the slot has another owner", lambda rig: rig.slot(1, generation=2)),
        row("the service has another owner", lambda rig: rig.service_generation(w.WEB, 2)),
    ],
)
def test_flow_that_is_over(six: Rig, change: object) -> None:
    six.xdp(w.SYN)
    change(six)  # type: ignore[operator]
    assert six.vm(1, w.SYN_ACK) == shot(w.SYN_ACK, R.REPLY_NO_FLOW)


def test_another_machine_in_the_flow(six: Rig) -> None:
    """It was not asked."""
    six.xdp(w.SYN)
    answer = w.vm_tcp(2)
    assert six.vm(2, answer) == shot(answer, R.IPV6)


def test_nothing_of_ipv4_and_unknown_interfaces(six: Rig) -> None:
    packet = p.vm_tcp(1)
    assert six.tc(packet, "vm1", program="vm6_tc") == shot(packet, R.ETHERTYPE)
    assert six.tc(w.SYN_ACK, "lan0", program="vm6_tc") == shot(w.SYN_ACK, R.UNKNOWN_VM)
    assert six.tc(w.SYN_ACK, "vm2", program="vm6_tc") == shot(w.SYN_ACK, R.SPOOFED_MAC)


def test_dns_leaves_it_to_vm6_tc(six: Rig) -> None:
    want = Outcome(Tc.UNSPEC, bytes(w.SYN_ACK))
    assert six.tc(w.SYN_ACK, "vm1", program="dns") == want
    assert six.tc(w.SYN_ACK, "vm1") == want
