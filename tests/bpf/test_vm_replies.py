# SPDX-License-Identifier: Apache-2.0
"""vm_tc: answers to clients leave as the VIP."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Padding, Raw

from flyebpf.bpf.layout import FLOW_CLOSING, FLOW_CONFIRMED, FLOW_REPLIED, SERVICE_REVERSE
from flyebpf.model.reasons import Count, DropReason
from tests import packets as p
from tests.bpf import world as w
from tests.bpf.expect import answered, delivered, dropped, row, sent, shot
from tests.bpf.rig import Outcome, Rig, Tc, Xdp

R = DropReason

ANSWERS = [
    row("SYN-ACK", p.client_tcp(80, "S"), p.vm_tcp(1, flags="SA"), 80, w.WEB),
    row("data", p.client_tcp(80, "S"), p.vm_tcp(1, flags="PA", payload=b"abc"), 80, w.WEB),
    row("FIN", p.client_tcp(80, "S"), p.vm_tcp(1, flags="FA"), 80, w.WEB),
    row("a reset", p.client_tcp(80, "S"), p.vm_tcp(1, flags="R"), 80, w.WEB),
    row("padding", p.client_tcp(80, "S"), p.vm_tcp(1) / Padding(b"\x77" * 6), 80, w.WEB),
    row("UDP", p.client_udp(), p.vm_udp(1), 53, w.DNS),
    row("UDP without data", p.client_udp(), p.vm_udp(1, payload=b""), 53, w.DNS),
    row(
        "UDP without a checksum",
        p.client_udp(),
        p.from_vm(1, src=p.services_ip(1))
        / UDP(sport=5353, dport=p.CLIENT_PORT, chksum=0)
        / Raw(b"answer"),
        53,
        w.DNS,
    ),
    row(
        "IP options",
        p.client_tcp(80, "S"),
        p.from_vm(1, options=[b"\x94\x04\0\0"])
        / TCP(sport=8080, dport=p.CLIENT_PORT, flags="A", options=[("NOP", None)] * 4),
        80,
        w.WEB,
    ),
    row("TTL 2", p.client_udp(), p.vm_udp(1, ttl=2), 53, w.DNS),
    row(
        "a checksum that becomes 0",
        p.client_udp(),
        p.payload_for_zero(p.vm_udp(1, payload=b""), src=p.VIP, sport=53, ttl=63),
        53,
        w.DNS,
    ),
    row(
        "a TCP checksum that becomes 0",
        p.client_tcp(80, "S"),
        p.payload_for_zero(p.vm_tcp(1), src=p.VIP, sport=80, ttl=63),
        80,
        w.WEB,
    ),
]


@pytest.mark.parametrize("known", [True, False], ids=["with a flow", "without a flow"])
@pytest.mark.parametrize(("question", "answer", "port", "service"), ANSWERS)
def test_answer(
    rig: Rig, *, question: Packet, answer: Packet, port: int, service: int, known: bool
) -> None:
    """Without a flow too, when only one address and port leads to the port."""
    if known:
        rig.xdp(question)
    assert rig.vm(1, answer) == answered(answer, p.VIP, port, service)
    assert len(rig.flows()) == int(known)


@pytest.mark.parametrize("word", range(0, 0x10000, 0x303))
def test_checksums_all_over_the_range(rig: Rig, word: int) -> None:
    for packet, port in (
        (p.vm_udp(1, payload=word.to_bytes(2, "big"), id=word), 53),
        (p.vm_tcp(1, payload=word.to_bytes(2, "big"), id=word), 80),
    ):
        assert rig.vm(1, packet).packet == p.to_client(packet, p.VIP, port)


def test_train_of_segments(rig: Rig) -> None:
    """A GSO packet is rewritten as a whole; the kernel cuts it later."""
    rig.xdp(p.SYN)
    packet = p.vm_tcp(1, flags="A", payload=bytes(3000))
    assert rig.vm(1, packet, gso_size=1448, gso_segs=3) == answered(packet, p.VIP, 80, w.WEB)
    assert rig.vm(1, packet, gso_size=1448) == answered(packet, p.VIP, 80, w.WEB)


def test_train_longer_than_its_header_says(rig: Rig) -> None:
    """BIG TCP has total length 0: only the frame's length counts."""
    packet = p.vm_tcp(1, flags="A", payload=bytes(3000), len=0)
    outcome = rig.vm(1, packet, gso_size=1448)
    assert (outcome.verdict, outcome.stats[w.WEB].out_bytes) == (Tc.REDIRECT, 3040)
    assert rig.vm(1, packet) == shot(packet, R.BAD_IP_HEADER)


