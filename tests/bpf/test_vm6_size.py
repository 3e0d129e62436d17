# SPDX-License-Identifier: Apache-2.0
"""vm_tc: what leaves for another host has to fit the mesh. Trains of segments,
packet too big, TCP's MSS."""

from __future__ import annotations

import os

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    PadN,
)
from scapy.packet import Packet, Padding, Raw

from flyebpf.bpf.layout import MESH_ETHERNET
from flyebpf.model.reasons import Count, DropReason
from tests import packets6 as p6
from tests.bpf.expect import row, shot
from tests.bpf.fast import Fast, flooded
from tests.bpf.rig import Outcome, Rig, Tc
from tests.packets6 import behind, with_

R = DropReason
MTU = p6.MESH_MTU
OPTIONS = IPv6ExtHdrDestOpt
EIGHT = PadN(optdata=bytes(12))  # makes an options header of 16 bytes


class TestTrains:
    """Segments that the kernel cuts later (GSO): one frame, many packets."""

    PACKET = p6.tcp(1, "PA", bytes(3000), dst=p6.remote(9), options=[("Timestamp", (1, 0))])

    def test_same_host(self, rig: Rig) -> None:
        packet = with_(self.PACKET, IPv6, dst=p6.address(2))
        assert rig.vm(1, packet, gso_size=1448, gso_segs=3) == Outcome(
            Tc.REDIRECT, p6.delivered(packet, 2), counts={Count.SIXPN_LOCAL: 1}
        )

    def test_longer_than_the_length_field_says(self, rig: Rig) -> None:
        packet = with_(self.PACKET, IPv6, dst=p6.address(2), plen=0)
        assert rig.vm(1, packet, gso_size=1448, gso_segs=3).verdict == Tc.REDIRECT

    @pytest.mark.parametrize("gso_size", [1, 1000, MTU - 40 - 32])
    def test_segments_that_fit(self, rig: Rig, gso_size: int) -> None:
        assert rig.vm(1, self.PACKET, gso_size=gso_size, gso_segs=4) == Outcome(
            Tc.REDIRECT, p6.in_mesh_form(self.PACKET), counts={Count.SIXPN_OUT: 1}
        )

    @pytest.mark.parametrize("gso_size", [MTU - 40 - 31, 1448, 65000])
    def test_segments_that_do_not_fit(self, rig: Rig, gso_size: int) -> None:
        got = rig.vm(1, self.PACKET, gso_size=gso_size, gso_segs=3)
        assert got == told(1, self.PACKET)

    def test_datagrams(self, rig: Rig) -> None:
        packet = p6.udp(1, bytes(3000), dst=p6.remote(9))
        fits, too_long = MTU - 48, MTU - 47
        assert rig.vm(1, packet, gso_size=fits, gso_segs=3).verdict == Tc.REDIRECT
        assert rig.vm(1, packet, gso_size=fits, gso_segs=3).packet == p6.in_mesh_form(packet)
        assert rig.vm(1, packet, gso_size=too_long, gso_segs=3) == told(1, packet)


def told(number: int, packet: Packet | bytes) -> Outcome:
    """Dropped, and the sender learns why."""
    return Outcome(
        Tc.REDIRECT,
        p6.too_big(number, packet),
        {R.TOO_BIG: (1, len(bytes(packet)))},
        {Count.TOO_BIG: 1},
    )


FAR = {"dst": p6.remote(9)}
LONG = [
    row("a segment", p6.tcp(1, **FAR)),
    row("a datagram", p6.udp(1, b"", **FAR)),
    row("a ping", p6.ping(1, b"", **FAR)),
    row("a later fragment", behind(IPv6ExtHdrFragment(offset=2, nh=6, id=5), **FAR)),
    row("options and a datagram", behind(OPTIONS(options=EIGHT), UDP(), **FAR)),
]


