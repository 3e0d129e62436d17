# SPDX-License-Identifier: Apache-2.0
"""Every drop reason and every count is reached; docs/drops.md has them all."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from flyebpf.bpf.layout import FLOW_CONFIRMED
from flyebpf.model.reasons import DESCRIPTIONS, Count, DropReason
from tests import packets as p
from tests import packets6 as p6
from tests.bpf import dnsworld, far
from tests.bpf.fast import flooded
from tests.bpf.rig import Outcome, Rig, Tc, Xdp
from tests.bpf.test_edge_xdp import changed, most_metadata
from tests.bpf.test_host_tc import ANSWER, sent

ROOT = Path(__file__).resolve().parents[2]
R = DropReason
Way = Callable[[Rig], Outcome]

UNREACHABLE = {
    R.NONE: "no drop",
    R.REWRITE: "bounds are checked before anything is written, so only a kernel"
    " that has no memory to make an skb writable gets there",
}


def fragment_of_unknown(number: int) -> bytes:
    return bytes(p.fragments_of(p.vm_udp(number, payload=bytes(200)))[1])


def conflict(rig: Rig) -> Outcome:
    rig.xdp(p.client_tcp(22, "S", dst=p.VIP))
    rig.vm(1, p.vm_tcp(1, 2222, "SA"))
    rig.xdp(p.client_tcp(22, "A", dst=p.VIP))
    return rig.xdp(p.client_tcp(22, dst=p.VIP2))


def vm_to(dst: str) -> Way:
    return lambda rig: rig.vm(1, p.vm_tcp(1, 50000, "S", dst=dst))


def vm6_to(dst: str, **fields: int) -> Way:
    return lambda rig: rig.vm(1, p6.tcp(1, dst=dst, **fields))


def longer_than_the_mesh_takes(rig: Rig) -> Outcome:
    return rig.vm(1, p6.udp(1, bytes(1400), dst=p6.remote(9)))


def from_mesh(frame: bytes) -> Way:
    def way(rig: Rig) -> Outcome:
        far.build(rig)
        return far.mesh(rig, frame)

    return way


def sixpn_from_mesh(src: str, dst: str) -> Way:
    return from_mesh(p6.in_mesh_form(p6.udp(9, src=src, dst=dst)))


def error_longer_than_the_mesh_takes(rig: Rig) -> Outcome:
    """It is not answered by another error."""
    far.build(rig)
    rig.xdp(p.client_tcp(90, "S"))
    quoted = IP(src=p.VIP, dst=p.CLIENT) / TCP(sport=90, dport=p.CLIENT_PORT) / bytes(1400)
    return rig.xdp(p.icmp_error(quoted))


def no_mesh(rig: Rig) -> Outcome:
    far.build(rig)
    rig.settings.mesh_mtu = 0
    rig.write_settings()
    return rig.xdp(p.client_udp(90))


def peer_to_peer(rig: Rig) -> Outcome:
    """There is no Ethernet header, but a test run looks for an Ethertype: here it
    is a part of the network's number."""
    rig.settings.peers = rig.ifindex["lan0"]
    rig.write_settings()
    src, dst = (p6.peer(number, 0x000186DD) for number in (1, 2))
    return rig.tc(bytes(p6.udp(1, bytes(20), src=src, dst=dst))[14:], "lan0", program="peer_tc")


def query(rig: Rig, name: str) -> Outcome:
    dnsworld.build(rig)
    return rig.tc(dnsworld.asked(dnsworld.query(name)), "vm1", program="dns")


def many_queries(rig: Rig) -> Outcome:
    """A new period of the limit may begin meanwhile: then once more."""
    fast, frame = dnsworld.fast(rig, 1), dnsworld.raw(dnsworld.query("nobody.internal"))
    query(rig, "nobody.internal")
    for _ in range(20):
        for _ in range(300):
            fast.run(frame)
        outcome = query(rig, "nobody.internal")
        if outcome.reason is not None:
            break
    return outcome


TO_HERE = far.to_here(p.SYN)
HERE = p6.address(2)
IPV6 = Ether(src=p.ROUTER_MAC, dst=p.HOST_MAC, type=0x86DD)

