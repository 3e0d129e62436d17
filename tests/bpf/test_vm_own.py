# SPDX-License-Identifier: Apache-2.0
"""vm_tc: a VM's own traffic, to the internet and to VIPs (hairpin)."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Padding, Raw

from flyebpf.bpf.layout import FLOW_OWN
from flyebpf.model.reasons import Count, DropReason
from tests import packets as p
from tests.bpf import world as w
from tests.bpf.expect import NEW, answered, ip_length, row, shot
from tests.bpf.rig import Outcome, Rig, Stats, Tc

R = DropReason
OWN = {Count.OWN: 1}


def own_tcp(number: int = 1, dst: str = p.CLIENT, **fields: object) -> Packet:
    """To the internet, from a port of no service."""
    return p.vm_tcp(number, **{"sport": 50000, "dport": 443, "flags": "S", "dst": dst, **fields})


def own_udp(number: int = 1, dst: str = p.CLIENT, **fields: object) -> Packet:
    """From the private address: not a reply, whatever its port."""
    given = {"sport": 5353, "dport": 53, "src": p.private_ip(number), "dst": dst, **fields}
    return p.vm_udp(number, **given)


PING = p.from_vm(1) / ICMP(type=8, id=1) / Raw(b"ping")

OUT = [
    row("a connection to the internet", own_tcp()),
    row("its own DNS from the port of a UDP service", own_udp()),
    row("a ping", PING),
    row(
        "an ICMP error about its own traffic", p.from_vm(1) / ICMP(type=3, code=3) / Raw(bytes(40))
    ),
    row("TTL 1 is the host's to answer", own_tcp(ttl=1)),
    row("GRE", p.from_vm(1, proto=47) / Raw(b"\0" * 12)),
    row("IP options", p.from_vm(1, options=[b"\x94\x04\0\0"]) / TCP(sport=50000, dport=1)),
    row("padding", own_tcp() / Padding(bytes(6))),
    row("any MAC for its gateway", Ether(src=p.vm_mac(1), dst="02:aa:aa:aa:aa:aa") / own_tcp()[IP]),
]


@pytest.mark.parametrize("packet", OUT)
def test_out(rig: Rig, packet: Packet) -> None:
    """Unchanged to the host's stack, which routes and translates."""
    assert rig.vm(1, packet) == Outcome(Tc.OK, bytes(packet), counts=OWN)


REFUSED = [
    row("the host over its uplink", "192.0.2.1", R.VM_TO_HOST),
    row("the host over its second uplink", "198.51.100.1", R.VM_TO_HOST),
    row("the host's loopback", "127.0.0.1", R.VM_TO_HOST),
    row("another machine", p.private_ip(2), R.VM_TO_PRIVATE),
    row("another's fly-global-services", p.services_ip(2), R.VM_TO_PRIVATE),
    row("itself over the wire", p.private_ip(1), R.VM_TO_PRIVATE),
    row("an alias", p.alias_ip(2), R.VM_TO_PRIVATE),
    row("the operator's network", "10.1.2.3", R.VM_NOT_PUBLIC),
    row("a network that is no uplink's", "10.9.0.7", R.VM_NOT_PUBLIC),
    row("an unreachable route", "192.88.99.9", R.VM_NO_ROUTE),
    row("the network's broadcast address", "192.0.2.255", R.VM_TO_HOST),
]


@pytest.mark.parametrize(("dst", "reason"), REFUSED)
@pytest.mark.parametrize("make", [own_tcp, own_udp], ids=["tcp", "udp"])
def test_refused(rig: Rig, make: object, dst: str, reason: DropReason) -> None:
    packet = make(dst=dst)  # type: ignore[operator]
    assert rig.vm(1, packet) == shot(packet, reason)


def test_no_rule_no_way(rig: Rig) -> None:
    """Without a policy entry nothing is public."""
    rig.maps["egress_policy"].delete((0).to_bytes(4, "little") + bytes(4))
    packet = own_tcp()
    assert rig.vm(1, packet) == shot(packet, R.VM_NOT_PUBLIC)


def test_allowed_by_the_operator(rig: Rig) -> None:
    rig.policy("192.168.7.0/24", R.VM_NOT_PUBLIC)
    rig.policy("192.168.7.8/32", 0)
    assert rig.vm(1, own_tcp(dst="192.168.7.8")).verdict == Tc.OK
    assert rig.vm(1, own_tcp(dst="192.168.7.9")).reason == R.VM_NOT_PUBLIC


def test_route_that_leaves_over_no_uplink(rig: Rig) -> None:
    rig.policy("10.9.0.0/24", 0)
    packet = own_tcp(dst="10.9.0.7")
    assert rig.vm(1, packet) == shot(packet, R.VM_NO_ROUTE)


