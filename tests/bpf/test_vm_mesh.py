# SPDX-License-Identifier: Apache-2.0
"""vm_tc and the mesh: answers to clients of another edge, and what machines
send to VIPs whose machine is on another host."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from flyebpf.bpf.layout import FLOW_REPLIED
from flyebpf.model.reasons import Count, DropReason
from tests import packets as p
from tests import packets6 as p6
from tests.bpf import world as w
from tests.bpf.expect import answered, received, row, sent, shot
from tests.bpf.far import (
    FAR,
    FAR_PORT,
    FAR_UDP,
    FAR_UDP_PORT,
    MSS,
    TWIN_PORT,
    TWINS,
    carried,
    mesh,
    return_edge,
    to_here,
)
from tests.bpf.rig import Outcome, Rig, Tc, u32

R = DropReason
ALIAS = "100.64.9.9"  # a VM of OTHER_HOST
OPENED = {Count.HAIRPIN: 1, Count.MESH_OUT: 1, Count.FLOW_NEW: 1}


def source_untouched(frame: bytes) -> bytes:
    """The frame but for its Ethernet source, which is thrown away."""
    return frame[:6] + bytes(6) + frame[12:]


def compare(outcome: Outcome, want: Outcome) -> None:
    """All that leaves, but for the Ethernet source."""
    assert outcome.counts == want.counts
    assert outcome.stats == want.stats
    assert outcome.drops == want.drops
    assert outcome.verdict == want.verdict
    assert source_untouched(outcome.packet) == source_untouched(want.packet)


def went_back(packet: Packet, service: int, sport: int, counts: dict[Count, int]) -> Outcome:
    """To the edge that the client came in at, as the VIP."""
    as_vip = p.to_client(packet, p.VIP, sport)
    frame = carried(as_vip, machine=0)
    return Outcome(
        Tc.REDIRECT,
        frame,
        counts={Count.MESH_RETURN: 1, **counts},
        stats={service: sent(packet)},
    )


def syn_ack(mss: int, **ip: object) -> Packet:
    packet = p.vm_tcp(1, flags="SA", **ip)
    packet[TCP].options = [("MSS", mss)]
    return packet


# -- answers -------------------------------------------------------------------


def test_straight_to_the_client(far: Rig) -> None:
    """Out over an uplink, as if the client had come in here."""
    mesh(far, to_here(p.SYN))
    assert far.vm(1, p.SYN_ACK) == answered(p.SYN_ACK, p.VIP, 80, w.WEB)
    assert far.flows()[0].state == FLOW_REPLIED


def test_straight_to_the_client_with_a_lower_mss(far: Rig) -> None:
    """What the client sends passes the mesh."""
    mesh(far, to_here(p.SYN))
    want = answered(syn_ack(MSS), p.VIP, 80, w.WEB)
    got = far.vm(1, syn_ack(1460))
    assert got == Outcome(want.verdict, want.packet, counts={Count.MSS: 1}, stats=want.stats)


def test_mss_of_answers_to_clients_of_this_edge(far: Rig) -> None:
    far.xdp(p.SYN)
    assert far.vm(1, syn_ack(1460)) == answered(syn_ack(1460), p.VIP, 80, w.WEB)


ANSWERS = [
    row("a segment", p.SYN, p.vm_tcp(1, payload=b"odd"), w.WEB, 80),
    row("a datagram", p.QUERY, p.vm_udp(1), w.DNS, 53),
]


@pytest.mark.parametrize(("asked", "answer", "service", "port"), ANSWERS)
def test_back_through_the_edge(
    far: Rig, asked: Packet, answer: Packet, service: int, port: int
) -> None:
    return_edge(far)
    mesh(far, to_here(asked, port=answer.sport))
    compare(far.vm(1, answer), went_back(answer, service, port, {}))


@pytest.mark.parametrize("both", [False, True])
def test_back_to_a_vm_of_another_host(far: Rig, both: bool) -> None:
    """Always over the mesh: nobody else knows the alias."""
    if both:
        return_edge(far)
    mesh(far, to_here(p.client_tcp(80, "S", src=ALIAS)))
    answer = syn_ack(1460, dst=ALIAS)
    compare(far.vm(1, answer), went_back(syn_ack(MSS, dst=ALIAS), w.WEB, 80, {Count.MSS: 1}))


def test_alias_without_a_flow(far: Rig) -> None:
    answer = p.vm_tcp(1, dst=ALIAS)
    assert far.vm(1, answer) == shot(answer, R.REPLY_CLIENT_GONE)


def test_fragments_of_an_answer(far: Rig) -> None:
    return_edge(far)
    mesh(far, to_here(p.QUERY, port=5353))
    for number, part in enumerate(p.fragments_of(p.vm_udp(1, payload=bytes(200)))):
        outcome = far.vm(1, part)
        new = Ether(bytes(part))
        new[IP].src, new[IP].ttl = p.VIP, 63
        del new[IP].chksum
        assert outcome.counts == {Count.MESH_RETURN: 1}
        want = bytes(new)
        if number:  # the first one has another checksum too
            assert source_untouched(outcome.packet) == source_untouched(carried(want, machine=0))
        else:
            assert outcome.packet[14:80] == carried(want, machine=0)[14:74] + outcome.packet[74:80]


def unreachable() -> Packet:
    """Machine 1 has nobody at the port that the client asked."""
    quoted = IP(src=p.CLIENT, dst=p.services_ip(1)) / UDP(sport=p.CLIENT_PORT, dport=5353)
    return p.from_vm(1, src=p.services_ip(1)) / ICMP(type=3, code=3) / Raw(bytes(quoted / b"x"))


def as_vip(packet: Packet) -> bytes:
    """The error as the client should see it."""
    quoted = IP(bytes(packet[ICMP].payload))
    kept = quoted[UDP].chksum
    quoted.dst, quoted[UDP].dport = p.VIP, 53
    del quoted.chksum
    quoted[UDP].chksum = kept
    ip = IP(src=p.VIP, dst=p.CLIENT, ttl=63, id=packet[IP].id)
    return bytes(Ether(bytes(packet)[:14]) / ip / ICMP(type=3, code=3) / Raw(bytes(quoted)))


@pytest.mark.parametrize("through_edge", [False, True])
def test_errors_of_the_machine(far: Rig, through_edge: bool) -> None:
    mesh(far, to_here(p.QUERY, port=5353))
    error = unreachable()
    if not through_edge:
        want = Outcome(Tc.REDIRECT, as_vip(error), stats={w.DNS: sent(error)})
        assert far.vm(1, error) == want
        return
    return_edge(far)
    frame = carried(as_vip(error), machine=0)
    counts = {Count.MESH_RETURN: 1}
    compare(far.vm(1, error), Outcome(Tc.REDIRECT, frame, {}, counts, {w.DNS: sent(error)}))


# -- to a VIP whose machine is far away ----------------------------------------


def dialled(packet: Packet, port: int, service: int) -> Outcome:
    frame = p.translated(packet, src=p.alias_ip(4), ttl=63)
    stats = {service: received(packet, new=True)}
    return Outcome(Tc.REDIRECT, carried(frame, port=port), counts=OPENED, stats=stats)


DIALLED = [
    row("a connection", p.vm_tcp(4, 50000, "S", dst=p.VIP, dport=90), FAR_PORT, FAR),
    row("to a second VIP", p.vm_tcp(4, 50000, "S", dst=p.VIP2, dport=92), TWIN_PORT, TWINS),
    row(
        "a datagram",
        p.vm_udp(4, 50000, src=p.private_ip(4), dst=p.VIP, dport=90),
        FAR_UDP_PORT,
        FAR_UDP,
    ),
]


@pytest.mark.parametrize(("packet", "port", "service"), DIALLED)
def test_machine_dials_a_vip(far: Rig, packet: Packet, port: int, service: int) -> None:
    compare(far.vm(4, packet), dialled(packet, port, service))
    (flow,) = far.flows()
    assert flow.ifindex == far.ifindex["vm4"]


def test_dial_without_a_mesh(far: Rig) -> None:
    far.settings.mesh_mtu = 0
    far.write_settings()
    packet = DIALLED[0].values[0]  # type: ignore[attr-defined]
    assert far.vm(4, packet) == shot(packet, R.NO_HOST, {Count.FLOW_NEW: 1})


def test_host_that_is_gone(far: Rig) -> None:
    """The packet is as it would have left."""
    far.maps["hosts"].delete(u32(p6.OTHER_HOST))
    packet = DIALLED[0].values[0]  # type: ignore[attr-defined]
    outcome = far.vm(4, packet)
    assert (outcome.verdict, outcome.reason) == (Tc.SHOT, R.NO_HOST)