WAYS: dict[DropReason, Way] = {
    R.TRUNCATED: lambda rig: rig.xdp(bytes(p.SYN)[:40]),
    R.BAD_IP_HEADER: lambda rig: rig.xdp(p.from_uplink(ihl=4) / TCP()),
    R.BAD_SOURCE: lambda rig: rig.xdp(p.client_tcp(src="127.0.0.1")),
    R.PRIVATE_DST: lambda rig: rig.xdp(p.client_tcp(dst=p.private_ip(1))),
    R.VIP_UNALLOCATED: lambda rig: rig.xdp(p.client_tcp(dst=p.FREE_VIP)),
    R.NO_SERVICE: lambda rig: rig.xdp(p.client_tcp(9)),
    R.NO_BACKEND: lambda rig: rig.xdp(p.client_udp(81)),
    R.PROTO: lambda rig: rig.xdp(p.from_uplink(proto=47) / Raw(bytes(8))),
    R.TTL: lambda rig: rig.xdp(p.client_tcp(ttl=1)),
    R.FRAG_NO_FIRST: lambda rig: rig.xdp(p.from_uplink(frag=9, proto=17) / Raw(bytes(8))),
    R.FRAG_TINY: lambda rig: rig.xdp(p.from_uplink(flags="MF", proto=6) / Raw(bytes(8))),
    R.BAD_L4_HEADER: lambda rig: rig.xdp(p.client_tcp(0)),
    R.ICMP_TYPE: lambda rig: rig.xdp(p.from_uplink() / ICMP(type=13)),
    R.ICMP_NO_FLOW: lambda rig: rig.xdp(
        p.from_uplink() / ICMP(type=3) / IP(src=p.CLIENT, dst=p.VIP) / TCP()
    ),
    R.REDIRECT: lambda rig: rig.xdp(p.client_udp(82), meta=most_metadata(rig)),
    R.NEEDS_PROXY: lambda rig: rig.xdp(p.client_tcp(8443)),
    R.ICMP_FRAGMENT: lambda rig: rig.xdp(p.from_uplink(flags="MF") / ICMP(type=8)),
    R.GROUP_MAC: lambda rig: rig.xdp(changed(p.SYN, Ether, dst="ff:ff:ff:ff:ff:ff")),
    R.MESH_OUTSIDE: lambda rig: rig.xdp(IPV6 / bytes(p6.udp(1))[14:]),
    R.TOO_BIG: error_longer_than_the_mesh_takes,
    R.NO_HOST: no_mesh,
    R.MESH_FORM: from_mesh(bytes(p6.udp(9, src=p6.remote(9), dst=HERE))),
    R.MESH_SOURCE: sixpn_from_mesh(p6.remote(9, p6.NO_HOST), HERE),
    R.MESH_NOT_HERE: from_mesh(far.to_here(p.SYN, dst=p6.OTHER_HOST)),
    R.MESH_MACHINE: sixpn_from_mesh(p6.remote(9), p6.address(8)),
    R.MESH_NETWORK: sixpn_from_mesh(p6.remote(9), p6.address(4)),
    R.MESH_INNER: from_mesh(TO_HERE[:54] + b"\x65" + TO_HERE[55:]),
    R.MESH_NO_FLOW: from_mesh(far.back_here(p.client_tcp(9, src=p.VIP, dst=p.alias_ip(4)))),
    R.PEER_SOURCE: lambda rig: rig.tc(p.SYN, "lan0", program="peer_tc"),
    R.UNKNOWN_VM: lambda rig: rig.tc(p.SYN, "lan0"),
    R.SPOOFED_MAC: lambda rig: rig.vm(2, p.vm_tcp(1)),
    R.SPOOFED_IP: lambda rig: rig.vm(1, p.vm_tcp(1, src=p.private_ip(2))),
    R.SPOOFED_ARP: lambda rig: rig.vm(1, p.vm_arp(1, p.VIP, psrc=p.private_ip(2))),
    R.ETHERTYPE: lambda rig: rig.vm(1, Ether(src=p.vm_mac(1), type=0x88CC) / Raw(bytes(46))),
    R.IPV6: vm6_to("2001:db8::1"),
    R.IPV6_HEADER: vm6_to(p6.address(2), version=5),
    R.SPOOFED_ND: lambda rig: rig.vm(1, p6.advert(1, p6.address(2))),
    R.ND_TYPE: lambda rig: rig.vm(1, p6.udp(1, sport=547, dport=546)),
    R.SIXPN_NETWORK: vm6_to(p6.address(4)),
    R.SIXPN_MACHINE: vm6_to(p6.address(7)),
    R.SIXPN_HOST: vm6_to(p6.remote(9, p6.NO_HOST)),
    R.SIXPN_ADDRESS: vm6_to("fdaa::4"),
    R.LINK_LOCAL: vm6_to("fe80::2"),
    R.DNS_LIMIT: many_queries,
    R.HOST_SOURCE: lambda rig: rig.tc(p.SYN, "lan0", program="host_tc"),
    R.NOT_FOR_VM: lambda rig: rig.tc(p.SYN, "vm1", program="vm_out"),
    R.VM_TO_HOST: vm_to("192.0.2.1"),
    R.VM_TO_PRIVATE: vm_to(p.private_ip(2)),
    R.VM_NOT_PUBLIC: vm_to("10.0.0.1"),
    R.VM_NO_ROUTE: vm_to("192.88.99.1"),
    R.REPLY_NO_FLOW: lambda rig: rig.vm(1, p.vm_udp(1, 9)),
    R.REPLY_AMBIGUOUS: lambda rig: rig.vm(2, p.vm_udp(2, 6000)),
    R.REPLY_CLIENT_GONE: lambda rig: rig.vm(1, p.vm_udp(1, dst=p.alias_ip(4))),
    R.VM_MULTICAST: vm_to("224.0.0.1"),
    R.VM_FRAGMENT: lambda rig: rig.vm(1, fragment_of_unknown(1)),
    R.FLOW_CONFLICT: conflict,
}


