# SPDX-License-Identifier: Apache-2.0
"""mesh_tc at the edge: replies on their way back to the client."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from flyebpf.bpf.layout import FLOW_CLOSING, FLOW_CONFIRMED, FLOW_REPLIED, SLOT_LIVE
from flyebpf.model.reasons import Count, DropReason
from tests import packets as p
from tests import packets6 as p6
from tests.bpf.expect import row, shot
from tests.bpf.far import back_here, hopped, mesh
from tests.bpf.rig import Outcome, Rig, Tc

R = DropReason
ONE = {Count.MESH_RETURN: 1}
NO_MACS = bytes(12)


def answer(
    flags: str = "A", dst: str = p.CLIENT, payload: bytes = b"hello", **ip: object
) -> Packet:
    header = TCP(sport=90, dport=p.CLIENT_PORT, flags=flags, seq=1, ack=2)
    return p.from_uplink(src=p.VIP, dst=dst, **ip) / header / Raw(payload)


def answer_udp(dst: str = p.CLIENT, payload: bytes = b"hello", **ip: object) -> Packet:
    header = UDP(sport=90, dport=p.CLIENT_PORT)
    return p.from_uplink(src=p.VIP, dst=dst, **ip) / header / Raw(payload)


def out(packet: Packet) -> Outcome:
    """Over an uplink: the kernel writes the MACs."""
    return Outcome(Tc.REDIRECT, NO_MACS + hopped(packet)[12:], counts=ONE)


NO_SUM = p.from_uplink(src=p.VIP, dst=p.CLIENT) / UDP(sport=90, dport=p.CLIENT_PORT, chksum=0)
ERROR = p.from_uplink(src=p.VIP, dst=p.CLIENT) / ICMP(type=3, code=3) / Raw(bytes(28))


@pytest.mark.parametrize(
    "packet",
    [
        row("a segment", answer()),
        row("the acceptance of a connection", answer("SA")),
        row("a datagram", answer_udp()),
        row("a datagram without a checksum", NO_SUM / Raw(b"hello")),
        row("IP options", answer_udp(options=[b"\x94\x04\0\0"])),
        row("an error", ERROR),
    ],
)
@pytest.mark.parametrize("known", [False, True])
def test_out_over_an_uplink(far: Rig, packet: Packet, known: bool) -> None:
    """With its flow or without: the machine's host has one."""
    if known:
        far.xdp(p.client_tcp(90, "S"))
        far.xdp(p.client_udp(90))
    assert mesh(far, back_here(packet)) == out(packet)


def test_flow_is_confirmed_as_one_of_this_host_is(far: Rig) -> None:
    far.xdp(p.client_tcp(90, "S"))
    mesh(far, back_here(answer("SA")))
    assert far.flows()[0].state == FLOW_REPLIED
    far.xdp(p.client_tcp(90, "A"))
    assert far.flows()[0].state == FLOW_REPLIED | FLOW_CONFIRMED
    mesh(far, back_here(answer("FA")))
    assert far.flows()[0].state & FLOW_CLOSING


def test_host_that_does_not_have_the_machine(far: Rig) -> None:
    """Its packet goes out, as without a flow, and the flow is not touched."""
    other = 0x80000007
    far.host(other, "lan0")
    far.xdp(p.client_tcp(90, "S"))
    assert mesh(far, back_here(answer(), src=other)) == out(answer())
    assert far.flows()[0].state == 0


def test_fragments(far: Rig) -> None:
    for part in p.fragments_of(answer_udp(payload=bytes(200))):
        assert mesh(far, back_here(part)) == out(part)


# -- to a VM of this host ------------------------------------------------------


def open_from(far: Rig, number: int) -> None:
    far.vm(number, p.vm_tcp(number, p.CLIENT_PORT, "S", dst=p.VIP, dport=90))
    udp = {"src": p.private_ip(number), "dst": p.VIP, "dport": 90}
    far.vm(number, p.vm_udp(number, p.CLIENT_PORT, **udp))


def to_machine(packet: Packet, number: int) -> Outcome:
    frame = p.translated(
        packet,
        macs=(p.vm_mac(number), p.gateway_mac(number)),
        dst=p.private_ip(number),
        ttl=packet[IP].ttl - 1,
    )
    return Outcome(Tc.REDIRECT, frame, counts=ONE)


@pytest.mark.parametrize("packet", [answer("SA", p.alias_ip(4)), answer_udp(p.alias_ip(4))])
def test_to_a_machine_that_dialled(far: Rig, packet: Packet) -> None:
    open_from(far, 4)
    assert mesh(far, back_here(packet)) == to_machine(packet, 4)