def test_states_of_a_flow(rig: Rig) -> None:
    """Answered, confirmed by the client, closing."""
    steps = [
        (rig.xdp, p.client_tcp(80, "S"), 0),
        (lambda packet: rig.vm(1, packet), p.vm_tcp(1, flags="SA"), FLOW_REPLIED),
        (rig.xdp, p.client_tcp(80, "A"), FLOW_REPLIED | FLOW_CONFIRMED),
        (
            lambda packet: rig.vm(1, packet),
            p.vm_tcp(1, flags="FA"),
            FLOW_REPLIED | FLOW_CONFIRMED | FLOW_CLOSING,
        ),
    ]
    for run, packet, state in steps:
        run(packet)
        assert [flow.state for flow in rig.flows()] == [state]


def test_client_closes_first(rig: Rig) -> None:
    rig.xdp(p.client_tcp(80, "S"))
    rig.xdp(p.client_tcp(80, "FA"))
    assert [flow.state for flow in rig.flows()] == [FLOW_CLOSING]


AMBIGUOUS = [
    row("several ports, UDP", 2, p.vm_udp(2, 6000), R.REPLY_AMBIGUOUS),
    row("several VIPs, TCP", 1, p.vm_tcp(1, 2222), R.REPLY_AMBIGUOUS),
]


@pytest.mark.parametrize(("number", "answer", "reason"), AMBIGUOUS)
def test_ambiguous(rig: Rig, number: int, answer: Packet, reason: DropReason) -> None:
    """Several VIPs or ports lead there and no flow says which."""
    assert rig.vm(number, answer) == shot(answer, reason)


@pytest.mark.parametrize("port", [5000, 5001, 5003])
def test_answer_from_a_range(rig: Rig, port: int) -> None:
    rig.xdp(p.client_udp(port))
    answer = p.vm_udp(2, 6000)
    assert rig.vm(2, answer) == answered(answer, p.VIP, port, w.GAME)


@pytest.mark.parametrize("vip", [p.VIP, p.VIP2])
def test_answer_as_the_vip_that_was_dialled(rig: Rig, vip: str) -> None:
    rig.xdp(p.client_tcp(22, "S", dst=vip))
    answer = p.vm_tcp(1, 2222, "SA")
    assert rig.vm(1, answer) == answered(answer, vip, 22, w.SSH)


def test_two_vips_with_two_client_ports(rig: Rig) -> None:
    rig.xdp(p.client_tcp(22, "S", dst=p.VIP))
    rig.xdp(p.client_tcp(22, "S", dst=p.VIP2, sport=40001))
    for port, vip in ((p.CLIENT_PORT, p.VIP), (40001, p.VIP2)):
        answer = p.vm_tcp(1, 2222, "SA", dport=port)
        assert rig.vm(1, answer) == answered(answer, vip, 22, w.SSH)


def connected(rig: Rig, vip: str) -> None:
    """A connection to the machine's sshd: the three packets of its start."""
    rig.xdp(p.client_tcp(22, "S", dst=vip))
    rig.vm(1, p.vm_tcp(1, 2222, "SA"))
    rig.xdp(p.client_tcp(22, "A", dst=vip))


def test_two_vips_with_one_client_port(rig: Rig) -> None:
    """The machine could not tell them apart: the second has to wait."""
    connected(rig, p.VIP)
    second = p.client_tcp(22, "S", dst=p.VIP2)
    assert rig.xdp(second) == dropped(second, R.FLOW_CONFLICT)
    answer = p.vm_tcp(1, 2222, "SA")
    assert rig.vm(1, answer) == answered(answer, p.VIP, 22, w.SSH)


def test_forged_packets_lock_no_client_out(rig: Rig) -> None:
    """What nobody has answered, or nobody went on with, is in nobody's way."""
    rig.xdp(p.client_tcp(22, "S", dst=p.VIP))
    second = p.client_tcp(22, "S", dst=p.VIP2)
    assert rig.xdp(second) == delivered(second, 1, 2222, w.SSH)
    answer = p.vm_tcp(1, 2222, "SA")
    assert rig.vm(1, answer) == answered(answer, p.VIP2, 22, w.SSH)
    third = p.client_tcp(22, "S", dst=p.VIP)
    assert rig.xdp(third) == delivered(third, 1, 2222, w.SSH)