class TestTooBig:
    @pytest.mark.parametrize("packet", LONG)
    def test_as_long_as_the_mesh_takes(self, rig: Rig, packet: Packet) -> None:
        packet = longer(packet, 0)
        want = Outcome(Tc.REDIRECT, p6.in_mesh_form(packet), counts={Count.SIXPN_OUT: 1})
        assert rig.vm(1, packet) == want

    @pytest.mark.parametrize("packet", LONG)
    @pytest.mark.parametrize("more", [1, 2, 3, 400])
    def test_longer(self, rig: Rig, packet: Packet, more: int) -> None:
        packet = longer(packet, more)
        assert rig.vm(1, packet) == told(1, packet)

    def test_no_matter_how_long_on_the_same_host(self, rig: Rig) -> None:
        packet = p6.tcp(1, "A", bytes(3000))
        assert rig.vm(1, packet).counts == {Count.SIXPN_LOCAL: 1}

    def test_padding_counts(self, rig: Rig) -> None:
        """What follows the packet in its frame would be sent too."""
        packet = p6.udp(1, dst=p6.remote(9)) / Padding(bytes(MTU))
        assert rig.vm(1, packet) == told(1, packet)

    def test_an_error_is_not_answered(self, rig: Rig) -> None:
        packet = longer(behind(ICMPv6DestUnreach(), **FAR), 1)
        assert rig.vm(1, packet) == shot(packet, R.TOO_BIG)

    def test_from_another_of_its_addresses(self, rig: Rig) -> None:
        packet = longer(p6.udp(1, b"", src=p6.address(1, 77), **FAR), 1)
        assert rig.vm(1, packet) == told(1, packet)

    def test_not_more_often_than_the_limit(self, rig: Rig) -> None:
        packet = longer(p6.udp(1, b"", **FAR), 1)
        assert flooded(rig, packet) == shot(packet, R.TOO_BIG, {Count.ICMP_LIMITED: 1})

    def test_limits_of_machines_are_their_own(self, rig: Rig) -> None:
        """Machine 1 floods, and machine 2 still learns, on the same CPU and within
        one period of the limit: 1 is not told before and after that."""
        one, two = (longer(p6.udp(number, b"", **FAR), 1) for number in (1, 2))
        cpus = os.sched_getaffinity(0)
        os.sched_setaffinity(0, [min(cpus)])
        try:
            fast = Fast.vm(rig, 1), Fast.vm(rig, 2)
            for _ in range(50):
                for _ in range(100):
                    fast[0].run(bytes(one))
                verdicts = [fast[i].run(bytes((one, two)[i]))[0] for i in (0, 1, 0)]
                if verdicts[0] == verdicts[2] == Tc.SHOT:
                    break
            assert verdicts == [Tc.SHOT, Tc.REDIRECT, Tc.SHOT]
        finally:
            os.sched_setaffinity(0, cpus)

    def test_host_first(self, rig: Rig) -> None:
        """Nobody is told a size for where nothing goes."""
        packet = longer(p6.udp(1, b"", dst=p6.remote(9, p6.NO_HOST)), 1)
        assert rig.vm(1, packet) == shot(packet, R.SIXPN_HOST)


def longer(packet: Packet, more: int) -> Packet:
    """Made so long that it is ``more`` bytes longer than the mesh takes."""
    room = MTU + 14 + more - len(bytes(packet))
    return packet / Raw((bytes(range(256)) * 8)[:room])


MSS = [
    row("more than fits", "S", [("MSS", 1440)], MTU - 60),
    row("one more than fits", "S", [("MSS", MTU - 59)], MTU - 60),
    row("in a SYN-ACK", "SA", [("MSS", 8940)], MTU - 60),
    row("behind others", "S", [("SAckOK", b""), ("MSS", 1440)], MTU - 60),
    row("at an odd place", "S", [("NOP", None), ("MSS", 1440)], MTU - 60),
    row("the last of many", "S", [("Timestamp", (1, 0)), ("WScale", 7), ("MSS", 1440)], MTU - 60),
    row("what fits", "S", [("MSS", MTU - 60)], None),
    row("less", "S", [("MSS", 536)], None),
    row("none", "S", [], None),
    row("none among others", "S", [("SAckOK", b""), ("Timestamp", (1, 0))], None),
    row("not in a SYN", "A", [("MSS", 1440)], None),
    row("behind the end of options", "S", [("EOL", None), ("MSS", 1440)], None),
]


@pytest.mark.parametrize(("flags", "options", "lowered"), MSS)
def test_mss(rig: Rig, flags: str, options: list[tuple[str, object]], lowered: int | None) -> None:
    packet = p6.tcp(1, flags, options=options, **FAR)
    want, counts = bytes(packet), {Count.SIXPN_OUT: 1}
    if lowered is not None:
        less = [("MSS", lowered) if name == "MSS" else (name, value) for name, value in options]
        want = bytes(with_(packet, TCP, options=less))
        counts[Count.MSS] = 1
    assert rig.vm(1, packet) == Outcome(Tc.REDIRECT, p6.in_mesh_form(want), counts=counts)
    near = with_(packet, IPv6, dst=p6.address(2))
    assert rig.vm(1, near).packet == p6.delivered(near, 2), "on the same host as it is"


BROKEN_OPTIONS = [
    row("an option of no length", bytes((3, 0, 0, 0, 2, 4, 5, 160))),
    row("an MSS of another length", bytes((2, 3, 5, 160))),
    row("an MSS beyond the header", bytes((1, 1, 2, 4))),
    row("an option beyond the header", bytes((3, 40, 1, 1))),
]


@pytest.mark.parametrize("options", BROKEN_OPTIONS)
def test_options_that_make_no_sense(rig: Rig, options: bytes) -> None:
    """They are the receiver's to judge."""
    header = TCP(sport=1, dport=2, flags="S", dataofs=5 + len(options) // 4)
    packet = p6.from_vm(1, **FAR) / header / Raw(options)
    want = Outcome(Tc.REDIRECT, p6.in_mesh_form(packet), counts={Count.SIXPN_OUT: 1})
    assert rig.vm(1, packet) == want


def test_ethernet_underlay(rig: Rig) -> None:
    """The next hop's MAC is the kernel's to find."""
    rig.settings.mesh_flags = MESH_ETHERNET
    rig.write_settings()
    rig.host(p6.OTHER_HOST, "lan0", "2001:db8::7")
    packet = p6.udp(1, **FAR)
    got = rig.vm(1, packet)
    assert (got.verdict, got.counts) == (Tc.REDIRECT, {Count.SIXPN_OUT: 1})
    assert got.packet == p6.in_mesh_form(packet)
