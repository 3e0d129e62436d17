# SPDX-License-Identifier: Apache-2.0
"""IPv6 clients and machines of another host: the edge's side (edge_xdp, mesh6_tc) and
the machine's (mesh6_tc, vm6_tc)."""

from __future__ import annotations

import copy

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Padding, Raw

from flyebpf.bpf.layout import FLOW_CONFIRMED, FLOW_REPLIED
from flyebpf.model.reasons import Count, DropReason
from tests import packets as p
from tests import packets6 as p6
from tests.bpf import far6 as f
from tests.bpf import world6 as w
from tests.bpf.expect import NEW, row, shot
from tests.bpf.far import FAR_PORT, FAR_UDP_PORT, mesh, return_edge, via
from tests.bpf.rig import Outcome, Rig, Tc, Xdp

R = DropReason
IN_NEW = {Count.FLOW_NEW: 1, Count.MESH_IN: 1}
IN_OLD = {Count.MESH_IN: 1}


@pytest.fixture
def far6(rig: Rig) -> Rig:
    f.build(rig)
    return rig


# -- the edge ----------------------------------------------------------------------

FRAGMENT = IPv6ExtHdrFragment(id=5)


def datagram(port: int = 90) -> Packet:
    """That goes in fragments."""
    udp = UDP(sport=p.CLIENT_PORT, dport=port)
    return w.from_uplink() / FRAGMENT / udp / Raw(bytes(300))


SENT = [
    row("the first segment of a connection", w.client_tcp(90, "S"), f.FAR, FAR_PORT),
    row("a datagram", w.client_udp(90), f.FAR_UDP, FAR_UDP_PORT),
    row("padding is cut off", w.client_udp(90) / Padding(b"\xa5" * 9), f.FAR_UDP, FAR_UDP_PORT),
    row(
        "behind options",
        w.from_uplink() / IPv6ExtHdrDestOpt() / UDP(sport=p.CLIENT_PORT, dport=90), f.FAR_UDP,
        FAR_UDP_PORT,
    ),
    row("as long as fits", w.client_udp(90, bytes(f.ROOM - 48)), f.FAR_UDP, FAR_UDP_PORT),
]  # fmt: skip


@pytest.mark.parametrize(("packet", "service", "port"), SENT)
def test_to_the_machines_host(far6: Rig, packet: Packet, service: int, port: int) -> None:
    """As it came but for the hop limit."""
    want = Outcome(
        Xdp.PASS,
        f.carried(f.hopped(packet), port=port),
        counts={**NEW, Count.MESH_OUT: 1},
        stats={service: w.received(packet, new=True)},
        meta=via(p6.OTHER_HOST),
    )
    assert far6.xdp(packet) == want


def test_fragments_to_the_machines_host(far6: Rig) -> None:
    first, *later = f.parts(datagram())
    assert far6.xdp(first).packet == f.carried(f.hopped(first), port=FAR_UDP_PORT)
    for part in later:
        assert far6.xdp(part).packet == f.carried(f.hopped(part), port=0)


def test_error_to_the_machines_host(far6: Rig) -> None:
    """It is rewritten there."""
    quote = bytes(IPv6(src=p6.VIP, dst=p6.CLIENT) / TCP(sport=90, dport=p.CLIENT_PORT))
    error = w.error(quote, ICMPv6PacketTooBig, mtu=1300)
    assert far6.xdp(error).packet == f.carried(f.hopped(error), port=0)


@pytest.mark.parametrize("length", [f.ROOM + 1, 1500])
def test_too_long_for_the_mesh(far6: Rig, length: int) -> None:
    packet = w.client_udp(90, (bytes(range(256)) * 40)[: length - 48])
    answer = (
        Ether(src=p.HOST_MAC, dst=p.ROUTER_MAC)
        / IPv6(src=p6.VIP, dst=p6.CLIENT, hlim=64)
        / ICMPv6PacketTooBig(mtu=f.ROOM)
        / Raw(bytes(packet)[14 : 14 + p6.QUOTE])
    )
    got = far6.xdp(packet)
    drops = {R.TOO_BIG: (1, length + 14)}
    counts = {**NEW, Count.TOO_BIG: 1}
    assert got == Outcome(Xdp.TX, bytes(answer), drops, counts)


def test_error_too_long_for_the_mesh(far6: Rig) -> None:
    """It is not answered."""
    quote = IPv6(src=p6.VIP, dst=p6.CLIENT) / TCP(sport=90, dport=p.CLIENT_PORT) / bytes(1330)
    error = w.error(bytes(quote))
    got = far6.xdp(error)
    assert (got.verdict, got.reason) == (Xdp.DROP, R.TOO_BIG)


