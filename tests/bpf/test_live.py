# SPDX-License-Identifier: Apache-2.0
"""The programs attached: where packets really come out, which a test run does
not say, and frames too short for one."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from pyroute2 import IPRoute
from scapy.packet import Packet

from flyebpf.bpf.compiler import compile_program, import_bcc, load_program
from flyebpf.bpf.loader import Generation
from flyebpf.bpf.program import XdpLink
from flyebpf.bpf.source import ProgramSpec
from flyebpf.model.reasons import DropReason
from tests import packets as p
from tests.bpf.rig import Rig

ETH_P_ALL = 3
RST_ACK = 0x14
ENDS = ("wire0", "wire1", "guest1", "guest2", "guest3", "guest4")
WAIT = 2.0  # seconds; a packet takes microseconds


@dataclass
class Wires:
    """Sockets on the far ends of the interfaces."""

    rig: Rig
    sockets: dict[str, socket.socket]
    links: dict[str, XdpLink]

    def send(self, device: str, packet: Packet | bytes) -> None:
        self.sockets[device].send(bytes(packet))

    def receive(self, device: str) -> bytes:
        """The next frame that comes out there."""
        end = self.sockets[device]
        end.settimeout(WAIT)
        while True:
            frame, address = end.recvfrom(65536)
            if address[2] != socket.PACKET_OUTGOING:
                return frame

    def nothing_else(self) -> None:
        """No socket has anything more."""
        time.sleep(0.05)
        for device, end in self.sockets.items():
            end.setblocking(False)
            while True:
                try:
                    frame, address = end.recvfrom(65536)
                except BlockingIOError:
                    break
                outgoing = address[2] == socket.PACKET_OUTGOING
                assert outgoing, f"{device} also got {frame.hex()}"


@pytest.fixture
def wires(rig: Rig, generation: Generation) -> Iterator[Wires]:
    """edge_xdp and edge_tc on both uplinks, vm_tc on the VMs' interfaces."""
    pins = [attach_tc(rig, "edge_tc", name) for name in ("up0", "up1")]
    pins += [attach_tc(rig, "vm_tc", f"vm{number}") for number in (1, 2, 3, 4)]
    links = {
        name: XdpLink.create(generation.programs["edge_xdp"], rig.ifindex[name], "native")
        for name in ("up0", "up1")
    }
    with rig.namespace.entered(rig.namespace.far):
        # veth takes redirected frames only where there is NAPI, and those of
        # XDP_TX only where there is a program (which passes them all here).
        for name in ENDS:
            subprocess.run(["ethtool", "-K", name, "gro", "on"], check=True)
        sockets = {name: listen(name) for name in ENDS}
        far = socket.if_nametoindex("wire0")
        links["wire0"] = XdpLink.create(generation.programs["edge_xdp"], far, "native")
    yield Wires(rig, sockets, links)
    for end in sockets.values():
        end.close()
    for link in links.values():
        link.close()
    with IPRoute() as ip:
        for index in pins:
            ip.tc("del", "clsact", index)


def listen(device: str) -> socket.socket:
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    end.bind((device, 0))
    return end


def attach_tc(rig: Rig, program: str, device: str) -> int:
    index = rig.ifindex[device]
    with IPRoute() as ip:
        ip.tc("add", "clsact", index)
        ip.tc(
            "add-filter",
            "bpf",
            index,
            "0:1",
            fd=rig.programs[program].fd,
            name=program,
            parent=0xFFFFFFF2,
            direct_action=True,
        )
    return index


def test_to_the_machine_of_the_service(wires: Wires) -> None:
    wires.send("wire0", p.QUERY)
    assert wires.receive("guest1") == p.to_vm(p.QUERY, 1, 5353)
    wires.send("wire0", p.client_udp(5001))
    assert wires.receive("guest2") == p.to_vm(p.client_udp(5001), 2, 6000)
    wires.nothing_else()


def test_by_way_of_tc(wires: Wires) -> None:
    """edge_tc redirects what edge_xdp marked."""
    packet = p.client_udp(82)
    wires.send("wire0", packet)
    assert wires.receive("guest3") == p.to_vm(packet, 3, 82)
    wires.nothing_else()


STRANGER = """
#include <linux/types.h>
int stranger(struct xdp_md *ctx)
{
	__u32 *meta;

	if (bpf_xdp_adjust_meta(ctx, -8))
		return XDP_DROP;
	meta = (void *)(long)ctx->data_meta;
	if ((void *)(meta + 2) > (void *)(long)ctx->data)
		return XDP_DROP;
	meta[0] = 0x12345678;
	meta[1] = IFINDEX;
	return XDP_PASS;
}
"""


