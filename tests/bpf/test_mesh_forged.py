# SPDX-License-Identifier: Apache-2.0
"""mesh_tc: what no host sends. Each row is a neighbour of one that is delivered."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP
from scapy.layers.inet6 import UDP as UDP6
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from flyebpf.bpf.layout import SLOT_LIVE, SLOT_REMOTE
from flyebpf.model.reasons import DropReason
from tests import packets as p
from tests import packets6 as p6
from tests.bpf.expect import row, shot
from tests.bpf.far import mesh, to_here
from tests.bpf.rig import Rig

R = DropReason


def inner(**ip: object) -> bytes:
    return bytes(p.client_tcp(80, "S", **ip))


def with_bytes(frame: bytes, at: int, new: bytes) -> bytes:
    return frame[:at] + new + frame[at + len(new) :]


GOOD = to_here(p.SYN)
GOOD_6 = p6.in_mesh_form(p6.udp(1, src=p6.remote(9), dst=p6.address(2), hlim=9))
HOPS_AT, IP_AT, TCP_AT = 21, 54, 74
ODD_SUM = with_bytes(GOOD, IP_AT + 10, b"\0\0")
LOOPBACK = to_here(p.client_tcp(80, "S", src="127.0.0.1"))
INNER_6 = (
    Ether(type=0x86DD)
    / IPv6(
        src=p6.sixpn(p6.OTHER_HOST, 0, 0, 1), dst=p6.sixpn(p6.HOST, 0, p6.machine_of(1), 80), nh=41
    )
    / IPv6()
    / UDP6()
)


def outer(nh: int = 4, **fields: object) -> bytes:
    return to_here(p.SYN, **{"nh": nh, **fields})  # type: ignore[arg-type]


FORGED = [
    row("cut off in the packet", GOOD[:-1], R.TRUNCATED),
    row("outer version 4", with_bytes(GOOD, 14, b"\x40"), R.MESH_FORM),
    row("from outside the prefix", outer(src="2001:db8::1"), R.MESH_FORM),
    row("to outside the prefix", outer(dst="2001:db8::1"), R.MESH_FORM),
    row("source not in mesh form", outer(src=p6.remote(9)), R.MESH_FORM),
    row("destination not in mesh form", outer(dst=p6.address(1)), R.MESH_FORM),
    row("two hosts in one address", outer(dst=p6.sixpn(p6.HOST, p6.HOST, 1)), R.MESH_FORM),
    row("for another host", to_here(p.SYN, dst=p6.OTHER_HOST), R.MESH_NOT_HERE),
    row("for a host that nobody is", to_here(p.SYN, dst=p6.NO_HOST), R.MESH_NOT_HERE),
    row("from a host that is none", to_here(p.SYN, src=p6.NO_HOST), R.MESH_SOURCE),
    row("from this host itself", to_here(p.SYN, src=p6.HOST), R.MESH_SOURCE),
    row("from a machine of a host", outer(src=p6.sixpn(p6.OTHER_HOST, 0, 16, 1)), R.MESH_SOURCE),
    row("from a host's other address", outer(src=p6.sixpn(p6.OTHER_HOST, 0, 0, 2)), R.MESH_SOURCE),
    row("into a network from none", outer(dst=p6.sixpn(p6.HOST, 5, 16, 2)), R.MESH_NETWORK),
    row("for a machine that is not here", to_here(p.SYN, 9), R.MESH_MACHINE),
    row("neither IPv4 nor IPv6 in it, for a machine", outer(17), R.MESH_FORM),
    row(
        "to the host's address for replies", outer(17, dst=p6.sixpn(p6.HOST, 0, 0, 0)), R.MESH_FORM
    ),
    row("a reply to the host's own address", outer(dst=p6.sixpn(p6.HOST, 0, 0, 1)), R.MESH_FORM),
    row("IPv6 in it", bytes(INNER_6), R.MESH_INNER),
    row("inner version 6", with_bytes(GOOD, IP_AT, b"\x65"), R.MESH_INNER),
    row("inner header of 16 bytes", with_bytes(GOOD, IP_AT, b"\x44"), R.MESH_INNER),
    row("inner header longer than the packet", with_bytes(GOOD, IP_AT, b"\x4f"), R.MESH_INNER),
    row("inner header's checksum", ODD_SUM, R.MESH_INNER),
    row("inner length smaller", with_bytes(GOOD, IP_AT + 2, b"\0\x27"), R.MESH_INNER),
    row("inner length larger", with_bytes(GOOD, IP_AT + 2, b"\0\x29"), R.MESH_INNER),
    row("outer length of less than a header", to_here(p.SYN, plen=19), R.MESH_INNER),
    row("nothing in it", to_here(p.SYN, plen=0)[:54], R.MESH_INNER),
    row("a source that no client has", LOOPBACK, R.MESH_INNER),
    row(
        "a machine's private address for source",
        to_here(p.client_tcp(80, src=p.private_ip(2))),
        R.MESH_INNER,
    ),
    row("a VIP for source", to_here(p.client_tcp(80, src=p.VIP2)), R.MESH_INNER),
    row("not to a VIP", to_here(p.client_tcp(80, dst="192.0.2.1")), R.MESH_INNER),
    row("to a private address", to_here(p.client_tcp(80, dst=p.private_ip(1))), R.MESH_INNER),
    row("no port", to_here(p.SYN, port=0), R.MESH_INNER),
    row("half a TCP header", to_here(p.from_uplink(proto=6) / Raw(bytes(19))), R.MESH_INNER),
    row("half a UDP header", to_here(p.from_uplink(proto=17) / Raw(bytes(7))), R.MESH_INNER),
    row("SYN and FIN", to_here(p.client_tcp(80, "SF")), R.MESH_INNER),
    row("port 0", to_here(p.client_tcp(0)), R.MESH_INNER),
    row(
        "a tiny first fragment",
        to_here(p.from_uplink(flags="MF", proto=6) / Raw(bytes(8))),
        R.MESH_INNER,
    ),
    row("another protocol", to_here(p.from_uplink(proto=47) / Raw(bytes(20))), R.MESH_INNER),
    row("an echo", to_here(p.ECHO), R.MESH_INNER),
    row("a torn error", to_here(p.from_uplink() / ICMP(type=3) / Raw(bytes(27))), R.MESH_INNER),
    row(
        "a fragment of an error",
        to_here(p.from_uplink(flags="MF") / ICMP(type=3) / Raw(bytes(40))),
        R.MESH_INNER,
    ),
    row(
        "6PN from a host that is none",
        p6.in_mesh_form(p6.udp(1, src=p6.remote(9, p6.NO_HOST), dst=p6.address(2))),
        R.MESH_SOURCE,
    ),
    row(
        "6PN from the host itself",
        p6.in_mesh_form(p6.udp(1, src=p6.sixpn(p6.NETWORK, p6.OTHER_HOST, 0), dst=p6.address(2))),
        R.MESH_SOURCE,
    ),
    row(
        "6PN from another network",
        p6.in_mesh_form(p6.udp(1, src=p6.remote(9, network=p6.OTHER_NETWORK), dst=p6.address(2))),
        R.MESH_NETWORK,
    ),
    row(
        "6PN to another network",
        p6.in_mesh_form(p6.udp(1, src=p6.remote(9), dst=p6.address(4))),
        R.MESH_NETWORK,
    ),
    row(
        "6PN from no network",
        p6.in_mesh_form(p6.udp(1, src=p6.remote(9, network=0), dst=p6.address(2))),
        R.MESH_NETWORK,
    ),
    row(
        "6PN to a machine of another network",
        p6.in_mesh_form(
            p6.udp(
                1,
                src=p6.remote(9, network=p6.OTHER_NETWORK),
                dst=p6.sixpn(p6.OTHER_NETWORK, p6.HOST, p6.machine_of(2)),
            )
        ),
        R.MESH_MACHINE,
    ),
    row(
        "6PN to a machine that is not here",
        p6.in_mesh_form(p6.udp(1, src=p6.remote(9), dst=p6.address(8))),
        R.MESH_MACHINE,
    ),
    row(
        "6PN to the host",
        p6.in_mesh_form(p6.udp(1, src=p6.remote(9), dst=p6.sixpn(p6.NETWORK, p6.HOST, 0))),
        R.MESH_MACHINE,
    ),
    row(
        "6PN to a peer where there are none",
        p6.in_mesh_form(p6.udp(1, src=p6.remote(9), dst=p6.peer())),
        R.MESH_MACHINE,
    ),
    row("6PN not swapped", bytes(p6.udp(1, src=p6.remote(9), dst=p6.address(2))), R.MESH_FORM),
    row(
        "a neighbour message, as if of the machine's own link",
        with_bytes(
            p6.in_mesh_form(p6.advert(9, p6.GATEWAY, src=p6.remote(9), dst=p6.address(2))),
            HOPS_AT,
            b"\xff",
        ),
        R.MESH_FORM,
    ),
    row("6PN cut off", GOOD_6[:-1], R.TRUNCATED),
    row(
        "IPv4 to a private address from outside", p.client_tcp(80, dst=p.private_ip(1)), R.MESH_FORM
    ),
    row("IPv4 from a private address to outside", p.vm_tcp(1), R.MESH_FORM),
    row("IPv4 to an alias", p.client_tcp(80, dst=p.alias_ip(1)), R.MESH_FORM),
]


@pytest.mark.parametrize(("frame", "reason"), FORGED)
def test_what_no_host_sends(far: Rig, frame: bytes | Packet, reason: DropReason) -> None:
    assert mesh(far, frame) == shot(frame, reason)


@pytest.mark.parametrize("flags", [0, SLOT_REMOTE, SLOT_LIVE | SLOT_REMOTE])
def test_machine_that_is_not_usable_here(far: Rig, flags: int) -> None:
    far.change_slot(1, flags=flags)
    for frame in (GOOD, p6.in_mesh_form(p6.udp(1, src=p6.remote(9), dst=p6.address(1)))):
        assert mesh(far, frame) == shot(frame, R.MESH_MACHINE)


def test_slot_that_has_gone_to_another_machine(far: Rig) -> None:
    """Maps are not written all at once."""
    far.change_slot(1, machine=p6.machine_of(7))
    frame = p6.in_mesh_form(p6.udp(1, src=p6.remote(9), dst=p6.address(1)))
    for one in (GOOD, frame):
        assert mesh(far, one) == shot(one, R.MESH_MACHINE)


def test_slot_that_has_gone_to_another_network(far: Rig) -> None:
    far.change_slot(1, network=p6.OTHER_NETWORK)
    frame = p6.in_mesh_form(p6.udp(1, src=p6.remote(9), dst=p6.address(1)))
    assert mesh(far, frame) == shot(frame, R.MESH_MACHINE)


def test_before_this_host_has_a_number(far: Rig) -> None:
    far.settings.host = 0
    far.write_settings()
    assert mesh(far, GOOD) == shot(GOOD, R.MESH_NOT_HERE)


def test_every_length(far: Rig) -> None:
    """Frames cut anywhere go nowhere. (A test run takes none that are shorter than
    the outer header: test_mesh_live.py.)"""
    for whole in (GOOD, GOOD_6):
        for length in range(54, len(whole)):
            frame = whole[:length]
            assert mesh(far, frame) == shot(frame, R.TRUNCATED), f"{length} bytes"