# -- the machine's host -------------------------------------------------------------


def delivered(packet: Packet, number: int, port: int, counts: dict[Count, int]) -> Outcome:
    return Outcome(Tc.REDIRECT, w.to_vm(packet, number, port), counts=counts)


DELIVERED = [
    row("the first segment of a connection", w.SYN, 1, 8080),
    row("with data, an odd number of bytes", w.client_tcp(80, "PA", b"odd"), 1, 8080),
    row("a datagram", w.QUERY, 1, 5353),
    row("behind options",
        w.from_uplink() / IPv6ExtHdrDestOpt() / TCP(sport=p.CLIENT_PORT, dport=80, flags="S"),
        1, 8080),
    row("from a range", w.client_udp(5003), 2, 6000),
]  # fmt: skip


@pytest.mark.parametrize(("packet", "number", "port"), DELIVERED)
def test_to_the_machine(far6: Rig, packet: Packet, number: int, port: int) -> None:
    frame = f.to_here(packet, number, port)
    assert mesh(far6, frame) == delivered(packet, number, port, IN_NEW)
    (flow,) = far6.flows()
    assert (flow.slot, flow.ifindex, flow.internal_port) == (number, p6.OTHER_HOST, port)
    (entry,) = far6.reverses()
    assert entry.ifindex == p6.OTHER_HOST


def test_flow_goes_on(far6: Rig) -> None:
    mesh(far6, f.to_here(w.SYN))
    far6.change_flows(state=FLOW_REPLIED)
    assert mesh(far6, f.to_here(w.ACK, port=9)) == delivered(w.ACK, 1, 8080, IN_OLD)
    assert far6.flows()[0].state == FLOW_REPLIED | FLOW_CONFIRMED


@pytest.mark.parametrize("word", range(0, 0x10000, 0x1111))
def test_checksums(far6: Rig, word: int) -> None:
    packet = w.client_udp(53, word.to_bytes(2, "big"))
    assert mesh(far6, f.to_here(packet, port=5353)).packet == w.to_vm(packet, 1, 5353)


def test_fragments_follow_the_first(far6: Rig) -> None:
    packet = datagram(53)
    want = f.parts(Ether(w.to_vm(packet, 1, 5353)))
    for number, (part, wanted) in enumerate(zip(f.parts(packet), want, strict=True)):
        outcome = mesh(far6, f.to_here(part, port=0 if number else 5353))
        counts = IN_OLD if number else IN_NEW
        assert outcome == Outcome(Tc.REDIRECT, bytes(wanted), counts=counts)


def about(port: int = 80) -> tuple[Packet, bytes]:
    """A router's error about machine 1's answer, and what it quotes."""
    quote = bytes(IPv6(src=p6.VIP, dst=p6.CLIENT) / TCP(sport=port, dport=p.CLIENT_PORT))
    return w.error(quote, ICMPv6PacketTooBig, mtu=1300), quote


def test_error_about_an_answer(far6: Rig) -> None:
    mesh(far6, f.to_here(w.SYN))
    error, quote = about()
    want = copy.deepcopy(error)
    raw = bytearray(quote)
    raw[8:24], raw[40:42] = bytes(IPv6(src=p6.address(1)))[8:24], (8080).to_bytes(2, "big")
    want[Raw].load = bytes(raw)
    want[Ether].dst, want[Ether].src = p.vm_mac(1), p.gateway_mac(1)
    want[IPv6].dst, want[IPv6].hlim = p6.address(1), 56
    got = mesh(far6, f.to_here(error, port=0))
    assert got == Outcome(Tc.REDIRECT, bytes(want), counts=IN_OLD)


def syn(mss: int, port: int = 80) -> Packet:
    return w.client_tcp(port, "S", options=[("MSS", mss)])


def test_clients_mss_where_answers_pass_the_mesh(far6: Rig) -> None:
    assert mesh(far6, f.to_here(syn(1440))) == delivered(syn(1440), 1, 8080, IN_NEW)
    return_edge(far6)
    want = delivered(syn(f.MSS), 1, 8080, {**IN_NEW, Count.MSS: 1})
    assert mesh(far6, f.to_here(syn(1440))) == want