def test_fragments_to_a_machine(far: Rig) -> None:
    open_from(far, 4)
    first, *later = p.fragments_of(answer_udp(p.alias_ip(4), bytes(200)))
    assert mesh(far, back_here(first)).counts == ONE
    for part in later:
        new = Ether(hopped(part))
        new[Ether].dst, new[Ether].src = p.vm_mac(4), p.gateway_mac(4)
        new[IP].dst = p.private_ip(4)
        del new[IP].chksum
        assert mesh(far, back_here(part)) == Outcome(Tc.REDIRECT, bytes(new), counts=ONE)


def test_machine_that_has_dialled_nobody(far: Rig) -> None:
    frame = back_here(answer(dst=p.alias_ip(4)))
    assert mesh(far, frame) == shot(frame, R.MESH_NO_FLOW)


def test_fragment_for_a_machine_without_the_first(far: Rig) -> None:
    open_from(far, 4)
    frame = back_here(p.fragments_of(answer_udp(p.alias_ip(4), bytes(200)))[1])
    assert mesh(far, frame) == shot(frame, R.MESH_NO_FLOW)


def test_machine_that_is_gone(far: Rig) -> None:
    open_from(far, 4)
    far.change_slot(4, flags=0)
    frame = back_here(answer(dst=p.alias_ip(4)))
    assert mesh(far, frame) == shot(frame, R.MESH_NO_FLOW)


def test_interface_that_has_another_machine_now(far: Rig) -> None:
    open_from(far, 4)
    far.change_slot(4, flags=SLOT_LIVE, private_ip=0xAC100099)
    frame = back_here(answer(dst=p.alias_ip(4)))
    assert mesh(far, frame) == shot(frame, R.MESH_NO_FLOW)


def test_sender_that_is_not_the_machines_host(far: Rig) -> None:
    other = 0x80000007
    far.host(other, "lan0")
    open_from(far, 4)
    frame = back_here(answer(dst=p.alias_ip(4)), src=other)
    assert mesh(far, frame) == shot(frame, R.MESH_NO_FLOW)


# -- what no host sends --------------------------------------------------------


def from_vip(dst: str = p.CLIENT, **ip: object) -> Packet:
    return p.from_uplink(src=p.VIP, dst=dst, **ip)


TO_MACHINE = from_vip(p.alias_ip(4)) / ICMP(type=3)
FORGED = [
    row("not from a VIP", back_here(p.from_uplink(dst=p.CLIENT) / TCP()), R.MESH_INNER),
    row("from a private address", back_here(p.vm_tcp(1)), R.MESH_INNER),
    row("to a private address", back_here(answer(dst=p.private_ip(1))), R.MESH_INNER),
    row("to a VIP", back_here(answer(dst=p.VIP2)), R.MESH_INNER),
    row("to loopback", back_here(answer(dst="127.0.0.1")), R.MESH_INNER),
    row("to a group", back_here(answer(dst="224.0.0.1")), R.MESH_INNER),
    row(
        "an error to a machine",
        back_here(TO_MACHINE),
        R.MESH_INNER,
    ),
    row(
        "another protocol",
        back_here(from_vip(proto=47) / Raw(bytes(20))),
        R.MESH_INNER,
    ),
    row(
        "a later fragment of another protocol",
        back_here(from_vip(proto=47, frag=5) / Raw(bytes(20))),
        R.MESH_INNER,
    ),
    row("a redirect", back_here(from_vip() / ICMP(type=5) / Raw(bytes(28))), R.MESH_INNER),
    row("an echo's answer", back_here(from_vip() / ICMP(type=0)), R.MESH_INNER),
    row("half an error", back_here(from_vip(proto=1) / Raw(b"\3\3\0\0\0\0\0")), R.MESH_INNER),
    row(
        "the first fragment of an error",
        back_here(from_vip(flags="MF") / ICMP(type=3) / Raw(bytes(28))),
        R.MESH_INNER,
    ),
    row(
        "a later fragment of an error",
        back_here(from_vip(frag=5, proto=1) / Raw(bytes(28))),
        R.MESH_INNER,
    ),
    row(
        "half a TCP header",
        back_here(from_vip(proto=6) / Raw(bytes(19))),
        R.MESH_INNER,
    ),
    row(
        "port 0",
        back_here(answer_udp() / Raw(b""), port=0)[:74] + b"\0\0" + back_here(answer_udp())[76:],
        R.MESH_INNER,
    ),
    row("where the policy forbids", back_here(answer(dst="10.1.2.3")), R.VM_NOT_PUBLIC),
    row("where no uplink leads", back_here(answer(dst="192.88.99.1")), R.VM_NO_ROUTE),
    row("to the host itself", back_here(answer(dst="192.0.2.1")), R.VM_TO_HOST),
    row("for another edge", back_here(answer(), dst=p6.OTHER_HOST), R.MESH_NOT_HERE),
]


@pytest.mark.parametrize(("frame", "reason"), FORGED)
def test_what_no_host_sends(far: Rig, frame: bytes, reason: DropReason) -> None:
    assert mesh(far, frame) == shot(frame, reason)
