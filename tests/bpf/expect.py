# SPDX-License-Identifier: Apache-2.0
"""Whole outcomes, as rows of tests state them."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP
from scapy.packet import Packet

from flyebpf.model.reasons import Count, DropReason
from tests.bpf.rig import Outcome, Stats, Tc, Xdp
from tests.packets import to_client, to_vm

NEW = {Count.FLOW_NEW: 1}


def row(sentence: str, *values: object) -> object:
    """A parameter set of pytest, named by its sentence."""
    return pytest.param(*values, id=sentence)


def ip_length(packet: Packet | bytes) -> int:
    """Of a frame without padding: as services count it."""
    return IP(bytes(packet)[14:]).len


def received(packet: Packet | bytes, *, new: bool) -> Stats:
    """What a service counts for a packet from a client."""
    return Stats(in_packets=1, in_bytes=ip_length(packet), flows=int(new))


def sent(packet: Packet | bytes) -> Stats:
    """What a service counts for a packet to a client."""
    return Stats(out_packets=1, out_bytes=ip_length(packet))


def passed(packet: Packet | bytes) -> Outcome:
    """XDP leaves it to the host, as it is."""
    return Outcome(Xdp.PASS, bytes(packet))


def dropped(
    packet: Packet | bytes, reason: DropReason, counts: dict[Count, int] | None = None
) -> Outcome:
    """XDP drops it, as it came."""
    length = len(bytes(packet))
    return Outcome(Xdp.DROP, bytes(packet), {reason: (1, length)}, counts or {})


def shot(
    packet: Packet | bytes, reason: DropReason, counts: dict[Count, int] | None = None
) -> Outcome:
    """tc drops it, as it came."""
    length = len(bytes(packet))
    return Outcome(Tc.SHOT, bytes(packet), {reason: (1, length)}, counts or {})


def delivered(packet: Packet, number: int, port: int, service: int, *, new: bool = True) -> Outcome:
    """XDP redirects a client's packet to machine ``number``."""
    return Outcome(
        Xdp.REDIRECT,
        to_vm(packet, number, port),
        counts=NEW if new else {},
        stats={service: received(packet, new=new)},
    )


def answered(packet: Packet, vip: str, port: int, service: int) -> Outcome:
    """tc sends a machine's packet to its client as the VIP."""
    return Outcome(Tc.REDIRECT, to_client(packet, vip, port), stats={service: sent(packet)})
