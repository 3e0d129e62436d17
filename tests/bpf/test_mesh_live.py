# SPDX-License-Identifier: Apache-2.0
"""The mesh on devices without Ethernet headers, which a test run does not have:
what really goes to another host and what becomes of what comes from there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from flyebpf.model.reasons import DropReason
from tests import packets as p
from tests import packets6 as p6
from tests.bpf import far as far_world
from tests.bpf.arithmetic import checksum
from tests.bpf.expect import row
from tests.bpf.far import (
    FAR_PORT,
    FAR_UDP_PORT,
    ROOM,
    back_here,
    carried,
    hopped,
    return_edge,
    to_here,
)
from tests.bpf.rig import Rig, u32
from tests.bpf.test_live import Wires, attach_tc, wires  # noqa: F401 - a fixture
from tests.bpf.tun import Tun

R = DropReason
ETHERNET = 14


@dataclass
class Mesh:
    """``wire``: the far ends of uplinks and machines. ``fly``: the mesh."""

    rig: Rig
    wire: Wires
    fly: Tun

    def drops_one(self, packet: bytes, reason: DropReason) -> None:
        """It arrives from the mesh and ends there."""
        before = self.rig.drops(reason)
        self.fly.arrive(packet)
        self.fly.nothing()
        self.wire.nothing_else()
        assert self.rig.drops(reason) == before + 1


def made(rig: Rig, wire: Wires, *, offload: bool) -> Iterator[Mesh]:
    far_world.build(rig)
    fly = Tun("fly0", offload=offload)
    rig.ifindex["fly0"] = fly.ifindex
    attach_tc(rig, "mesh_tc", "fly0")
    rig.host(p6.OTHER_HOST, "fly0")
    rig.settings.mesh_flags = 0
    rig.write_settings()
    yield Mesh(rig, wire, fly)
    fly.close()
    del rig.ifindex["fly0"]


@pytest.fixture
def mesh(rig: Rig, wires: Wires) -> Iterator[Mesh]:  # noqa: F811
    yield from made(rig, wires, offload=False)


@pytest.fixture
def trains(rig: Rig, wires: Wires) -> Iterator[Mesh]:  # noqa: F811
    """The device takes and gives trains of segments."""
    yield from made(rig, wires, offload=True)


def l3(frame: bytes | Packet) -> bytes:
    return bytes(frame)[ETHERNET:]


# -- the edge --------------------------------------------------------------------


def test_client_to_a_machine_far_away(mesh: Mesh) -> None:
    for packet, port in ((p.client_tcp(90, "S"), FAR_PORT), (p.client_udp(90), FAR_UDP_PORT)):
        mesh.wire.send("wire0", packet)
        assert mesh.fly.sent() == l3(carried(hopped(packet), port=port))
    mesh.wire.nothing_else()


def test_fragments_to_a_machine_far_away(mesh: Mesh) -> None:
    for number, part in enumerate(p.fragments_of(p.client_udp(90, bytes(3000)), 1000)):
        mesh.wire.send("wire0", part)
        port = 0 if number else FAR_UDP_PORT
        assert mesh.fly.sent() == l3(carried(hopped(part), port=port))


def test_host_that_is_not_in_the_mesh(mesh: Mesh) -> None:
    """edge_xdp only knows the machine; edge_tc finds out."""
    mesh.rig.maps["hosts"].delete(u32(p6.OTHER_HOST))
    mesh.wire.send("wire0", p.client_udp(90))
    mesh.fly.nothing()
    mesh.wire.nothing_else()
    assert mesh.rig.drops(R.NO_HOST) == 1


def test_client_is_told_what_fits(mesh: Mesh) -> None:
    packet = p.client_udp(90, bytes(ROOM))
    mesh.wire.send("wire0", packet)
    answer = Ether(mesh.wire.receive("wire0"))
    assert (answer[IP].src, answer[IP].dst) == (p.VIP, p.CLIENT)
    assert bytes(answer)[34:36] == b"\3\4"
    assert int.from_bytes(bytes(answer)[38:42], "big") == ROOM
    assert checksum(bytes(answer)[34:]) == 0
    mesh.fly.nothing()


# -- the machine's host -------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "port"),
    [
        row("a connection", p.SYN_OPTIONS, 8080),
        row("a datagram", p.QUERY, 5353),
        row("a datagram without a checksum", p.QUERY_NO_SUM, 5353),
    ],
)
def test_from_an_edge_to_the_machine(mesh: Mesh, packet: Packet, port: int) -> None:
    mesh.fly.arrive(l3(to_here(packet, port=port)))
    assert mesh.wire.receive("guest1") == p.to_vm(packet, 1, port)
    mesh.wire.nothing_else()


def test_answer_straight_to_the_client(mesh: Mesh) -> None:
    mesh.fly.arrive(l3(to_here(p.SYN)))
    mesh.wire.receive("guest1")
    mesh.wire.send("guest1", p.SYN_ACK)
    macs = (p.ROUTER_MAC, p.HOST_MAC)
    want = p.translated(p.SYN_ACK, macs=macs, src=p.VIP, sport=80, ttl=63)
    assert mesh.wire.receive("wire0") == want
    mesh.fly.nothing()


def test_answer_back_through_the_edge(mesh: Mesh) -> None:
    return_edge(mesh.rig)
    mesh.fly.arrive(l3(to_here(p.SYN)))
    mesh.wire.receive("guest1")
    mesh.wire.send("guest1", p.SYN_ACK)
    want = p.translated(p.SYN_ACK, src=p.VIP, sport=80, ttl=63)
    assert mesh.fly.sent() == l3(carried(want, machine=0))
    mesh.wire.nothing_else()


def test_answer_passes_the_edge(mesh: Mesh) -> None:
    """The kernel finds the neighbour, although no frame had a header before."""
    answer = p.from_uplink(src=p.VIP, dst=p.CLIENT) / UDP(sport=90, dport=p.CLIENT_PORT)
    mesh.fly.arrive(l3(back_here(answer)))
    want = p.translated(answer, macs=(p.ROUTER_MAC, p.HOST_MAC), ttl=56)
    assert mesh.wire.receive("wire0") == want


def test_between_machines_of_two_hosts(mesh: Mesh) -> None:
    packet = p6.udp(1, src=p6.remote(9), dst=p6.address(2))
    mesh.fly.arrive(l3(p6.in_mesh_form(packet)))
    assert mesh.wire.receive("guest2") == p6.delivered(packet, 2)
    mesh.wire.send("guest1", p6.udp(1, dst=p6.remote(9)))
    assert mesh.fly.sent() == l3(p6.in_mesh_form(p6.udp(1, dst=p6.remote(9))))
    mesh.wire.nothing_else()


def test_frames_of_every_length(mesh: Mesh) -> None:
    """Shorter than a header too, which a test run does not take."""
    whole = l3(to_here(p.SYN))
    before = mesh.rig.drops(R.TRUNCATED)
    for length in range(1, len(whole)):
        mesh.fly.arrive(whole[:length])
    mesh.fly.nothing()
    mesh.wire.nothing_else()
    assert mesh.rig.drops(R.TRUNCATED) == before + len(whole) - 1


def test_plain_ipv4(mesh: Mesh) -> None:
    mesh.drops_one(l3(p.client_tcp(80, dst=p.private_ip(1))), R.MESH_FORM)
    mesh.drops_one(l3(p.SYN), R.MESH_FORM)
    mesh.drops_one(l3(p.SYN)[:19], R.TRUNCATED)
