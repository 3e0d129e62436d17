# SPDX-License-Identifier: Apache-2.0
"""mesh_tc: clients' packets that an edge sends to a machine here."""

from __future__ import annotations

import copy

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from flyebpf.bpf.layout import FLOW_CONFIRMED, FLOW_REPLIED
from flyebpf.model.reasons import Count, DropReason
from tests import packets as p
from tests import packets6 as p6
from tests.bpf import world as w
from tests.bpf.expect import row, shot
from tests.bpf.far import MSS, mesh, return_edge, to_here
from tests.bpf.rig import Outcome, Rig, Tc

R = DropReason
NEW = {Count.FLOW_NEW: 1, Count.MESH_IN: 1}
OLD = {Count.MESH_IN: 1}


def delivered(packet: Packet, number: int, port: int, counts: dict[Count, int]) -> Outcome:
    return Outcome(Tc.REDIRECT, p.to_vm(packet, number, port), counts=counts)


OPTIONS = p.from_uplink(options=[b"\x94\x04\0\0"]) / TCP(sport=p.CLIENT_PORT, dport=80, flags="S")
DELIVERED = [
    row("the first segment of a connection", p.SYN, 1, 8080),
    row("with TCP options", p.SYN_OPTIONS, 1, 8080),
    row("with IP options", OPTIONS, 1, 8080),
    row("with data, an odd number of bytes", p.ODD, 1, 8080),
    row("a datagram, to fly-global-services", p.QUERY, 1, 5353),
    row("a datagram without a checksum", p.QUERY_NO_SUM, 1, 5353),
    row("an empty datagram", p.EMPTY_QUERY, 1, 5353),
    row("a range of ports", p.client_udp(5002), 2, 6000),
    row("one VIP of several", p.client_tcp(22, "S", dst=p.VIP2), 1, 2222),
    row("from another VM, by its alias", p.client_tcp(80, src="100.64.9.9"), 1, 8080),
]


@pytest.mark.parametrize(("packet", "number", "port"), DELIVERED)
def test_to_the_machine(far: Rig, packet: Packet, number: int, port: int) -> None:
    frame = to_here(packet, number, port)
    assert mesh(far, frame) == delivered(packet, number, port, NEW)
    (flow,) = far.flows()
    assert (flow.slot, flow.ifindex, flow.internal_port) == (number, p6.OTHER_HOST, port)


def test_padding_behind_the_packet(far: Rig) -> None:
    """Of a fabric with a shortest frame: it stays outside of the packet."""
    outcome = mesh(far, to_here(p.QUERY, 1, 5353) + bytes(9))
    want = p.to_vm(p.QUERY, 1, 5353) + bytes(9)
    assert outcome == Outcome(Tc.REDIRECT, want, counts=NEW)


def test_flow_goes_on(far: Rig) -> None:
    """It is confirmed when the client goes on after the machine's answer, and
    what the edge says of the port is for new flows."""
    mesh(far, to_here(p.SYN))
    far.change_flows(state=FLOW_REPLIED)
    assert mesh(far, to_here(p.ACK, port=9)) == delivered(p.ACK, 1, 8080, OLD)
    assert far.flows()[0].state == FLOW_REPLIED | FLOW_CONFIRMED


def test_client_whose_route_moves_to_another_edge(far: Rig) -> None:
    other = 0x80000007
    far.host(other, "lan0")
    mesh(far, to_here(p.SYN))
    assert mesh(far, to_here(p.ACK, src=other)) == delivered(p.ACK, 1, 8080, OLD)
    assert [flow.ifindex for flow in far.flows()] == [other]


def test_flow_of_the_slots_last_owner(far: Rig) -> None:
    mesh(far, to_here(p.SYN))
    far.slot(1, generation=2)
    assert mesh(far, to_here(p.ACK)) == delivered(p.ACK, 1, 8080, NEW)


def test_flow_that_the_edge_has_given_another_machine(far: Rig) -> None:
    far.reply(2, 6, 8080, id=w.WEB, vip=p.VIP, port=80)
    mesh(far, to_here(p.SYN))
    assert mesh(far, to_here(p.ACK, 2)) == delivered(p.ACK, 2, 8080, NEW)
    assert [flow.slot for flow in far.flows()] == [2]


def test_replies_of_a_shared_port_are_told_apart(far: Rig) -> None:
    packet = p.client_tcp(22, "S", dst=p.VIP2)
    mesh(far, to_here(packet, port=2222))
    (entry,) = far.reverses()
    assert (entry.slot, entry.ifindex, entry.service) == (1, p6.OTHER_HOST, w.SSH)


def test_second_vip_that_this_host_does_not_know_yet(far: Rig) -> None:
    """The only way in that is known is another one: so it is remembered."""
    packet = p.client_tcp(8000, "S", dst=p.VIP2)
    assert mesh(far, to_here(packet)) == delivered(packet, 1, 8080, NEW)
    assert [entry.vip_port for entry in far.reverses()] == [8000]


def test_port_that_no_service_here_uses(far: Rig) -> None:
    """Its answers would not be known as such."""
    frame = to_here(p.SYN, port=8081)
    assert mesh(far, frame) == shot(frame, R.NO_SERVICE)


def test_two_vips_one_client_tuple(far: Rig) -> None:
    mesh(far, to_here(p.client_tcp(22, "S", dst=p.VIP), port=2222))
    far.change_flows(state=FLOW_CONFIRMED)
    frame = to_here(p.client_tcp(22, "A", dst=p.VIP2), port=2222)
    assert mesh(far, frame) == shot(frame, R.FLOW_CONFLICT)