def test_conflict_ends_when_the_first_closes(rig: Rig) -> None:
    connected(rig, p.VIP)
    rig.vm(1, p.vm_tcp(1, 2222, "FA"))
    second = p.client_tcp(22, "S", dst=p.VIP2)
    assert rig.xdp(second) == delivered(second, 1, 2222, w.SSH)
    answer = p.vm_tcp(1, 2222, "SA")
    assert rig.vm(1, answer) == answered(answer, p.VIP2, 22, w.SSH)


def test_conflict_ends_when_the_first_is_old(rig: Rig) -> None:
    connected(rig, p.VIP)
    rig.change_reverses(seen=rig.reverses()[0].seen - 5000)
    second = p.client_tcp(22, "S", dst=p.VIP2)
    assert rig.xdp(second) == delivered(second, 1, 2222, w.SSH)


def test_a_tuple_used_again_is_not_closing(rig: Rig) -> None:
    """After a connection that was closed, one from the same port is as good as
    any: no other VIP may take its place."""
    connected(rig, p.VIP)
    rig.vm(1, p.vm_tcp(1, 2222, "FA"))
    connected(rig, p.VIP)
    second = p.client_tcp(22, "S", dst=p.VIP2)
    assert rig.xdp(second) == dropped(second, R.FLOW_CONFLICT)


def second_vip(rig: Rig) -> None:
    """VIP2 tcp 80 leads to WEB's machine and port from now on."""
    for vip in (p.VIP, p.VIP2):
        rig.service(vip, 6, 80, id=w.WEB, table=0, internal=8080, flags=SERVICE_REVERSE)
    rig.reply(1, 6, 8080, id=w.WEB, vip=p.VIP, port=80, unique=False)


def test_second_vip_added_under_a_flow(rig: Rig) -> None:
    """The flow from before goes on being answered, and is kept alive by it."""
    rig.xdp(p.client_tcp(80, "S"))
    second_vip(rig)
    answer = p.vm_tcp(1, flags="SA")
    assert rig.vm(1, answer) == answered(answer, p.VIP, 80, w.WEB)
    assert [flow.state for flow in rig.flows()] == [FLOW_REPLIED]
    rig.xdp(p.client_tcp(80, "S", dst=p.VIP2, sport=40001))
    answer = p.vm_tcp(1, flags="SA", dport=40001)
    assert rig.vm(1, answer) == answered(answer, p.VIP2, 80, w.WEB)


def test_second_vip_and_no_flow(rig: Rig) -> None:
    """The oldest VIP is no guess: without a flow nothing is sent from it."""
    second_vip(rig)
    answer = p.vm_tcp(1)
    assert rig.vm(1, answer) == shot(answer, R.REPLY_AMBIGUOUS)


def test_client_whose_route_moves(rig: Rig) -> None:
    """A SYN that is sent again and comes in elsewhere is the same connection."""
    packet = p.client_tcp(22, "S")
    rig.xdp(packet, "up0")
    assert rig.xdp(packet, "up1") == delivered(packet, 1, 2222, w.SSH)
    assert [entry.ifindex for entry in rig.reverses()] == [rig.ifindex["up1"]]


def test_reverse_entries_are_confirmed_with_their_flows(rig: Rig) -> None:
    """So that a flood does not displace those in use."""
    rig.xdp(p.client_tcp(22, "S"))
    rig.vm(1, p.vm_tcp(1, 2222, "SA"))
    rig.xdp(p.client_tcp(22, "A"))
    rig.vm(1, p.vm_tcp(1, 2222, "A"))
    assert rig.reverses()[0].state == FLOW_REPLIED | FLOW_CONFIRMED


def test_answer_with_ttl_1(rig: Rig) -> None:
    rig.xdp(p.QUERY)
    answer = p.vm_udp(1, ttl=1)
    assert rig.vm(1, answer) == shot(answer, R.TTL)


def test_client_behind_the_second_uplink(rig: Rig) -> None:
    """The answer leaves where the question came in."""
    rig.xdp(p.client_udp(), "up1")
    assert [flow.ifindex for flow in rig.flows()] == [rig.ifindex["up1"]]
    answer = p.vm_udp(1)
    assert rig.vm(1, answer) == answered(answer, p.VIP, 53, w.DNS)


def test_client_whose_route_moves_under_a_flow(rig: Rig) -> None:
    """Answers leave where its last packet came in: the first uplink may be down."""
    rig.xdp(p.client_udp(), "up0")
    assert rig.xdp(p.client_udp(), "up1") == delivered(p.client_udp(), 1, 5353, w.DNS, new=False)
    assert [flow.ifindex for flow in rig.flows()] == [rig.ifindex["up1"]]