@pytest.mark.parametrize("reason", list(WAYS), ids=lambda reason: reason.label)
def test_reason_is_reached(rig: Rig, reason: DropReason) -> None:
    outcome = WAYS[reason](rig)
    assert outcome.reason == reason
    assert outcome.verdict == (Tc.SHOT if isinstance(outcome.verdict, Tc) else Xdp.DROP)


def test_every_reason_has_a_way() -> None:
    assert set(WAYS) | set(UNREACHABLE) == set(DropReason)
    assert not set(WAYS) & set(UNREACHABLE)


def full(rig: Rig) -> list[Outcome]:
    """A bucket of flows that nobody confirmed, then of such that somebody did."""
    rig.settings.flow_buckets = 1
    rig.write_settings()
    outcomes = [rig.xdp(p.client_tcp(sport=port)) for port in range(1000, 1006)]
    rig.change_flows(state=FLOW_CONFIRMED)
    return [*outcomes, rig.xdp(p.client_tcp(sport=1010))]


def far_away(rig: Rig) -> Outcome:
    far.build(rig)
    return rig.xdp(p.client_udp(90))


def to_a_peer(rig: Rig) -> Outcome:
    rig.settings.peers = rig.ifindex["lan0"]
    rig.write_settings()
    return rig.vm(1, p6.udp(1, dst=p6.peer()))