@pytest.mark.filterwarnings("ignore:not a bytes object:DeprecationWarning")  # bcc's own
def test_metadata_of_another_program(wires: Wires) -> None:
    """That looks like ours but for the mark: not for edge_tc. The packet reaches
    the host, which refuses the connection."""
    text = STRANGER.replace("IFINDEX", str(wires.rig.ifindex["vm1"]))
    spec = ProgramSpec("stranger", "xdp")
    bpf = import_bcc()
    program = load_program(compile_program(bpf, spec, {}, text), spec)
    wires.links["up0"].update(program)
    wires.send("wire0", p.NOT_POOL)
    assert wires.receive("wire0")[47] == RST_ACK
    wires.nothing_else()
    program.close()


def test_answer_leaves_over_the_uplink(wires: Wires) -> None:
    """With the MACs of the uplink and of the neighbour."""
    wires.send("wire0", p.QUERY)
    wires.receive("guest1")
    answer = p.vm_udp(1)
    wires.send("guest1", answer)
    want = p.translated(answer, macs=(p.ROUTER_MAC, p.HOST_MAC), src=p.VIP, sport=53, ttl=63)
    assert wires.receive("wire0") == want
    wires.nothing_else()


def test_answer_follows_the_clients_route(wires: Wires) -> None:
    """It came in over the second uplink last, so that is where the answer leaves."""
    packet = p.client_udp(src=p.CLIENT2)
    for wire in ("wire0", "wire1"):
        wires.send(wire, packet)
        wires.receive("guest1")
    wires.send("guest1", p.vm_udp(1, dst=p.CLIENT2))
    assert wires.receive("wire1")[26:30] == bytes([203, 0, 113, 10])
    wires.nothing_else()


def test_answer_over_another_uplink(wires: Wires) -> None:
    """There is no route to the client where it came in, but elsewhere: routes
    of the two directions need not be the same."""
    wires.send("wire1", p.client_udp(src="9.9.9.9"))
    wires.receive("guest1")
    with wires.rig.namespace.entered(), IPRoute() as ip:
        up0 = wires.rig.ifindex["up0"]
        ip.neigh("replace", dst=p.ROUTER, lladdr=p.ROUTER_MAC, ifindex=up0, state=0x80)
        wires.send("guest1", p.vm_udp(1, dst="9.9.9.9"))
        assert wires.receive("wire0")[26:30] == bytes([203, 0, 113, 10])
        ip.neigh("del", dst=p.ROUTER, ifindex=up0)
    wires.nothing_else()


def test_answer_without_any_route(wires: Wires) -> None:
    before = wires.rig.drops(DropReason.VM_NO_ROUTE)
    wires.send("wire1", p.client_udp(src="192.88.99.1"))
    wires.receive("guest1")
    wires.send("guest1", p.vm_udp(1, dst="192.88.99.1"))
    wires.nothing_else()
    assert wires.rig.drops(DropReason.VM_NO_ROUTE) == before + 1


def test_echo_and_reset_come_back(wires: Wires) -> None:
    wires.send("wire0", p.ECHO)
    assert wires.receive("wire0")[34] == 0
    wires.send("wire0", p.client_tcp(81, "S"))
    assert wires.receive("wire0")[47] == RST_ACK
    wires.nothing_else()


@pytest.mark.parametrize("sender", [1, 4], ids=["itself", "another"])
def test_hairpin(wires: Wires, sender: int) -> None:
    question = p.vm_udp(sender, 1234, src=p.private_ip(sender), dst=p.VIP, dport=53)
    wires.send(f"guest{sender}", question)
    want = p.translated(
        question,
        macs=(p.vm_mac(1), p.gateway_mac(1)),
        src=p.alias_ip(sender),
        dst=p.services_ip(1),
        dport=5353,
        ttl=63,
    )
    assert wires.receive("guest1") == want
    answer = p.vm_udp(1, dst=p.alias_ip(sender), dport=1234)
    wires.send("guest1", answer)
    back = p.translated(
        answer,
        macs=(p.vm_mac(sender), p.gateway_mac(sender)),
        src=p.VIP,
        dst=p.private_ip(sender),
        sport=53,
        ttl=63,
    )
    assert wires.receive(f"guest{sender}") == back
    wires.nothing_else()


def test_arp_is_answered_to_who_asked(wires: Wires) -> None:
    wires.send("guest2", p.vm_arp(2, p.VIP))
    assert wires.receive("guest2")[20:22] == b"\0\x02"
    wires.nothing_else()


def test_spoofed_frames_come_out_nowhere(wires: Wires) -> None:
    wires.send("guest1", p.vm_udp(2))
    wires.send("guest1", p.vm_tcp(1, dst=p.private_ip(2)))
    wires.send("guest1", p.vm_arp(1, p.VIP, psrc=p.private_ip(2)))
    wires.nothing_else()


@pytest.mark.parametrize("length", range(14, 34))
def test_short_frames_of_a_vm(wires: Wires, length: int) -> None:
    """Shorter than an IP header: the kernel has no test run for these."""
    before = wires.rig.drops(DropReason.TRUNCATED)
    wires.send("guest1", bytes(p.vm_udp(1))[:length])
    wires.nothing_else()
    assert wires.rig.drops(DropReason.TRUNCATED) == before + 1