def test_interface_in_a_torn_entry(rig: Rig) -> None:
    """A client's answer never goes into a VM's interface, whatever the entry says."""
    rig.xdp(p.client_udp(src="192.88.99.5"))
    rig.change_flows(ifindex=rig.ifindex["vm2"])
    answer = p.vm_udp(1, dst="192.88.99.5")
    assert rig.vm(1, answer) == shot(answer, R.VM_NO_ROUTE)


def test_uplink_that_is_gone(rig: Rig) -> None:
    """Then the routes say where the answer leaves."""
    rig.xdp(p.client_udp(), "up1")
    rig.change_flows()
    rig.settings.uplink_count = 1
    rig.write_settings()
    answer = p.vm_udp(1)
    assert rig.vm(1, answer) == answered(answer, p.VIP, 53, w.DNS)
    unroutable = p.client_udp(src="192.88.99.5")
    rig.xdp(unroutable, "up1")
    answer = p.vm_udp(1, dst="192.88.99.5")
    assert rig.vm(1, answer) == shot(answer, R.VM_NO_ROUTE)


STATELESS = [
    row("to the host", "192.0.2.1", R.VM_TO_HOST),
    row("to the operator's network", "10.1.2.3", R.VM_NOT_PUBLIC),
    row("to another machine", p.private_ip(2), R.VM_TO_PRIVATE),
    row("to where there is no route", "192.88.99.9", R.VM_NO_ROUTE),
    row("to an alias", p.alias_ip(2), R.REPLY_CLIENT_GONE),
]


@pytest.mark.parametrize(("dst", "reason"), STATELESS)
def test_answers_that_nobody_asked_for(rig: Rig, dst: str, reason: DropReason) -> None:
    """An answer without a flow goes nowhere that the VM's own packets may not."""
    for packet in (p.vm_udp(1, dst=dst), p.vm_tcp(1, dst=dst)):
        assert rig.vm(1, packet) == shot(packet, reason)


def test_vips_are_nobodys_clients(rig: Rig) -> None:
    """What goes to a VIP is the VM's own, from whatever port: a connection to
    be steered, or a datagram that fly-global-services must not send."""
    packet = p.vm_tcp(1, 8080, "A", dst=p.SMALL_VIP, dport=80)
    assert rig.vm(1, packet).counts == {Count.FLOW_NEW: 1, Count.HAIRPIN: 1}
    packet = p.vm_udp(1, dst=p.VIP2)
    assert rig.vm(1, packet) == shot(packet, R.REPLY_NO_FLOW)
    error = vm_error(p.client_udp(src=p.VIP2))
    assert rig.vm(1, error) == shot(error, R.REPLY_NO_FLOW)


def test_client_that_the_policy_would_refuse(rig: Rig) -> None:
    """Who asked gets an answer: clients in the operator's network too."""
    rig.xdp(p.client_udp(src="10.1.2.3"))
    answer = p.vm_udp(1, dst="10.1.2.3")
    assert rig.vm(1, answer) == answered(answer, p.VIP, 53, w.DNS)


def quoted(packet: Packet) -> bytes:
    """What machine 1 got, as it quotes it."""
    return p.to_vm(packet, 1, 5353 if UDP in packet else 8080)[14:]


def vm_error(packet: Packet, **ip: object) -> Packet:
    """Machine 1's ICMP port unreachable about a client's packet."""
    source = p.services_ip(1) if UDP in packet else p.private_ip(1)
    fields = {"src": source, "dst": packet[IP].src, **ip}
    return p.from_vm(1, **fields) / ICMP(type=3, code=3) / Raw(quoted(packet)[:28])


def error_as_vip(error: Packet, packet: Packet, internal: int) -> bytes:
    """Seen by the client: from the VIP, about the packet that it sent there."""
    raw = bytearray(bytes(IP(bytes(packet)[14:]))[:28])
    raw[8] -= 1  # the TTL that the machine saw
    raw[10:12] = b"\0\0"
    header = IP(bytes(raw[:20]))
    del header.chksum
    raw[:20] = bytes(header)[:20]
    translated = quoted(packet)
    raw[20:28] = translated[20:28]
    raw[22:24] = internal.to_bytes(2, "big")
    new = error.copy()
    new[IP].src, new[IP].ttl = p.VIP, error[IP].ttl - 1
    new[Raw].load = bytes(raw)
    del new[IP].chksum, new[ICMP].chksum
    return bytes(new)