SERVICES_ONLY = [
    row("UDP from a port of no service", p.vm_udp(1, sport=1234)),
    row("UDP to a VIP", p.vm_udp(1, sport=1234, dst=p.VIP2)),
    row("TCP", p.vm_tcp(1, src=p.services_ip(1), flags="S")),
    row("TCP from a service's port", p.vm_tcp(1, src=p.services_ip(1))),
    row("a ping", p.from_vm(1, src=p.services_ip(1)) / ICMP(type=8)),
    row("GRE", p.from_vm(1, src=p.services_ip(1), proto=47) / Raw(bytes(8))),
]


@pytest.mark.parametrize("packet", SERVICES_ONLY)
def test_fly_global_services_only_answers(rig: Rig, packet: Packet) -> None:
    """Contract, section 1: never the VM's own traffic."""
    assert rig.vm(1, packet) == shot(packet, R.REPLY_NO_FLOW)


def test_own_connection_from_a_services_port(rig: Rig) -> None:
    """SYN out from port 8080, which WEB answers from: all of it stays own."""
    for flags in ("S", "A", "PA", "FA"):
        packet = p.vm_tcp(1, sport=8080, dport=443, flags=flags)
        assert rig.vm(1, packet) == Outcome(Tc.OK, bytes(packet), counts=OWN), flags
    (entry,) = rig.reverses()
    assert entry.state & FLOW_OWN


def test_own_connection_does_not_outlive_its_machine(rig: Rig) -> None:
    """The slot's next machine has replies to the same client from there."""
    rig.vm(1, p.vm_tcp(1, sport=8080, dport=443, flags="S"))
    rig.slot(1, generation=2)
    packet = p.vm_tcp(1, sport=8080, dport=443)
    assert rig.vm(1, packet) == answered(packet, p.VIP, 80, w.WEB)


def to_machine(packet: Packet, sender: int, number: int, port: int) -> bytes:
    """A VM's packet to a VIP as the chosen machine sees it."""
    address = p.services_ip(number) if UDP in packet else p.private_ip(number)
    return p.translated(
        packet,
        macs=(p.vm_mac(number), p.gateway_mac(number)),
        src=p.alias_ip(sender),
        dst=address,
        dport=port,
        ttl=packet[IP].ttl - 1,
    )


def hairpinned(
    packet: Packet, sender: int, number: int, port: int, service: int, *, new: bool
) -> Outcome:
    return Outcome(
        Tc.REDIRECT,
        to_machine(packet, sender, number, port),
        counts={Count.HAIRPIN: 1, **(NEW if new else {})},
        stats={
            service: Stats(in_packets=1, in_bytes=ip_length(packet), flows=int(new)),
        },
    )


HAIRPINS = [
    row("TCP to another machine", 2, p.vm_tcp(2, 50000, "S", dst=p.VIP, dport=80), 1, 8080, w.WEB),
    row("UDP to another machine", 2, own_udp(2, dst=p.VIP), 1, 5353, w.DNS),
    row("TCP to itself", 1, p.vm_tcp(1, 50000, "S", dst=p.VIP, dport=80), 1, 8080, w.WEB),
    row("UDP to itself", 1, own_udp(1, dst=p.VIP), 1, 5353, w.DNS),
    row("a range", 4, own_udp(4, dst=p.VIP, dport=5002), 2, 6000, w.GAME),
    row(
        "padding is not counted",
        4,
        own_udp(4, dst=p.VIP, payload=b"") / Padding(bytes(18)),
        1,
        5353,
        w.DNS,
    ),
    row(
        "UDP without a checksum",
        4,
        p.from_vm(4, dst=p.VIP) / UDP(sport=1234, dport=53, chksum=0) / Raw(b"?"),
        1,
        5353,
        w.DNS,
    ),
    row(
        "IP options",
        4,
        p.from_vm(4, dst=p.VIP, options=[b"\x94\x04\0\0"]) / TCP(sport=1234, dport=80, flags="S"),
        1,
        8080,
        w.WEB,
    ),
    row("from a service's port", 1, p.vm_tcp(1, 2222, "S", dst=p.VIP, dport=80), 1, 8080, w.WEB),
]


@pytest.mark.parametrize(("sender", "packet", "number", "port", "service"), HAIRPINS)
def test_hairpin(
    rig: Rig, *, sender: int, packet: Packet, number: int, port: int, service: int
) -> None:
    want = hairpinned(packet, sender, number, port, service, new=True)
    assert rig.vm(sender, packet) == want
    if TCP in packet:
        packet[TCP].flags = "A"
    want = hairpinned(packet, sender, number, port, service, new=False)
    assert rig.vm(sender, packet) == want