FORGED = [
    row("a machine that is not here", f.to_here(w.SYN, machine=7), R.MESH_MACHINE),
    row("for another host", f.to_here(w.SYN, dst=p6.OTHER_HOST), R.MESH_NOT_HERE),
    row("from no host", f.to_here(w.SYN, src=p6.NO_HOST), R.MESH_SOURCE),
    row("from a machine", f.to_here(w.SYN, src=p6.sixpn(p6.OTHER_HOST, 0, 5, 1)), R.MESH_SOURCE),
    row("without a port", f.to_here(w.SYN, port=0), R.MESH_INNER),
    row("a port that no service uses", f.to_here(w.SYN, port=8081), R.NO_SERVICE),
    row("not to a VIP", f.to_here(w.client_tcp(dst="2001:db8::1")), R.MESH_INNER),
    row("to a machine itself", f.to_here(w.client_tcp(dst=p6.address(1))), R.MESH_INNER),
    row("from a VIP", f.to_here(w.client_tcp(src=p6.VIP2)), R.MESH_INNER),
    row("from a private network", f.to_here(w.client_tcp(src=p6.address(2))), R.MESH_INNER),
    row("from a link-local address", f.to_here(w.client_tcp(src="fe80::1")), R.MESH_INNER),
    row("version 4 inside", f.to_here(w.client_tcp(version=4)), R.MESH_INNER),
    row("shorter than it says", f.to_here(w.SYN)[:-1], R.TRUNCATED),
    row("longer than what carries it", f.to_here(w.SYN, plen=59), R.MESH_INNER),
    row("another protocol", f.to_here(w.from_uplink(nh=47) / Raw(bytes(20))), R.MESH_INNER),
    row("a ping", f.to_here(w.from_uplink() / ICMPv6EchoRequest()), R.MESH_INNER),
    row("an error about no flow", f.to_here(about(81)[0], port=0), R.ICMP_NO_FLOW),
    row("a fragment without the first", f.to_here(f.parts(datagram(53))[1]), R.FRAG_NO_FIRST),
    row("a header of 4 words", f.to_here(p6.with_(w.SYN, TCP, dataofs=4)), R.MESH_INNER),
    row("seven headers",
        f.to_here(w.from_uplink() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt()
                  / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt()
                  / IPv6ExtHdrDestOpt() / TCP(dport=80)), R.MESH_INNER),
    row("a port for the host itself", f.back_here(w.client_tcp(src=p6.VIP), dst=p6.sixpn(
        p6.HOST, 0, 0, 9)), R.MESH_FORM),
]  # fmt: skip


@pytest.mark.parametrize(("frame", "reason"), FORGED)
def test_forged(far6: Rig, frame: bytes, reason: DropReason) -> None:
    assert mesh(far6, frame) == shot(frame, reason)
    assert far6.flows() == []


def test_machine_without_a_network(far6: Rig) -> None:
    far6.change_slot(1, network=0)
    assert mesh(far6, f.to_here(w.SYN)) == shot(f.to_here(w.SYN), R.MESH_MACHINE)


def test_what_is_not_for_mesh6_tc_passes(far6: Rig) -> None:
    for frame in (bytes(p.SYN), bytes(w.SYN)):
        want = Outcome(Tc.UNSPEC, frame)
        assert far6.tc(frame, "lan0", program="mesh6_tc") == want


# -- the machine's answer -----------------------------------------------------------


def test_answer_goes_straight_to_the_client(far6: Rig) -> None:
    """Its MSS lowered: what the client sends passes the mesh."""
    mesh(far6, f.to_here(w.SYN))
    answer = w.vm_tcp(1, flags="SA", options=[("MSS", 1440)])
    sent = w.to_client(w.vm_tcp(1, flags="SA", options=[("MSS", f.MSS)]), p6.VIP, 80)
    stats = {w.WEB: w.sent(answer)}
    assert far6.vm(1, answer) == Outcome(Tc.REDIRECT, sent, counts={Count.MSS: 1}, stats=stats)


@pytest.mark.parametrize(
    ("asked", "internal", "answer", "port", "service"),
    [
        row("a segment", w.SYN, 8080, w.vm_tcp(1, payload=b"odd"), 80, w.WEB),
        row("a datagram", w.QUERY, 5353, w.ANSWER, 53, w.DNS),
    ],
)
def test_answer_goes_back_to_the_edge(
    far6: Rig, *, asked: Packet, internal: int, answer: Packet, port: int, service: int
) -> None:
    return_edge(far6)
    mesh(far6, f.to_here(asked, port=internal))
    want = f.carried(w.to_client(answer, p6.VIP, port), machine=0)
    assert far6.vm(1, answer) == Outcome(
        Tc.REDIRECT, want, counts={Count.MESH_RETURN: 1}, stats={service: w.sent(answer)}
    )


