# SPDX-License-Identifier: Apache-2.0
"""What vm_tc should do with a machine's IPv6, in plain Python, for the
differential test.

Written from the rules (contract, docs/drops.md, the RFCs), not from the C:
addresses are integers and fields are shifted out of them, headers are parsed by
``struct``, checksums computed over bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

from flyebpf.model.reasons import Count, DropReason
from tests.bpf.arithmetic import checksum, get16
from tests.bpf.arithmetic6 import (
    GATEWAY,
    ICMP6,
    TCP,
    UDP,
    Drop,
    Upper,
    check_options,
    check_size,
    from_gateway,
    one_hop_less,
    ones_sum,
    pseudo,
    walk,
    with_mss,
)
from tests.bpf.rig import Tc

R = DropReason
TOO_BIG, ECHO, PONG, QUERY, SOLICIT_ROUTER, ADVERTISE_ROUTER = 2, 128, 129, 130, 133, 134
SOLICIT, ADVERTISE, REDIRECT = 135, 136, 137
REPORTS = (131, 132, 143)
NAMESERVER = 0xFDAA << 112 | 3
PEER = 10
QUOTE = 1280 - 48
ETHERTYPE = b"\x86\xdd"


@dataclass
class Machine:
    """A machine of this host. ``network`` 0: it has no 6PN address."""

    mac: bytes
    gateway_mac: bytes
    network: int
    number: int
    live: bool = True


class Verdict(NamedTuple):
    verdict: Tc
    frame: bytes
    reason: DropReason | None = None
    counts: tuple[Count, ...] = ()


class Fields(NamedTuple):
    """Of an address in fdaa::/16, as machines see it."""

    network: int
    host: int
    machine: int
    suffix: int


def fields_of(address: int) -> Fields:
    return Fields(
        address >> 80 & 0xFFFFFFFF,
        address >> 48 & 0xFFFFFFFF,
        address >> 16 & 0xFFFFFFFF,
        address & 0xFFFF,
    )


@dataclass
class Packet:
    sender: Machine
    frame: bytes
    gso_size: int
    upper: Upper = field(init=False)

    @property
    def source(self) -> int:
        return int.from_bytes(self.frame[22:38], "big")

    @property
    def target(self) -> int:
        return int.from_bytes(self.frame[38:54], "big")

    @property
    def hops(self) -> int:
        return self.frame[21]

    @property
    def message(self) -> bytes:
        return self.frame[self.upper.at : self.upper.end]

    @property
    def is_icmp(self) -> bool:
        return self.upper.proto == ICMP6 and not self.upper.later


@dataclass
class Model6:
    """A host with its machines, by their numbers; ``hosts``: other hosts."""

    host: int
    mtu: int
    machines: dict[int, Machine]
    hosts: set[int]
    peers: bool = False

    def vm(self, number: int, frame: bytes, gso_size: int = 0) -> Verdict:
        """What becomes of a frame of a machine; its ethertype is IPv6."""
        packet = Packet(self.machines[number], frame, gso_size)
        try:
            self.check(packet)
            return self.route(packet)
        except Drop as drop:
            counts = () if drop.reason else (Count.ND,)
            return Verdict(Tc.SHOT, frame, drop.reason, counts)

    # -- what it is --------------------------------------------------------------

    def check(self, packet: Packet) -> None:
        frame = packet.frame
        if len(frame) < 54:
            raise Drop(R.TRUNCATED)
        if frame[6:12] != packet.sender.mac:
            raise Drop(R.SPOOFED_MAC)
        if frame[12:14] != ETHERTYPE:
            raise Drop(R.ETHERTYPE)
        if frame[14] >> 4 != 6:
            raise Drop(R.IPV6_HEADER)
        end = len(frame) if packet.gso_size else 54 + get16(frame, 18)
        if end > len(frame):
            raise Drop(R.TRUNCATED)
        if not (self.owns(packet.sender, packet.source) or self.is_on_link(packet.source)):
            raise Drop(R.SPOOFED_IP)
        packet.upper = walk(frame, end)
        check_size(packet.upper)

    def owns(self, machine: Machine, address: int) -> bool:
        """Whether it is in the machine's /112."""
        if not machine.network or address >> 112 != 0xFDAA:
            return False
        return fields_of(address)[:3] == (machine.network, self.host, machine.number)

    @staticmethod
    def is_on_link(address: int) -> bool:
        """A link-local address that the machine may have, or none yet."""
        return address == 0 or (address >> 64 == 0xFE80 << 48 and address != GATEWAY)

    # -- where it goes -----------------------------------------------------------

    def route(self, packet: Packet) -> Verdict:
        kind = packet.message[0] if packet.is_icmp else None
        if kind is not None and SOLICIT_ROUTER <= kind <= REDIRECT:
            return self.neighbour(packet, kind)
        if packet.target >> 120 == 0xFF:
            self.group(packet, kind)
        if packet.frame[0] & 1:
            raise Drop(R.VM_MULTICAST)
        if packet.target >> 112 == 0xFDAA:
            return self.sixpn(packet, kind)
        if packet.target >> 118 == 0xFE80 >> 6:
            return self.link_local(packet, kind)
        raise Drop(R.VM_FRAGMENT if self.may_answer(packet) else R.IPV6)

    def may_answer(self, packet: Packet) -> bool:
        """Of public destinations: no flow is known here, so at most it is a fragment
        of an answer, whose first one was not seen."""
        first = packet.target >> 96
        public = first and first >> 22 != 0xFE800000 >> 22 and first >> 24 != 0xFF
        own = self.owns(packet.sender, packet.source) and packet.source & 0xFFFF == 2
        in_pool = packet.target >> 80 == 0x20010DB8000F
        return bool(packet.upper.later and public and own and not in_pool)

    def group(self, packet: Packet, kind: int | None) -> None:
        if kind is None or packet.upper.fragment or kind not in (QUERY, *REPORTS):
            raise Drop(R.VM_MULTICAST)
        raise Drop(R.ND_TYPE if kind == QUERY else None)

    def link_local(self, packet: Packet, kind: int | None) -> Verdict:
        """Only a ping of the gateway."""
        if packet.target != GATEWAY or packet.upper.extended or kind != ECHO or packet.message[1]:
            raise Drop(R.LINK_LOCAL)
        if packet.source == 0:
            raise Drop(R.SPOOFED_IP)
        body = packet.frame[54:]
        check = 0xFFFF - get16(body, 2)
        check = 0xFFFF - ones_sum(check, 0xFFFF - (ECHO << 8), PONG << 8)
        header = packet.frame[14:20] + bytes((ICMP6, 64))
        header += GATEWAY.to_bytes(16, "big") + packet.frame[22:38]
        body = bytes((PONG, body[1])) + check.to_bytes(2, "big") + body[4:]
        return Verdict(Tc.REDIRECT, self.back(packet, header + body), counts=(Count.ECHO,))

    @staticmethod
    def back(packet: Packet, rest: bytes) -> bytes:
        return packet.sender.mac + packet.sender.gateway_mac + ETHERTYPE + rest

    # -- neighbours --------------------------------------------------------------

    def neighbour(self, packet: Packet, kind: int) -> Verdict:
        if packet.upper.extended or kind in (ADVERTISE_ROUTER, REDIRECT):
            raise Drop(R.ND_TYPE)
        message = packet.message
        fixed = 8 if kind == SOLICIT_ROUTER else 24
        room = len(message) - fixed
        if room < 0 or room > 24 or room % 8 or message[1] or packet.hops != 255:
            raise Drop(R.BAD_L4_HEADER)
        if checksum(pseudo(packet.source, packet.target, message)):
            raise Drop(R.BAD_L4_HEADER)
        check_options(message[fixed:], packet.sender.mac)
        target = int.from_bytes(message[8:24], "big")
        if kind == SOLICIT:
            return self.solicit(packet, target)
        mine = self.owns(packet.sender, target)
        link = target >> 118 == 0xFE80 >> 6 and target != GATEWAY
        if kind == ADVERTISE and not (mine or link):
            raise Drop(R.SPOOFED_ND)
        raise Drop(None)

    def solicit(self, packet: Packet, target: int) -> Verdict:
        if target >> 120 == 0xFF or target == 0:
            raise Drop(R.BAD_L4_HEADER)
        group = 0xFF02 << 112 | 0x1FF << 24 | target & 0xFFFFFF
        known = packet.target == target and packet.source != 0
        if packet.target != group and not known:
            raise Drop(R.SPOOFED_ND)
        if packet.source == 0 or self.owns(packet.sender, target):
            raise Drop(None)
        if target >> 118 == 0xFE80 >> 6 and target != GATEWAY:
            raise Drop(R.LINK_LOCAL)
        message = bytes((ADVERTISE, 0, 0, 0, 0xE0, 0, 0, 0)) + target.to_bytes(16, "big")
        message += b"\x02\x01" + packet.sender.gateway_mac
        answer = from_gateway(packet.source, message, 255)
        return Verdict(Tc.REDIRECT, self.back(packet, answer), counts=(Count.ND,))

    # -- its network -------------------------------------------------------------

    def sixpn(self, packet: Packet, kind: int | None) -> Verdict:
        if not self.owns(packet.sender, packet.source):
            raise Drop(R.SPOOFED_IP)
        if packet.target == NAMESERVER:
            return to_nameserver(packet)
        to = fields_of(packet.target)
        self.check_target(packet, to)
        check_protocol(packet, kind)
        if packet.hops <= 1:
            raise Drop(R.TTL)
        if to.host != self.host:
            return self.to_host(packet, to, kind)
        if to.machine == PEER:
            if not self.peers:
                raise Drop(R.SIXPN_MACHINE)
            return Verdict(Tc.REDIRECT, one_hop_less(packet.frame), counts=(Count.PEER_OUT,))
        return self.to_machine(packet, to)

    def check_target(self, packet: Packet, to: Fields) -> None:
        if to.network == 0 or to.network >> 31:
            raise Drop(R.SIXPN_ADDRESS)
        if to.network != packet.sender.network:
            raise Drop(R.SIXPN_NETWORK)
        if to.host == 1:
            raise Drop(R.NEEDS_PROXY)
        if not to.host >> 31 or to.machine == 0:
            raise Drop(R.SIXPN_ADDRESS)

    def to_machine(self, packet: Packet, to: Fields) -> Verdict:
        for machine in self.machines.values():
            if machine.live and (machine.network, machine.number) == (to.network, to.machine):
                frame = machine.mac + machine.gateway_mac + one_hop_less(packet.frame)[12:]
                return Verdict(Tc.REDIRECT, frame, counts=(Count.SIXPN_LOCAL,))
        raise Drop(R.SIXPN_MACHINE)

    def to_host(self, packet: Packet, to: Fields, kind: int | None) -> Verdict:
        if to.host not in self.hosts:
            raise Drop(R.SIXPN_HOST)
        if wire_length(packet) > self.mtu:
            return self.too_big(packet, kind)
        frame, counts = one_hop_less(packet.frame), (Count.SIXPN_OUT,)
        upper = packet.upper
        if upper.proto == TCP and not upper.later and frame[upper.at + 13] & 2:
            lowered = with_mss(frame, upper.at, self.mtu - 60)
            if lowered != frame:
                frame, counts = lowered, (Count.MSS, Count.SIXPN_OUT)
        addresses = b""
        for at in (22, 38):
            addresses += frame[at : at + 2] + frame[at + 6 : at + 10]
            addresses += frame[at + 2 : at + 6] + frame[at + 10 : at + 16]
        return Verdict(Tc.REDIRECT, frame[:22] + addresses + frame[54:], counts=counts)

    def too_big(self, packet: Packet, kind: int | None) -> Verdict:
        if len(packet.frame) < 14 + QUOTE or (kind is not None and kind < ECHO):
            raise Drop(R.TOO_BIG)
        message = bytes((TOO_BIG, 0, 0, 0)) + self.mtu.to_bytes(4, "big")
        message += packet.frame[14 : 14 + QUOTE]
        answer = self.back(packet, from_gateway(packet.source, message, 64))
        return Verdict(Tc.REDIRECT, answer, R.TOO_BIG, (Count.TOO_BIG,))


def to_nameserver(packet: Packet) -> Verdict:
    """The next program at the interface has the rest."""
    upper = packet.upper
    port = int.from_bytes(packet.frame[upper.at + 2 : upper.at + 4], "big")
    if upper.extended or upper.proto not in (TCP, UDP) or port != 53:
        raise Drop(R.VM_TO_HOST)
    return Verdict(Tc.UNSPEC, packet.frame)


def check_protocol(packet: Packet, kind: int | None) -> None:
    if packet.upper.later or packet.upper.proto == TCP:
        return
    if packet.upper.proto == UDP:
        if packet.message[:4] == struct.pack("!HH", 547, 546):
            raise Drop(R.ND_TYPE)
        return
    if kind is None:
        raise Drop(R.PROTO)
    if kind > PONG:
        raise Drop(R.ND_TYPE)


def wire_length(packet: Packet) -> int:
    """Of the packet with all that follows it; of a train, of a segment."""
    if not packet.gso_size:
        return len(packet.frame) - 14
    at = packet.upper.at
    header = 8
    if packet.upper.proto == TCP and at + 12 < len(packet.frame):
        header = (packet.frame[at + 12] >> 4) * 4
    return at - 14 + header + packet.gso_size
