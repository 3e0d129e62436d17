# SPDX-License-Identifier: Apache-2.0
"""edge_tc: delivers what edge_xdp marked, and nothing else.

A test run of a tc program cannot be given metadata, so delivery itself is in
test_live.py.
"""

from __future__ import annotations

import pytest
from scapy.packet import Packet

from tests import packets as p
from tests.bpf.expect import row
from tests.bpf.rig import Outcome, Rig, Tc

FRAMES = [
    row("a packet for a VIP", p.SYN),
    row("a packet for the host", p.NOT_POOL),
    row("ARP", p.ARP_REQUEST),
    row("IPv6", p.IPV6),
    row("a VLAN tag", p.VLAN),
]


@pytest.mark.parametrize("packet", FRAMES)
def test_without_mark(rig: Rig, packet: Packet) -> None:
    assert rig.tc(packet, "up0", program="edge_tc") == Outcome(Tc.UNSPEC, bytes(packet))


def test_mark_in_the_packet_itself(rig: Rig) -> None:
    """What a sender writes is behind the data pointer: not metadata."""
    frame = b"eylf" + rig.ifindex["vm1"].to_bytes(4, "little") + bytes(p.NOT_IP)[8:]
    assert rig.tc(frame, "up0", program="edge_tc") == Outcome(Tc.UNSPEC, frame)