COUNTS: dict[Count, Callable[[Rig], Outcome | list[Outcome]]] = {
    Count.ECHO: lambda rig: rig.xdp(p.ECHO),
    Count.RST: lambda rig: rig.xdp(p.client_tcp(81)),
    Count.FLOW_NEW: lambda rig: rig.xdp(p.SYN),
    Count.FLOW_EVICTED: full,
    Count.FLOW_REJECTED: full,
    Count.VIA_TC: lambda rig: rig.xdp(p.client_udp(82)),
    Count.OWN: vm_to(p.CLIENT),
    Count.HAIRPIN: lambda rig: rig.vm(4, p.vm_tcp(4, 50000, "S", dst=p.VIP, dport=80)),
    Count.ARP: lambda rig: rig.vm(1, p.vm_arp(1, p.VIP)),
    Count.SIXPN_LOCAL: vm6_to(p6.address(2)),
    Count.SIXPN_OUT: vm6_to(p6.remote(9)),
    Count.ND: lambda rig: rig.vm(1, p6.solicit(1, p6.GATEWAY)),
    Count.TOO_BIG: longer_than_the_mesh_takes,
    Count.ICMP_LIMITED: lambda rig: flooded(rig, p6.udp(1, bytes(1400), dst=p6.remote(9))),
    Count.MSS: lambda rig: rig.vm(1, p6.tcp(1, "S", dst=p6.remote(9), options=[("MSS", 1440)])),
    Count.PEER_OUT: to_a_peer,
    Count.PEER_IN: peer_to_peer,
    Count.MESH_OUT: far_away,
    Count.MESH_IN: from_mesh(TO_HERE),
    Count.MESH_RETURN: from_mesh(far.back_here(p.client_tcp(9, src=p.VIP, dst=p.CLIENT))),
    Count.DNS_ANSWER: lambda rig: query(rig, "web.internal"),
    Count.DNS_PASSED: lambda rig: query(rig, "nobody.internal"),
    Count.HOST_OUT: lambda rig: rig.tc(sent(ANSWER), "lan0", program="host_tc"),
    Count.SIXPN_IN: sixpn_from_mesh(p6.remote(9), HERE),
}
ELSEWHERE = {Count.PROXY, Count.PROXY_STEERED, Count.PROXY_REFUSED, Count.PROXY_AWAY}
"""Those that test_proxy.py reaches, each with what leads to it."""


@pytest.mark.parametrize(
    "what", [c for c in Count if c not in ELSEWHERE], ids=lambda what: what.name.lower()
)
def test_count_is_reached(rig: Rig, what: Count) -> None:
    outcome = COUNTS[what](rig)
    outcomes = outcome if isinstance(outcome, list) else [outcome]
    assert any(what in one.counts for one in outcomes)


def c_enum(header: str, name: str, prefix: str) -> dict[str, int]:
    """``{name without prefix: number}`` of an enum of bpf/include."""
    text = (ROOT / "bpf" / "include" / header).read_text()
    body = re.search(rf"enum {name} {{(.*?)\n}};", text, re.DOTALL)
    assert body, f"no enum {name} in {header}"
    found = re.findall(rf"^\s*{prefix}(\w+) = (\d+)", body[1], re.MULTILINE)
    return {label: int(number) for label, number in found}


def test_reasons_are_those_of_c() -> None:
    enum = c_enum("reasons.h", "drop_reason", "DROP_")
    assert enum.pop("REASON_MAX") > max(DropReason)
    assert enum == {reason.name: reason.value for reason in DropReason}


def test_counts_are_those_of_c() -> None:
    enum = c_enum("layout.h", "count", "COUNT_")
    assert enum.pop("MAX") > max(Count)
    assert enum == {what.name: what.value for what in Count}


def test_every_reason_is_described() -> None:
    assert set(DESCRIPTIONS) == set(DropReason) - {R.NONE}


def test_every_reason_is_used() -> None:
    """A reason that no program gives would be a promise to operators. The
    policy's are given by the plan."""
    sources = "".join(
        path.read_text()
        for path in sorted((ROOT / "bpf").rglob("*.[ch]"))
        if path.name != "reasons.h"
    )
    by_policy = {R.VM_TO_PRIVATE}
    for reason in set(DropReason) - by_policy:
        assert re.search(rf"\bDROP_{reason.name}\b", sources), reason.name


def documented() -> dict[str, list[str]]:
    """Rows of the tables in docs/drops.md that begin with a label."""
    text = (ROOT / "docs" / "drops.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", text, re.MULTILINE)
    return {label: [cell.strip() for cell in rest.split(" | ")] for label, rest in rows}


def test_every_reason_is_documented() -> None:
    """With what it means, where it is counted, and what to do."""
    rows = documented()
    assert set(rows) == {reason.label for reason in DropReason} - {"none"}
    for label, cells in rows.items():
        assert len(cells) == 3, label
        assert all(len(cell) > 1 for cell in cells), label
