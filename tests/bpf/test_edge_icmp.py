# SPDX-License-Identifier: Apache-2.0
"""edge_xdp: ICMP echoes, and errors about what machines have sent as a VIP."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Padding, Raw

from flyebpf.model.reasons import Count, DropReason
from tests import packets as p
from tests.bpf import world as w
from tests.bpf.expect import dropped, received, row
from tests.bpf.rig import Outcome, Rig, Xdp

R = DropReason


def echo_reply(packet: Packet) -> bytes:
    """The answer to a ping: turned round, with a TTL of its own."""
    new = packet.copy()
    new[Ether].src, new[Ether].dst = packet[Ether].dst, packet[Ether].src
    new[IP].src, new[IP].dst, new[IP].ttl = packet[IP].dst, packet[IP].src, 64
    new[ICMP].type = 0
    del new[ICMP].chksum
    return bytes(new)


ECHOES = [
    row("a ping", p.ECHO),
    row("a ping of zeros, whose answer must not have checksum 0", p.ECHO_ZERO),
    row("a ping without data", p.from_uplink() / ICMP(type=8, id=1, seq=2)),
    row("an odd number of bytes", p.from_uplink() / ICMP(type=8, id=1) / Raw(b"abc")),
    row("padding stays", p.from_uplink() / ICMP(type=8, id=1) / Padding(b"\xff" * 18)),
    row("IP options stay", p.from_uplink(options=[b"\x94\x04\0\0"]) / ICMP(type=8, id=1)),
    row("TTL 255", p.from_uplink(ttl=255) / ICMP(type=8, id=9)),
    row("1472 bytes", p.from_uplink() / ICMP(type=8, id=9) / Raw(b"\xff" * 1472)),
    row("the other VIP", p.from_uplink(dst=p.VIP2) / ICMP(type=8, id=9)),
]


@pytest.mark.parametrize("packet", ECHOES)
def test_echo(rig: Rig, packet: Packet) -> None:
    assert rig.xdp(packet) == Outcome(Xdp.TX, echo_reply(packet), counts={Count.ECHO: 1})


def machine_sent(packet: Packet) -> Packet:
    """IP on, as a router on the way to the client has it: TTL lower."""
    sent = Ether(bytes(packet))[IP]
    sent.ttl -= 5
    del sent.chksum
    return IP(bytes(sent))


def as_vip(packet: Packet, port: int, vip: str = p.VIP) -> Packet:
    """A machine's packet on its way to the client."""
    return machine_sent(Ether(p.to_client(packet, vip, port)))


def error_to_vm(error: Packet, number: int, internal: int) -> bytes:
    """The error as machine ``number`` should get it: about what it sent. The
    quoted L4 checksum is the one that the client would have seen."""
    built = Ether(bytes(error))
    quoted = IP(bytes(built[ICMP].payload))
    layer = TCP if quoted.proto == 6 else UDP
    address = p.private_ip(number) if layer is TCP else p.services_ip(number)
    raw = bytearray(bytes(built[ICMP].payload))
    header = quoted.ihl * 4
    raw[12:16] = bytes(IP(src=address, dst=address))[12:16]
    raw[10:12] = b"\0\0"
    raw[:header] = fresh_header(bytes(raw[:header]))
    raw[header : header + 2] = internal.to_bytes(2, "big")
    new = Ether(dst=p.vm_mac(number), src=p.gateway_mac(number)) / IP(
        src=error[IP].src, dst=address, ttl=error[IP].ttl - 1, id=error[IP].id
    )
    return bytes(new / ICMP(type=error[ICMP].type, code=error[ICMP].code) / Raw(bytes(raw)))


def fresh_header(header: bytes) -> bytes:
    """An IP header with the checksum that scapy computes for it."""
    parsed = IP(header)
    del parsed.chksum
    return bytes(parsed)[: len(header)]


REPLY = p.vm_tcp(1, flags="PA", payload=b"HTTP/1.1 200 OK\r\n\r\n")
ANSWER = p.vm_udp(1)
OPTIONS = p.from_vm(1, options=[b"\x94\x04\0\0"]) / TCP(sport=8080, dport=p.CLIENT_PORT, flags="A")

ERRORS = [
    row("TCP port unreachable", REPLY, 80, 8080, w.WEB, 3, 3),
    row("fragmentation needed", REPLY, 80, 8080, w.WEB, 3, 4),
    row("host unreachable", REPLY, 80, 8080, w.WEB, 3, 1),
    row("TTL exceeded", REPLY, 80, 8080, w.WEB, 11, 0),
    row("parameter problem", REPLY, 80, 8080, w.WEB, 12, 0),
    row("UDP port unreachable", ANSWER, 53, 5353, w.DNS, 3, 3),
    row("a quote with IP options", OPTIONS, 80, 8080, w.WEB, 3, 3),
]


@pytest.mark.parametrize("known", [True, False], ids=["flow known", "flow chosen again"])
@pytest.mark.parametrize(("sent", "port", "internal", "service", "type", "code"), ERRORS)
def test_error(
    rig: Rig,
    *,
    sent: Packet,
    port: int,
    internal: int,
    service: int,
    type: int,
    code: int,
    known: bool,
) -> None:
    if known:
        rig.xdp(p.client_tcp(80, "S") if TCP in sent else p.client_udp())
    error = p.icmp_error(as_vip(sent, port), type, code)
    before = len(rig.flows())
    assert rig.xdp(error) == Outcome(
        Xdp.REDIRECT,
        error_to_vm(error, 1, internal),
        stats={service: received(error, new=False)},
    )
    assert len(rig.flows()) == before, "an error opens no flow"


