# SPDX-License-Identifier: Apache-2.0
"""A host of the mesh that is not what it should be: what it sends for clients of
this host's edge, or for VMs of this host, decides nothing about their flows."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP
from scapy.packet import Packet

from flyebpf.model.reasons import Count, DropReason
from tests import packets as p
from tests.bpf import world as w
from tests.bpf.expect import delivered, row, shot
from tests.bpf.far import mesh, to_here
from tests.bpf.rig import UDP, Rig, Tc

R = DropReason
TENANT = 2
"""Another tenant's machine, whose service has a port as machine 1's."""


def tempt(rig: Rig) -> None:
    """The machine of the other tenant answers at the ports that are tempting."""
    rig.reply(TENANT, UDP, 5353, id=w.GAME, vip=p.SMALL_VIP, port=53)


PACKETS = [
    row("a connection that goes on", p.ACK, 8080, 80),
    row("a datagram", p.QUERY, 5353, 5353),
]
SERVICES = {8080: w.WEB, 5353: w.DNS}


@pytest.mark.parametrize(("packet", "port", "lure"), PACKETS)
@pytest.mark.parametrize("known", [True, False], ids=["flow known", "flow new"])
def test_a_clients_flow_does_not_go_to_another_tenant(
    far: Rig, packet: Packet, port: int, lure: int, known: bool
) -> None:
    """The forged packet says that the client's flow is one of machine 2."""
    service = SERVICES[port]
    tempt(far)
    if known:
        far.xdp(packet)
    assert mesh(far, to_here(packet, TENANT, lure)).verdict == Tc.REDIRECT
    assert far.xdp(packet) == delivered(packet, 1, port, service)
    assert far.xdp(packet) == delivered(packet, 1, port, service, new=False)


def test_a_machines_flow_does_not_go_to_another_tenant(far: Rig) -> None:
    """The same for a VM of this host that dials a VIP."""
    tempt(far)
    query = p.vm_udp(4, 40000, src=p.private_ip(4), dst=p.VIP, dport=53)
    forged = p.client_udp(53, src=p.alias_ip(4), sport=40000)
    assert mesh(far, to_here(forged, TENANT, 5353)).verdict == Tc.REDIRECT
    first, second = far.vm(4, query), far.vm(4, query)
    for outcome in (first, second):
        assert outcome.packet[:6] == bytes.fromhex(p.vm_mac(1).replace(":", ""))
    assert (Count.FLOW_NEW in first.counts, Count.FLOW_NEW in second.counts) == (True, False)


@pytest.mark.parametrize("number", [1, TENANT])
@pytest.mark.parametrize("flags", ["S", "A"])
def test_nobody_sends_for_a_machine_of_this_host(far: Rig, number: int, flags: str) -> None:
    """Else its answers would go to that host."""
    syn = p.vm_tcp(4, 40000, "S", src=p.private_ip(4), dst=p.VIP, dport=80)
    far.vm(4, syn)
    port = {1: 8080, TENANT: 80}[number]
    forged = to_here(p.client_tcp(80, flags, src=p.alias_ip(4), sport=40000), number, port)
    assert mesh(far, forged) == shot(forged, R.MESH_SOURCE)
    assert [flow.ifindex for flow in far.flows()] == [far.ifindex["vm4"]]


def test_errors_follow_the_flow(far: Rig) -> None:
    """Answers leave from here, and so errors about them arrive here, also where
    the client came in at another host's edge."""
    mesh(far, to_here(p.client_tcp(443, "S"), TENANT, 443))
    quoted = p.to_client(p.vm_tcp(TENANT, 443), p.VIP, 443)[14:]
    outcome = far.xdp(p.icmp_error(IP(quoted), code=4))
    assert outcome.packet[:6] == bytes.fromhex(p.vm_mac(TENANT).replace(":", ""))
    assert outcome.counts == {}


def test_a_client_whose_route_moves_here(far: Rig) -> None:
    """It goes to the same machine: all hosts have the same tables."""
    mesh(far, to_here(p.SYN))
    assert far.xdp(p.ACK) == delivered(p.ACK, 1, 8080, w.WEB)
    assert [flow.ifindex for flow in far.flows()] == [far.ifindex["up0"]]