def test_answer_too_long_for_the_mesh(far6: Rig) -> None:
    """The machine is told by its gateway what fits."""
    return_edge(far6)
    mesh(far6, f.to_here(w.QUERY, port=5353))
    answer = w.vm_udp(1, payload=bytes(f.ROOM - 47))
    error = p6.from_gateway(1) / ICMPv6PacketTooBig(mtu=f.ROOM)
    error = error / Raw(bytes(answer)[14 : 14 + p6.QUOTE])
    want = Outcome(Tc.REDIRECT, bytes(error), {R.TOO_BIG: (1, len(answer))}, {Count.TOO_BIG: 1})
    assert far6.vm(1, answer) == want
    fits = w.vm_udp(1, payload=bytes(f.ROOM - 48))
    assert far6.vm(1, fits).counts == {Count.MESH_RETURN: 1}


# -- back at the edge ---------------------------------------------------------------


def as_vip(flags: str = "A", sport: int = 90, **ip: object) -> Packet:
    """The far machine's answer, its source the VIP already."""
    header = TCP(sport=sport, dport=p.CLIENT_PORT, flags=flags)
    return w.from_uplink(**{"src": p6.VIP, "dst": p6.CLIENT, **ip}) / header


def test_back_to_the_client(far6: Rig) -> None:
    far6.xdp(w.client_tcp(90, "S"))
    answer = as_vip("SA")
    want = f.without_macs(f.hopped(answer))
    got = mesh(far6, f.back_here(answer))
    assert got == Outcome(Tc.REDIRECT, want, counts={Count.MESH_RETURN: 1})
    assert far6.flows()[0].state == FLOW_REPLIED


def test_fragments_back_to_the_client(far6: Rig) -> None:
    far6.xdp(w.client_udp(90))
    udp = UDP(sport=90, dport=p.CLIENT_PORT)
    whole = w.from_uplink(src=p6.VIP, dst=p6.CLIENT) / FRAGMENT / udp / Raw(bytes(300))
    for part in f.parts(whole):
        got = mesh(far6, f.back_here(part))
        want = f.without_macs(f.hopped(part))
        assert got == Outcome(Tc.REDIRECT, want, counts={Count.MESH_RETURN: 1})


def test_error_back_to_the_client(far6: Rig) -> None:
    asked = w.client_udp(90)
    far6.xdp(asked)
    header = w.from_uplink(src=p6.VIP, dst=p6.CLIENT)
    error = header / ICMPv6DestUnreach(code=4) / Raw(bytes(asked[IPv6]))
    got = mesh(far6, f.back_here(error))
    want = f.without_macs(f.hopped(error))
    assert got == Outcome(Tc.REDIRECT, want, counts={Count.MESH_RETURN: 1})
    assert far6.flows()[0].state == 0


NOT_RETURNED = [
    row("another port of the client", as_vip(sport=91), R.MESH_NO_FLOW),
    row("to another client", as_vip(dst="2001:db8:c::99"), R.MESH_NO_FLOW),
    row("not from a VIP", as_vip(src="2001:db8::1"), R.MESH_INNER),
    row("to a private network", as_vip(dst=p6.address(1)), R.MESH_INNER),
    row("to a VIP", as_vip(dst=p6.VIP2), R.MESH_INNER),
    row("port 0", as_vip(sport=0), R.MESH_INNER),
    row("a fragment without the first", f.parts(datagram())[1], R.MESH_INNER),
]


@pytest.mark.parametrize(("answer", "reason"), NOT_RETURNED)
def test_not_returned(far6: Rig, answer: Packet, reason: DropReason) -> None:
    far6.xdp(w.client_tcp(90, "S"))
    frame = f.back_here(answer)
    assert mesh(far6, frame) == shot(frame, reason)


def test_answer_of_another_host(far6: Rig) -> None:
    """Only the machine's own host answers for it."""
    far6.host(0x80000007, "lan0")
    far6.xdp(w.client_tcp(90, "S"))
    frame = f.back_here(as_vip("SA"), src=0x80000007)
    assert mesh(far6, frame) == shot(frame, R.MESH_NO_FLOW)


def test_answer_to_a_flow_of_a_machine_here(far6: Rig) -> None:
    far6.xdp(w.SYN)
    frame = f.back_here(as_vip("SA", sport=80))
    assert mesh(far6, frame) == shot(frame, R.MESH_NO_FLOW)