def test_error_quotes_eight_bytes(rig: Rig) -> None:
    """The least that RFC 792 asks for: IP header and 8 bytes."""
    quoted = IP(bytes(as_vip(REPLY, 80))[:28])
    error = p.from_uplink(src=p.FAR_ROUTER) / ICMP(type=3, code=4) / Raw(bytes(quoted)[:28])
    assert rig.xdp(error).packet == error_to_vm(error, 1, 8080)


def test_error_follows_the_flow(rig: Rig) -> None:
    """Not the table, when that has changed since."""
    rig.xdp(p.client_tcp(443, "S"))
    number = next(iter(rig.flows())).slot
    rig.maps["tables"].update((2).to_bytes(4, "little"), bytes(8))
    error = p.icmp_error(as_vip(p.vm_tcp(number, 443), 443))
    assert rig.xdp(error).packet == error_to_vm(error, number, 443)


@pytest.mark.parametrize("word", range(0, 0x10000, 0x1111))
def test_error_checksums(rig: Rig, word: int) -> None:
    """Quoted headers with checksums all over the range."""
    quoted = as_vip(p.vm_udp(1, payload=word.to_bytes(2, "big"), id=word), 53)
    error = p.icmp_error(quoted, id=word)
    assert rig.xdp(error).packet == error_to_vm(error, 1, 5353)


def quoting(quoted: Packet, **ip: object) -> Packet:
    return p.icmp_error(quoted, **ip)


def quote_with(**fields: object) -> Packet:
    """REPLY on its way, with other fields in its IP header."""
    quoted = as_vip(REPLY, 80)
    for name, value in fields.items():
        setattr(quoted, name, value)
    return quoted


def short_error(length: int) -> Packet:
    """An error that quotes so many bytes."""
    return (
        p.from_uplink(src=p.FAR_ROUTER)
        / ICMP(type=3, code=3)
        / Raw(bytes(as_vip(REPLY, 80))[:length])
    )


def quote_cut_in_options() -> Packet:
    """28 bytes of quote whose IP header says that it has 60."""
    error = short_error(28)
    error[Raw].load = b"\x4f" + error[Raw].load[1:]
    return error


DROPPED = [
    row("an echo reply that nobody asked for", p.from_uplink() / ICMP(type=0), R.ICMP_TYPE),
    row("an echo request with a code", p.from_uplink() / ICMP(type=8, code=1), R.ICMP_TYPE),
    row("a redirect", p.from_uplink() / ICMP(type=5) / Raw(bytes(28)), R.ICMP_TYPE),
    row("source quench", p.from_uplink() / ICMP(type=4) / Raw(bytes(28)), R.ICMP_TYPE),
    row("a timestamp request", p.from_uplink() / ICMP(type=13), R.ICMP_TYPE),
    row("an address nobody owns", p.from_uplink(dst=p.FREE_VIP) / ICMP(type=8), R.VIP_UNALLOCATED),
    row("the first fragment of a ping", p.fragments_of(p.ECHO, 32)[0], R.ICMP_FRAGMENT),
    row("7 bytes of ICMP", p.from_uplink(proto=1) / Raw(b"\x08" + bytes(6)), R.BAD_L4_HEADER),
    row("an error that quotes nothing", short_error(0), R.BAD_L4_HEADER),
    row("an error that quotes part of IP", short_error(19), R.BAD_L4_HEADER),
    row("an error that quotes only IP", short_error(20), R.BAD_L4_HEADER),
    row("an error that quotes 7 bytes of TCP", short_error(27), R.BAD_L4_HEADER),
    row("a quote of version 6", quoting(quote_with(version=6)), R.BAD_L4_HEADER),
    row("a quote with a header of 4 words", quoting(quote_with(ihl=4)), R.BAD_L4_HEADER),
    row("a quote with a header that is too long", quote_cut_in_options(), R.BAD_L4_HEADER),
    row("a quote of a later fragment", quoting(quote_with(frag=8)), R.ICMP_NO_FLOW),
    row("a quote of another address", quoting(quote_with(src=p.VIP2), dst=p.VIP), R.ICMP_NO_FLOW),
    row("a quote of ICMP", quoting(quote_with(proto=1)), R.ICMP_NO_FLOW),
    row("a quote of a port without service", quoting(as_vip(REPLY, 8081)), R.ICMP_NO_FLOW),
    row("a quote of a service without machine", quoting(as_vip(REPLY, 81)), R.ICMP_NO_FLOW),
    row("a quote of a proxied service", quoting(as_vip(REPLY, 8443)), R.ICMP_NO_FLOW),
]


@pytest.mark.parametrize(("packet", "reason"), DROPPED)
def test_dropped(rig: Rig, packet: Packet, reason: DropReason) -> None:
    assert rig.xdp(packet) == dropped(packet, reason)
    assert rig.flows() == []


def test_error_about_another_vms_connection(rig: Rig) -> None:
    """No router outside has seen a packet for a VM that came by a VIP: an error
    that quotes one is made up, to cut machines of one host off from each other."""
    rig.vm(4, p.vm_udp(4, 1234, src=p.private_ip(4), dst=p.VIP, dport=53))
    (flow,) = rig.flows()
    for client in (p.alias_ip(4), p.private_ip(4), p.VIP2):
        quoted = IP(src=p.VIP, dst=client) / UDP(sport=53, dport=1234)
        error = p.icmp_error(quoted)
        assert rig.xdp(error) == dropped(error, R.ICMP_NO_FLOW)
    assert bytes(rig.flows()[0]) == bytes(flow)


def test_error_for_a_stopped_machine(rig: Rig) -> None:
    rig.xdp(p.client_tcp(80, "S"))
    rig.slot(1, flags=0)
    error = p.icmp_error(as_vip(REPLY, 80))
    assert rig.xdp(error) == dropped(error, R.ICMP_NO_FLOW)