@pytest.mark.parametrize("known", [True, False], ids=["with a flow", "without a flow"])
@pytest.mark.parametrize(
    ("packet", "port", "service"),
    [row("UDP", p.QUERY, 53, w.DNS), row("TCP", p.DATA, 80, w.WEB)],
)
def test_icmp_error(rig: Rig, packet: Packet, port: int, service: int, known: bool) -> None:
    if known:
        rig.xdp(packet)
    error = vm_error(packet)
    assert rig.vm(1, error) == Outcome(
        Tc.REDIRECT, error_as_vip(error, packet, port), stats={service: sent(error)}
    )


def test_icmp_error_as_the_right_vip(rig: Rig) -> None:
    """REVERSE services: found by the quoted ports."""
    packet = p.client_tcp(22, "S", dst=p.VIP2)
    error = p.from_vm(1) / ICMP(type=3, code=3) / Raw(p.to_vm(packet, 1, 2222)[14:42])
    assert rig.vm(1, error) == shot(error, R.REPLY_AMBIGUOUS)
    rig.xdp(packet)
    assert IP(rig.vm(1, error).packet[14:]).src == p.VIP2


def test_icmp_error_with_ttl_1(rig: Rig) -> None:
    rig.xdp(p.QUERY)
    error = vm_error(p.QUERY, ttl=1)
    assert rig.vm(1, error) == shot(error, R.TTL)


def test_icmp_error_in_fragments(rig: Rig) -> None:
    rig.xdp(p.QUERY)
    error = vm_error(p.QUERY, flags="MF")
    assert rig.vm(1, error) == shot(error, R.ICMP_FRAGMENT)


def test_icmp_error_about_own_traffic(rig: Rig) -> None:
    """A late answer to the VM's own DNS, from its private address, although it
    used the port of a UDP service: conntrack knows whose that was."""
    answer = IP(src=p.CLIENT, dst=p.private_ip(1)) / UDP(sport=53, dport=5353) / Raw(b"late")
    error = p.from_vm(1) / ICMP(type=3, code=3) / Raw(bytes(answer)[:28])
    assert rig.vm(1, error) == Outcome(Tc.OK, bytes(error), counts={Count.OWN: 1})


def test_icmp_error_to_the_operators_network(rig: Rig) -> None:
    """A quote that the VM made up opens no way."""
    error = vm_error(p.client_udp(src="10.1.2.3"))
    assert rig.vm(1, error) == shot(error, R.VM_NOT_PUBLIC)


def test_icmp_error_to_another_vm(rig: Rig) -> None:
    error = vm_error(p.client_udp(src=p.alias_ip(4)))
    assert rig.vm(1, error) == shot(error, R.ICMP_NO_FLOW)


NOT_ANSWERS = [
    row("a quote of another source", {"dst": p.FAR_ROUTER}),
]


@pytest.mark.parametrize("fields", NOT_ANSWERS)
def test_icmp_error_that_is_no_answer(rig: Rig, fields: dict[str, str]) -> None:
    """From fly-global-services nothing else leaves."""
    rig.xdp(p.QUERY)
    error = vm_error(p.QUERY, **fields)
    assert rig.vm(1, error) == shot(error, R.REPLY_NO_FLOW)


def test_reply_of_a_machine_that_is_not_the_flows(rig: Rig) -> None:
    """The flow belongs to the other machine of the service: not its to touch."""
    rig.xdp(p.client_tcp(443, "S"))
    (flow,) = rig.flows()
    other = 3 - flow.slot
    answer = p.vm_tcp(other, 443, "SA")
    assert rig.vm(other, answer) == answered(answer, p.VIP, 443, w.BIG)
    assert [entry.state for entry in rig.flows()] == [0]


def test_both_directions(rig: Rig) -> None:
    """A connection from beginning to end, every packet as it should be."""
    talk = [
        ("S", "SA"),
        ("A", "A"),
        ("PA", "PA"),
        ("FA", "FA"),
        ("A", None),
    ]
    for i, (client_flags, vm_flags) in enumerate(talk):
        packet = p.client_tcp(80, client_flags)
        assert rig.xdp(packet) == delivered(packet, 1, 8080, w.WEB, new=i == 0)
        if vm_flags:
            answer = p.vm_tcp(1, flags=vm_flags)
            assert rig.vm(1, answer) == answered(answer, p.VIP, 80, w.WEB)
    assert Ether(rig.xdp(p.RST).packet)[TCP].dport == 8080
    assert rig.xdp(p.SYN).verdict == Xdp.REDIRECT
