# SPDX-License-Identifier: Apache-2.0
"""Fragments: later ones follow the first, in both directions."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from flyebpf.bpf.layout import SLOT_LIVE
from flyebpf.model.reasons import Count, DropReason
from tests import packets as p
from tests.bpf import world as w
from tests.bpf.expect import NEW, dropped, ip_length, received, row, sent, shot
from tests.bpf.rig import Outcome, Rig, Stats, Tc, Xdp

R = DropReason
QUERY = p.client_udp(payload=bytes(range(200)))
SEGMENT = p.client_tcp(flags="PA", payload=bytes(range(200)))
ANSWER = p.vm_udp(1, payload=bytes(range(199)))
OLD = 100_000  # units of `seen`; longer than any fragment is remembered


def translated_parts(whole: bytes, size: int = 64) -> list[bytes]:
    """The fragments of a frame as it should arrive."""
    return [bytes(part) for part in p.fragments_of(Ether(whole), size)]


@pytest.mark.parametrize(
    ("whole", "port", "service"),
    [row("UDP", QUERY, 5353, w.DNS), row("TCP", SEGMENT, 8080, w.WEB)],
)
def test_to_a_machine(rig: Rig, whole: Packet, port: int, service: int) -> None:
    """Put together by the machine, the checksum of the whole is right."""
    parts = p.fragments_of(whole)
    wanted = translated_parts(p.to_vm(whole, 1, port))
    assert len(parts) > 3
    for i, (part, want) in enumerate(zip(parts, wanted, strict=True)):
        first = i == 0
        assert rig.xdp(part) == Outcome(
            Xdp.REDIRECT,
            want,
            counts=NEW if first else {},
            stats={service: received(part, new=first)},
        )


def test_to_a_client(rig: Rig) -> None:
    rig.xdp(p.QUERY)
    parts = p.fragments_of(ANSWER)
    wanted = translated_parts(p.to_client(ANSWER, p.VIP, 53))
    for part, want in zip(parts, wanted, strict=True):
        assert rig.vm(1, part) == Outcome(Tc.REDIRECT, want, stats={w.DNS: sent(part)})


def test_in_any_order_after_the_first(rig: Rig) -> None:
    parts = p.fragments_of(QUERY)
    rig.xdp(parts[0])
    for part in (parts[-1], parts[1], parts[1]):
        assert rig.xdp(part).verdict == Xdp.REDIRECT


def test_slow_delivery_too(rig: Rig) -> None:
    """A machine that takes no XDP redirect gets later fragments in tc as well."""
    parts = p.fragments_of(p.client_udp(82, bytes(100)))
    for part in parts:
        outcome = rig.xdp(part)
        assert outcome.verdict == Xdp.PASS
        assert outcome.meta[4:] == rig.ifindex["vm3"].to_bytes(4, "little")


LATER = p.fragments_of(QUERY)[1]
NOT_FOLLOWED = [
    row("another client's", {"src": p.FAR_ROUTER}),
    row("to another VIP", {"dst": p.VIP2}),
    row("of another datagram", {"id": 4712}),
    row("of another protocol", {"proto": 6}),
]


@pytest.mark.parametrize("fields", NOT_FOLLOWED)
def test_without_its_first(rig: Rig, fields: dict[str, object]) -> None:
    rig.xdp(p.fragments_of(QUERY)[0])
    later = LATER.copy()
    for name, value in fields.items():
        setattr(later[IP], name, value)
    del later[IP].chksum
    later = Ether(bytes(later))
    assert rig.xdp(later) == dropped(later, R.FRAG_NO_FIRST)


def test_machine_stopped_between(rig: Rig) -> None:
    rig.xdp(p.fragments_of(QUERY)[0])
    rig.slot(1, flags=0)
    assert rig.xdp(LATER) == dropped(LATER, R.FRAG_NO_FIRST)


def test_slot_of_another_machine_between(rig: Rig) -> None:
    rig.xdp(p.fragments_of(QUERY)[0])
    rig.slot(1, flags=SLOT_LIVE, generation=2)
    assert rig.xdp(LATER) == dropped(LATER, R.FRAG_NO_FIRST)


def age_fragments(rig: Rig) -> None:
    """As if all first fragments had passed long ago."""
    fragments = rig.maps["fragments"]
    for key, value in list(fragments.items()):
        seen = (int.from_bytes(value[20:24], "little") - OLD) % 2**32
        fragments.update(key, value[:20] + seen.to_bytes(4, "little"))


def test_first_one_long_ago(rig: Rig) -> None:
    """Ids come again: an old first fragment is that of another datagram."""
    rig.xdp(p.fragments_of(QUERY)[0])
    age_fragments(rig)
    assert rig.xdp(LATER) == dropped(LATER, R.FRAG_NO_FIRST)


def test_first_one_long_ago_from_a_vm(rig: Rig) -> None:
    rig.xdp(p.QUERY)
    parts = p.fragments_of(ANSWER)
    rig.vm(1, parts[0])
    age_fragments(rig)
    assert rig.vm(1, parts[1]) == shot(parts[1], R.VM_FRAGMENT)


def tiny(packet: Packet) -> Packet:
    """The first fragment with 8 bytes of payload."""
    return p.fragments_of(packet, 8)[0]


def raw_fragment(packet: Packet, payload: int) -> bytes:
    """A first fragment with any number of payload bytes."""
    data = bytearray(bytes(packet)[: 34 + payload])
    data[16:18] = (20 + payload).to_bytes(2, "big")
    data[20] = 0x20
    return bytes(data)


TINY = [
    row("8 bytes of TCP", tiny(SEGMENT)),
    row("19 bytes of TCP", raw_fragment(SEGMENT, 19)),
    row("no byte of TCP", raw_fragment(SEGMENT, 0)),
    row("7 bytes of UDP", raw_fragment(QUERY, 7)),
    row("no byte of UDP", raw_fragment(QUERY, 0)),
]


@pytest.mark.parametrize("packet", TINY)
def test_tiny_first(rig: Rig, packet: Packet | bytes) -> None:
    """RFC 1858: a first fragment without the ports hides them."""
    assert rig.xdp(packet) == dropped(packet, R.FRAG_TINY)


def test_eight_bytes_of_udp_are_enough(rig: Rig) -> None:
    first = p.fragments_of(QUERY, 8)[0]
    assert rig.xdp(first).verdict == Xdp.REDIRECT


def test_tcp_without_machine_in_fragments(rig: Rig) -> None:
    """The first has no whole segment to answer: no reset."""
    first = p.fragments_of(p.client_tcp(81, "PA", bytes(200)))[0]
    assert rig.xdp(first) == dropped(first, R.NO_BACKEND)


def test_tiny_first_from_a_vm(rig: Rig) -> None:
    first = p.fragments_of(p.vm_tcp(1, payload=bytes(64)), 8)[0]
    assert rig.vm(1, first) == shot(first, R.FRAG_TINY)


def test_answer_without_its_first(rig: Rig) -> None:
    later = p.fragments_of(ANSWER)[1]
    assert rig.vm(1, later) == shot(later, R.VM_FRAGMENT)


def test_answer_of_a_slot_that_changed_hands(rig: Rig) -> None:
    rig.xdp(p.QUERY)
    parts = p.fragments_of(ANSWER)
    rig.vm(1, parts[0])
    rig.slot(1, generation=2)
    assert rig.vm(1, parts[1]) == shot(parts[1], R.VM_FRAGMENT)


def test_answer_with_ttl_1(rig: Rig) -> None:
    rig.xdp(p.QUERY)
    parts = p.fragments_of(p.vm_udp(1, payload=bytes(199)))
    rig.vm(1, parts[0])
    last = parts[1].copy()
    last[IP].ttl = 1
    del last[IP].chksum
    assert rig.vm(1, bytes(last)) == shot(last, R.TTL)


def test_own_fragments_go_out(rig: Rig) -> None:
    """The host's conntrack puts them together."""
    whole = p.vm_udp(1, sport=53, src=p.private_ip(1), payload=bytes(200))
    for part in p.fragments_of(whole):
        assert rig.vm(1, part) == Outcome(Tc.OK, bytes(part), counts={Count.OWN: 1})


def test_fragments_to_a_vip(rig: Rig) -> None:
    """From a VM: neither the first nor later ones."""
    whole = p.vm_udp(4, sport=1234, src=p.private_ip(4), dst=p.VIP, dport=53, payload=bytes(200))
    for part in p.fragments_of(whole):
        assert rig.vm(4, part) == shot(part, R.VM_FRAGMENT)


def test_answer_to_another_vm_in_fragments(rig: Rig) -> None:
    question = p.vm_udp(4, sport=1234, src=p.private_ip(4), dst=p.VIP, dport=53)
    rig.vm(4, question)
    answer = p.vm_udp(1, dst=p.alias_ip(4), dport=1234, payload=bytes(200))
    wanted = translated_parts(
        p.translated(
            answer,
            macs=(p.vm_mac(4), p.gateway_mac(4)),
            src=p.VIP,
            dst=p.private_ip(4),
            sport=53,
            ttl=63,
        )
    )
    for part, want in zip(p.fragments_of(answer), wanted, strict=True):
        assert rig.vm(1, part) == Outcome(
            Tc.REDIRECT, want, stats={w.DNS: Stats(out_packets=1, out_bytes=ip_length(part))}
        )