@pytest.mark.parametrize("sender", [1, 4], ids=["itself", "another"])
def test_hairpin_there_and_back(rig: Rig, sender: int) -> None:
    """The machine's answer to the alias comes from the VIP."""
    rig.vm(sender, p.vm_tcp(sender, 50000, "S", dst=p.VIP, dport=80))
    answer = p.vm_tcp(1, 8080, "SA", dst=p.alias_ip(sender), dport=50000)
    assert rig.vm(1, answer) == Outcome(
        Tc.REDIRECT,
        p.translated(
            answer,
            macs=(p.vm_mac(sender), p.gateway_mac(sender)),
            src=p.VIP,
            dst=p.private_ip(sender),
            sport=80,
            ttl=63,
        ),
        stats={w.WEB: Stats(out_packets=1, out_bytes=40)},
    )


def test_hairpin_client_gone(rig: Rig) -> None:
    rig.vm(4, own_udp(4, dst=p.VIP))
    rig.slot(4, flags=0)
    answer = p.vm_udp(1, dst=p.alias_ip(4), dport=5353)
    assert rig.vm(1, answer) == shot(answer, R.REPLY_CLIENT_GONE)


def test_hairpin_interface_of_another_now(rig: Rig) -> None:
    """The client's interface belongs to somebody with another address."""
    rig.vm(4, own_udp(4, dst=p.VIP))
    raw = bytearray(rig.maps["slots"].lookup((4).to_bytes(4, "little")) or b"")
    raw[12:16] = bytes([172, 16, 9, 9])
    rig.maps["slots"].update((4).to_bytes(4, "little"), bytes(raw))
    answer = p.vm_udp(1, dst=p.alias_ip(4), dport=5353)
    assert rig.vm(1, answer) == shot(answer, R.REPLY_CLIENT_GONE)


def test_answer_to_an_alias_without_flow(rig: Rig) -> None:
    answer = p.vm_udp(1, dst=p.alias_ip(4), dport=5353)
    assert rig.vm(1, answer) == shot(answer, R.REPLY_CLIENT_GONE)


HAIRPIN_DROPPED = [
    row("an address nobody owns", own_tcp(4, dst=p.FREE_VIP), R.VIP_UNALLOCATED),
    row("no service", own_tcp(4, dst=p.VIP, dport=8081), R.NO_SERVICE),
    row("no machine", own_tcp(4, dst=p.VIP, dport=81), R.NO_BACKEND),
    row("needs the proxy", own_tcp(4, dst=p.VIP, dport=8443), R.NEEDS_PROXY),
    row("TTL 1", own_tcp(4, dst=p.VIP, dport=80, ttl=1), R.TTL),
    row("GRE to a VIP", p.from_vm(4, dst=p.VIP, proto=47) / Raw(bytes(8)), R.PROTO),
    row("a ping to nobody's address", p.from_vm(4, dst=p.FREE_VIP) / ICMP(), R.VIP_UNALLOCATED),
    row(
        "an ICMP error to a VIP",
        p.from_vm(4, dst=p.VIP) / ICMP(type=3) / Raw(bytes(28)),
        R.ICMP_TYPE,
    ),
    row(
        "7 bytes of ICMP",
        p.from_vm(4, dst=p.VIP, proto=1) / Raw(b"\x08" + bytes(6)),
        R.BAD_L4_HEADER,
    ),
    row(
        "7 bytes of ICMP and padding",
        p.from_vm(4, dst=p.VIP, proto=1) / Raw(b"\x08" + bytes(6)) / Padding(bytes(20)),
        R.BAD_L4_HEADER,
    ),
    row("a ping in fragments", p.from_vm(4, dst=p.VIP, flags="MF") / ICMP(), R.ICMP_FRAGMENT),
]


@pytest.mark.parametrize(("packet", "reason"), HAIRPIN_DROPPED)
def test_hairpin_dropped(rig: Rig, packet: Packet, reason: DropReason) -> None:
    assert rig.vm(4, packet) == shot(packet, reason)


@pytest.mark.parametrize(
    "ping",
    [
        row("a ping", ICMP(type=8, id=3, seq=4) / Raw(b"data")),
        row("a ping of zeros", ICMP(type=8, id=0, seq=0) / Raw(bytes(8))),
        row("a ping without data", ICMP(type=8, id=3, seq=4)),
    ],
)
def test_ping_to_a_vip(rig: Rig, ping: Packet) -> None:
    packet = p.from_vm(4, dst=p.VIP) / ping
    answer = packet.copy()
    answer[Ether].dst, answer[Ether].src = p.vm_mac(4), p.gateway_mac(4)
    answer[IP].src, answer[IP].dst = p.VIP, p.private_ip(4)
    answer[ICMP].type = 0
    assert rig.vm(4, packet) == Outcome(Tc.REDIRECT, bytes(answer), counts={Count.ECHO: 1})