def test_fragments_follow_the_first(far: Rig) -> None:
    whole = p.client_udp(53, bytes(200))
    first, *later = p.fragments_of(whole)
    outcome = mesh(far, to_here(first, port=5353))
    assert (outcome.verdict, outcome.counts) == (Tc.REDIRECT, NEW)
    for part in later:
        outcome = mesh(far, to_here(part, port=0))
        want = copy.deepcopy(part)
        want[Ether].dst, want[Ether].src = p.vm_mac(1), p.gateway_mac(1)
        want[IP].dst, want[IP].ttl = p.services_ip(1), 56
        del want[IP].chksum
        assert outcome == Outcome(Tc.REDIRECT, bytes(want), counts=OLD)


def test_fragment_without_the_first(far: Rig) -> None:
    frame = to_here(p.fragments_of(p.client_udp(53, bytes(200)))[1])
    assert mesh(far, frame) == shot(frame, R.FRAG_NO_FIRST)


def test_fragment_for_another_machine_than_the_first(far: Rig) -> None:
    first, second, *_ = p.fragments_of(p.client_udp(53, bytes(200)))
    mesh(far, to_here(first, port=5353))
    frame = to_here(second, 2)
    assert mesh(far, frame) == shot(frame, R.FRAG_NO_FIRST)


def about_answer(**ip: object) -> Packet:
    """A router's error about machine 1's answer, as the client's side saw it."""
    quoted = IP(src=p.VIP, dst=p.CLIENT, **ip) / TCP(sport=80, dport=p.CLIENT_PORT, seq=5)
    return p.icmp_error(Ether(bytes(Ether() / quoted))[IP], code=4)


def error_to_machine(packet: Packet) -> bytes:
    """It quotes what the machine itself sent."""
    quoted = IP(bytes(packet[ICMP].payload))
    kept = quoted[TCP].chksum
    quoted.src, quoted[TCP].sport = p.private_ip(1), 8080
    del quoted.chksum
    quoted[TCP].chksum = kept
    macs = Ether(dst=p.vm_mac(1), src=p.gateway_mac(1))
    fields = {"src": p.FAR_ROUTER, "dst": p.private_ip(1), "ttl": 56, "id": packet[IP].id}
    return bytes(macs / IP(**fields) / ICMP(type=3, code=4) / Raw(bytes(quoted)))


@pytest.mark.parametrize("options", [b"", b"\x94\x04\0\0"])
def test_error_about_an_answer(far: Rig, options: bytes) -> None:
    mesh(far, to_here(p.SYN))
    packet = about_answer(options=[options] if options else [])
    want = error_to_machine(packet)
    assert mesh(far, to_here(packet, port=0)) == Outcome(Tc.REDIRECT, want, counts=OLD)


def test_error_about_no_flow(far: Rig) -> None:
    frame = to_here(about_answer(), port=0)
    assert mesh(far, frame) == shot(frame, R.ICMP_NO_FLOW)


def test_error_about_another_machines_flow(far: Rig) -> None:
    mesh(far, to_here(p.SYN))
    frame = to_here(about_answer(), 2, port=0)
    assert mesh(far, frame) == shot(frame, R.ICMP_NO_FLOW)


def syn(mss: int, options: list[tuple[str, object]] | None = None, **ip: object) -> Packet:
    given = options if options is not None else [("MSS", mss)]
    header = TCP(sport=p.CLIENT_PORT, dport=80, flags="S", seq=1000, options=given)
    return p.from_uplink(**ip) / header


def with_mss(packet: Packet, mss: int) -> Packet:
    new = copy.deepcopy(packet)
    new[TCP].options = [(n, mss if n == "MSS" else v) for n, v in packet[TCP].options]
    return new


@pytest.mark.parametrize(
    "packet",
    [
        row("the usual", syn(1460)),
        row("one too much", syn(MSS + 1)),
        row("behind others", syn(0, [("SAckOK", b""), ("Timestamp", (1, 0)), ("MSS", 9000)])),
        row("at an odd place", syn(0, [("NOP", None), ("MSS", 1460), ("NOP", None)])),
        row("behind everything", syn(0, [("NOP", None)] * 11 + [("MSS", 1461)])),
    ],
)
def test_mss_of_clients_whose_answers_pass_the_mesh(far: Rig, packet: Packet) -> None:
    return_edge(far)
    want = delivered(with_mss(packet, MSS), 1, 8080, {**NEW, Count.MSS: 1})
    assert mesh(far, to_here(packet)) == want


def test_mss_of_other_vms(far: Rig) -> None:
    packet = syn(1460, src="100.64.9.9")
    want = delivered(with_mss(packet, MSS), 1, 8080, {**NEW, Count.MSS: 1})
    assert mesh(far, to_here(packet)) == want


@pytest.mark.parametrize(
    "packet",
    [
        row("low enough", syn(MSS)),
        row("none", syn(0, [])),
        row("behind the end", syn(0, [("EOL", None), ("MSS", 1460)])),
        row("not a SYN", p.client_tcp(80)),
    ],
)
def test_mss_that_stays(far: Rig, packet: Packet) -> None:
    return_edge(far)
    assert mesh(far, to_here(packet)) == delivered(packet, 1, 8080, NEW)


def test_mss_when_answers_go_straight_to_the_client(far: Rig) -> None:
    packet = syn(1460)
    assert mesh(far, to_here(packet)) == delivered(packet, 1, 8080, NEW)
