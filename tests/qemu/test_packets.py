# SPDX-License-Identifier: Apache-2.0
"""The rows of the packet tests, through real NICs, to a real VM.

What is sent and what should come out is the same as in tests/bpf; here it
passes virtio-net, the kernel's redirects and a tap.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from flyebpf.model.reasons import DropReason
from tests import packets as p
from tests.bpf import test_edge_fragments as fragments
from tests.bpf import test_edge_icmp as icmp
from tests.bpf import test_edge_xdp as edge
from tests.bpf import test_vm_antispoof as antispoof
from tests.bpf import test_vm_own as own
from tests.qemu.wires import Wire
from tests.qemu.world import World, booted

ARP = b"\x08\x06"
HOST_IP = bytes([192, 0, 2, 1])
SYN_ACK = b"\x12"  # flags of TCP behind an IP header without options
ROUTER_SIDE = (p.ROUTER_MAC, p.HOST_MAC)
SETTLED = 0.3  # seconds in which a frame that should not come out would


@pytest.fixture(scope="module")
def guests(tmp_path_factory: pytest.TempPathFactory, accelerator: str) -> Iterator[World]:
    with booted(tmp_path_factory.mktemp("w"), accelerator) as world:
        yield world


@pytest.fixture(scope="module", params=["native", "generic"])
def running(guests: World, request: pytest.FixtureRequest) -> Iterator[World]:
    guests.start(request.param)
    yield guests
    guests.end()


@pytest.fixture
def world(running: World) -> World:
    running.reset()
    return running


def of_interest(frames: list[bytes]) -> list[bytes]:
    """Without what the stacks of host and VM say by themselves, some of it about
    earlier tests: ARP, the host's ICMP, and SYN-ACKs sent again."""

    def by_itself(frame: bytes) -> bool:
        return frame[12:14] == ARP or frame[26:30] == HOST_IP or frame[47:48] == SYN_ACK

    return [frame for frame in frames if not by_itself(frame)]


def test_xdp_mode(world: World) -> None:
    shown = world.host.run("ip link show up0").output
    assert {"native": " xdp ", "generic": " xdpgeneric "}[world.mode] in shown


def to_machine_1(rows: list[object]) -> list[object]:
    """The rows whose packets go to the machine that is there."""
    return [row for row in rows if row.values[1] == 1]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("packet", "number", "port", "service"), to_machine_1(edge.DELIVERED))
def test_delivered(world: World, packet: Packet, number: int, port: int, service: int) -> None:
    mark = world.cable.mark()
    world.uplink.send(bytes(packet))
    world.cable.expect(p.to_vm(packet, number, port), mark)


def test_delivered_by_way_of_tc(world: World) -> None:
    """To a NIC that takes no XDP redirect."""
    mark = world.slow.mark()
    packet = p.client_udp(82)
    world.uplink.send(bytes(packet))
    world.slow.expect(p.to_vm(packet, 3, 82), mark)


def reasons_of(rows: list[object]) -> list[tuple[str, bytes, DropReason]]:
    return [(row.id, bytes(row.values[0]), row.values[1]) for row in rows]  # type: ignore[attr-defined]


def check_dropped(world: World, rows: list[tuple[str, bytes, DropReason]], wire: Wire) -> None:
    """Each frame, sent over the wire, is dropped for its reason, and nothing
    comes out anywhere."""
    before = world.drops()
    marks = {out: out.mark() for out in (world.uplink, world.cable, world.slow)}
    wrong = []
    for name, frame, reason in rows:
        wire.send(frame)
        after = wait_for_more(world, before)
        grown = {key: n - before.get(key, 0) for key, n in after.items() if n != before.get(key, 0)}
        if grown != {reason.name: 1}:
            wrong.append(f"{name}: {grown}, not {reason.name}")
        before = after
    assert not wrong, "\n".join(wrong)
    time.sleep(SETTLED)
    for out, mark in marks.items():
        assert of_interest(out.since(mark)) == []


def wait_for_more(world: World, before: dict[str, int]) -> dict[str, int]:
    deadline = time.monotonic() + 5
    while (after := world.drops()) == before and time.monotonic() < deadline:
        time.sleep(0.02)
    return after


def test_dropped_at_the_edge(world: World) -> None:
    check_dropped(world, reasons_of(edge.DROPPED), world.uplink)


def test_icmp_dropped_at_the_edge(world: World) -> None:
    check_dropped(world, reasons_of(icmp.DROPPED), world.uplink)


def test_dropped_from_a_vm(world: World) -> None:
    """Spoofed, malformed, or to whom a VM has nothing to say."""
    check_dropped(world, reasons_of(antispoof.DROPPED), world.cable)


def test_default_deny(world: World) -> None:
    rows = [
        (row.id, bytes(own.own_tcp(dst=row.values[0])), row.values[1])  # type: ignore[attr-defined]
        for row in own.REFUSED
    ]
    check_dropped(world, rows, world.cable)


@pytest.mark.parametrize("packet", icmp.ECHOES)
def test_echo(world: World, packet: Packet) -> None:
    mark = world.uplink.mark()
    world.uplink.send(bytes(packet))
    world.uplink.expect(icmp.echo_reply(packet), mark)


@pytest.mark.parametrize(("sent", "port", "internal", "service", "type", "code"), icmp.ERRORS)
def test_icmp_error(
    world: World, *, sent: Packet, port: int, internal: int, service: int, type: int, code: int
) -> None:
    error = p.icmp_error(icmp.as_vip(sent, port), type, code)
    mark = world.cable.mark()
    world.uplink.send(bytes(error))
    world.cable.expect(icmp.error_to_vm(error, 1, internal), mark)


@pytest.mark.parametrize(
    ("whole", "port"), [(fragments.QUERY, 5353), (fragments.SEGMENT, 8080)], ids=["UDP", "TCP"]
)
def test_fragments_to_a_machine(world: World, whole: Packet, port: int) -> None:
    mark = world.cable.mark()
    for part in p.fragments_of(whole):
        world.uplink.send(bytes(part))
    for part in p.fragments_of(Ether(p.to_vm(whole, 1, port))):
        world.cable.expect(bytes(part), mark)


def test_a_fragmented_question_is_answered(world: World) -> None:
    """Put together by the VM's own stack; its answer is a VIP's."""
    mark = world.uplink.mark()
    for part in p.fragments_of(p.client_udp(payload=b"x" * 300)):
        world.uplink.send(bytes(part))
    answer = world.uplink.wait_for(lambda frame: b"x" * 300 in frame, mark, "the answer")
    assert (Ether(answer)[IP].src, Ether(answer)[IP].dst) == (p.VIP, p.CLIENT)


def test_replies_leave_as_the_vip(world: World) -> None:
    """Frames of the VM, as the BPF tests send them."""
    mark = world.uplink.mark()
    for number, sport, vip_port, make in ((1, 5353, 53, p.vm_udp), (1, 8080, 80, p.vm_tcp)):
        reply = make(number, sport)
        world.cable.send(bytes(reply))
        wanted = p.translated(reply, macs=ROUTER_SIDE, src=p.VIP, sport=vip_port, ttl=63)
        world.uplink.expect(wanted, mark)


def test_udp_is_answered_by_the_vm(world: World) -> None:
    """The VM's server names the client's address and port."""
    mark = world.uplink.mark()
    world.uplink.send(bytes(p.QUERY))
    saw = f"{p.CLIENT} {p.CLIENT_PORT} question".encode()
    answer = Ether(world.uplink.wait_for(lambda frame: saw in frame, mark, "the answer"))
    assert (answer[IP].src, answer.sport, answer.dport) == (p.VIP, 53, p.CLIENT_PORT)
    assert (answer.dst, answer.src) == ROUTER_SIDE
    assert right_checksums(answer)


def right_checksums(packet: Packet) -> bool:
    return p.translated(packet) == bytes(packet)


@pytest.mark.parametrize("sport", [41001, 65535, 1])
def test_tcp_with_the_vm(world: World, sport: int) -> None:
    """A connection to the VM's TCP stack, segment by segment."""
    sport -= {"native": 0, "generic": 1}[world.mode] if sport > 1 else 0
    client = Client(world.uplink, sport)
    accepted = client.say("S", seq=100)
    assert accepted[TCP].flags == "SA"
    assert accepted[TCP].ack == 101
    client.say("A", seq=101, ack=accepted[TCP].seq + 1, answer=False)
    answer = client.say("PA", b"seen\n", seq=101, ack=accepted[TCP].seq + 1, data=True)
    assert bytes(answer[Raw]) == f"{p.CLIENT} {sport} {p.private_ip(1)} 8080\n".encode()
    client.say("RA", seq=106, ack=answer[TCP].seq + len(answer[Raw]), answer=False)


class Client:
    """One end of a TCP connection, in scapy."""

    def __init__(self, wire: Wire, sport: int) -> None:
        self.wire = wire
        self.sport = sport

    def say(
        self,
        flags: str,
        payload: bytes = b"",
        *,
        answer: bool = True,
        data: bool = False,
        **seq: int,
    ) -> Packet:
        """Send a segment; the next one that comes back (with ``data`` in it)."""
        mark = self.wire.mark()
        tcp = TCP(sport=self.sport, dport=80, flags=flags, **seq)
        packet = p.from_uplink() / tcp
        self.wire.send(bytes(packet / Raw(payload) if payload else packet))
        if not answer:
            return packet

        def is_answer(frame: bytes) -> bool:
            seen = Ether(frame)
            return TCP in seen and seen[TCP].dport == self.sport and (Raw in seen or not data)

        came = Ether(self.wire.wait_for(is_answer, mark, f"an answer to {flags}"))
        assert (came[IP].src, came[TCP].sport) == (p.VIP, 80)
        assert right_checksums(came)
        return came


@pytest.mark.parametrize("packet", edge.PASSED)
def test_passed_to_the_host(world: World, packet: Packet | bytes) -> None:
    """What is not ours is none of our business."""
    before = world.drops()
    mark = world.cable.mark()
    world.uplink.send(bytes(packet))
    assert world.drops() == before
    assert of_interest(world.cable.since(mark)) == []


def test_the_hosts_own_address_works(world: World) -> None:
    """A ping to the host itself passes edge_xdp and is answered by the kernel."""
    mark = world.uplink.mark()
    ping = p.from_uplink(dst="192.0.2.1") / p.ICMP(type=8, id=77, seq=1) / Raw(b"to the host")
    world.uplink.send(bytes(ping))
    world.uplink.wait_for(
        lambda frame: b"to the host" in frame and frame[34] == 0, mark, "the host's answer"
    )
