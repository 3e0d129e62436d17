# SPDX-License-Identifier: Apache-2.0
"""What edge_xdp should do, in plain Python, for the differential test.

Written from the rules (contract, comments of the headers), not from the C:
parses by ``struct``, keeps flows in dictionaries, and computes checksums by
arithmetic modulo 0xffff. Where the C has tables with limits, nothing here has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from flyebpf.bpf.layout import (
    SERVICE_PROXY,
    SLOT_LIVE,
    SLOT_VIA_TC,
    VIP_ALLOCATED,
)
from flyebpf.model.reasons import Count, DropReason
from tests.bpf.arithmetic import (
    ACK,
    ICMP,
    RST,
    SYN,
    TCP,
    UDP,
    Raw,
    adjusted,
    check_transport,
    entry_of,
    fragment_key,
    get16,
    put16,
    reset_for,
    rewrite_ip,
    rewrite_transport,
    tuple_hash,
)
from tests.bpf.rig import Xdp

R = DropReason
ERRORS = (3, 11, 12)


@dataclass
class Service:
    id: int
    table: int
    internal: bytes  # port
    flags: int


@dataclass
class Slot:
    generation: int
    flags: int
    private: bytes
    services: bytes
    mac: bytes
    host_mac: bytes

    def address(self, proto: int) -> bytes:
        """UDP services listen on fly-global-services."""
        return self.services if proto == UDP else self.private


class Flow(NamedTuple):
    slot: int
    service: int
    internal: bytes
    generations: tuple[int, int]


class Target(NamedTuple):
    index: int
    service: int
    internal: bytes
    new: bool


class Verdict(NamedTuple):
    verdict: Xdp
    frame: bytes
    reason: DropReason | None = None


@dataclass
class Model:
    """State of a host, and the packets that change it."""

    seed: int
    pools: list[tuple[int, int, int]]  # prefix, mask, first VIP index
    private: tuple[int, int]  # prefix, mask
    alias: int
    vips: dict[int, int] = field(default_factory=dict)  # index: flags
    services: dict[tuple[int, int, int], Service] = field(default_factory=dict)
    ranges: list[tuple[int, int, range, Service]] = field(default_factory=list)
    tables: dict[int, list[int]] = field(default_factory=dict)
    slots: dict[int, Slot] = field(default_factory=dict)
    generations: dict[int, int] = field(default_factory=dict)  # of service ids
    flows: dict[Raw, Flow] = field(default_factory=dict)
    fragments: dict[bytes, tuple[int, int, bytes, int]] = field(default_factory=dict)
    counts: dict[Count, int] = field(default_factory=dict)
    stats: dict[int, list[int]] = field(default_factory=dict)  # packets, bytes, flows

    def forget(self) -> None:
        """No flows, no fragments."""
        self.flows.clear()
        self.fragments.clear()

    # -- addresses -------------------------------------------------------------

    def vip_of(self, address: int) -> int | None:
        for prefix, mask, base in self.pools:
            if address & mask == prefix:
                return base + (address & ~mask)
        return None

    def is_inside(self, address: int) -> bool:
        """A private address of the cluster, or an alias of one."""
        return address & self.private[1] in (self.private[0], self.alias)

    def is_bad_source(self, address: int) -> bool:
        return (
            address >> 24 in (0, 127)
            or address >> 28 >= 14
            or self.is_inside(address)
            or self.vip_of(address) is not None
        )

    # -- one packet ------------------------------------------------------------

    def edge(self, frame: bytes) -> Verdict:
        """What happens to a frame from an uplink."""
        if len(frame) < 34 or frame[12:14] != b"\x08\x00":
            return Verdict(Xdp.PASS, frame)
        to = int.from_bytes(frame[30:34], "big")
        vip = self.vip_of(to)
        if vip is None:
            if self.is_inside(to):
                return Verdict(Xdp.DROP, frame, R.PRIVATE_DST)
            return Verdict(Xdp.PASS, frame)
        reason = self._check_ip(frame)
        if reason is not None:
            return Verdict(Xdp.DROP, frame, reason)
        return self._for_vip(frame, vip)

    def _for_vip(self, frame: bytes, vip: int) -> Verdict:
        if get16(frame, 20) & 0x1FFF:
            return self._later_fragment(frame)
        proto = frame[23]
        if proto in (TCP, UDP):
            return self._transport(frame, vip)
        if proto == ICMP:
            return self._icmp(frame, vip)
        return Verdict(Xdp.DROP, frame, R.PROTO)

    def _check_ip(self, frame: bytes) -> DropReason | None:
        header, total = (frame[14] & 15) * 4, get16(frame, 16)
        if (frame[0] | frame[6]) & 1:
            return R.GROUP_MAC
        if frame[14] >> 4 != 4 or header < 20 or total < header:
            return R.BAD_IP_HEADER
        if 14 + total > len(frame):
            return R.TRUNCATED
        if self.is_bad_source(int.from_bytes(frame[26:30], "big")):
            return R.BAD_SOURCE
        return R.TTL if frame[22] <= 1 else None

    def _later_fragment(self, frame: bytes) -> Verdict:
        known = self.fragments.get(fragment_key(frame))
        slot = self.slots.get(known[0]) if known else None
        if not known or not slot or not slot.flags & SLOT_LIVE or slot.generation != known[1]:
            return Verdict(Xdp.DROP, frame, R.FRAG_NO_FIRST)
        self._count_in(known[3], get16(frame, 16), new=False)
        out = bytearray(frame)
        rewrite_ip(out, known[2])
        return self._deliver(out, slot)

    def _transport(self, frame: bytes, vip: int) -> Verdict:
        proto, at = frame[23], 14 + (frame[14] & 15) * 4
        room = get16(frame, 16) - (at - 14)
        fragment = bool(get16(frame, 20) & 0x2000)
        reason = check_transport(frame, at, room, fragment)
        if reason is not None:
            return Verdict(Xdp.DROP, frame, reason)
        t = Raw(frame[26:30], frame[30:34], frame[at : at + 2], frame[at + 2 : at + 4], proto)
        opens = proto == TCP and frame[at + 13] & (SYN | ACK) == SYN
        target = self._flow(t) if not opens else None
        if target is None:
            target = self._choose(t, vip, keep=True)
        if isinstance(target, DropReason):
            if target is R.NO_BACKEND and proto == TCP and not fragment:
                return self._reset(frame, at, room)
            return Verdict(Xdp.DROP, frame, target)
        self._count_in(target.service, get16(frame, 16), new=target.new)
        slot = self.slots[target.index]
        address = slot.address(proto)
        if fragment:
            kept = (target.index, slot.generation, address, target.service)
            self.fragments[fragment_key(frame)] = kept
        out = bytearray(frame)
        rewrite_transport(out, at, address, target.internal)
        rewrite_ip(out, address)
        return self._deliver(out, slot)

    def _deliver(self, out: bytearray, slot: Slot) -> Verdict:
        out[0:6], out[6:12] = slot.mac, slot.host_mac
        if slot.flags & SLOT_VIA_TC:
            self._count(Count.VIA_TC)
            return Verdict(Xdp.PASS, bytes(out))
        return Verdict(Xdp.REDIRECT, bytes(out))

    # -- steering ---------------------------------------------------------------

    def _valid(self, slot: int, service: int, generations: tuple[int, int]) -> bool:
        now = self.slots.get(slot)
        return (
            now is not None
            and bool(now.flags & SLOT_LIVE)
            and generations == (now.generation, self.generations.get(service, 0))
        )

    def _flow(self, t: Raw) -> Target | None:
        flow = self.flows.get(t)
        if flow is None or not self._valid(flow.slot, flow.service, flow.generations):
            return None
        return Target(flow.slot, flow.service, flow.internal, new=False)

    def _service(self, vip: int, t: Raw) -> Service | DropReason:
        if not self.vips.get(vip, 0) & VIP_ALLOCATED:
            return R.VIP_UNALLOCATED
        port = int.from_bytes(t.vip_port, "big")
        service = self.services.get((vip, t.proto, port))
        if service is not None:
            return service
        for owner, proto, ports, ranged in self.ranges:
            if (owner, proto) == (vip, t.proto) and port in ports:
                return ranged
        return R.NO_SERVICE

    def _choose(self, t: Raw, vip: int, *, keep: bool) -> Target | DropReason:
        service = self._service(vip, t)
        if isinstance(service, DropReason):
            return service
        if service.flags & SERVICE_PROXY:
            return R.NEEDS_PROXY
        table = self.tables[service.table]
        if not table:
            return R.NO_BACKEND
        index = table[entry_of(tuple_hash(t, self.seed), len(table))]
        slot = self.slots.get(index)
        if slot is None or not slot.flags & SLOT_LIVE:
            return R.NO_BACKEND
        generations = (slot.generation, self.generations.get(service.id, 0))
        if keep:
            self.flows[t] = Flow(index, service.id, service.internal, generations)
            self._count(Count.FLOW_NEW)
        return Target(index, service.id, service.internal, new=keep)

    # -- ICMP ----------------------------------------------------------------------

    def _icmp(self, frame: bytes, vip: int) -> Verdict:
        at = 14 + (frame[14] & 15) * 4
        room = get16(frame, 16) - (at - 14)
        reason: DropReason | None = None
        if get16(frame, 20) & 0x2000:
            reason = R.ICMP_FRAGMENT
        elif room < 8:
            reason = R.BAD_L4_HEADER
        elif not self.vips.get(vip, 0) & VIP_ALLOCATED:
            reason = R.VIP_UNALLOCATED
        elif frame[at] == 8 and frame[at + 1] == 0:
            return self._echo(frame, at)
        elif frame[at] not in ERRORS:
            reason = R.ICMP_TYPE
        if reason is not None:
            return Verdict(Xdp.DROP, frame, reason)
        return self._error(frame, at, room, vip)

    def _echo(self, frame: bytes, at: int) -> Verdict:
        self._count(Count.ECHO)
        out = bytearray(frame)
        out[0:6], out[6:12] = frame[6:12], frame[0:6]
        out[26:30], out[30:34] = frame[30:34], frame[26:30]
        out[22] = 64
        put16(out, 24, adjusted(get16(frame, 24), frame[22:24], bytes(out[22:24])))
        out[at] = 0
        check = adjusted(get16(frame, at + 2), frame[at : at + 2], bytes(out[at : at + 2]))
        put16(out, at + 2, check or 0xFFFF)
        return Verdict(Xdp.TX, bytes(out))

    def _error(self, frame: bytes, at: int, room: int, vip: int) -> Verdict:
        q = at + 8  # the quoted packet
        if q + 20 > len(frame):
            return Verdict(Xdp.DROP, frame, R.BAD_L4_HEADER)
        header = (frame[q] & 15) * 4
        ports = q + header
        short = ports + 8 > len(frame) or room < 8 + header + 8
        if frame[q] >> 4 != 4 or header < 20 or short:
            return Verdict(Xdp.DROP, frame, R.BAD_L4_HEADER)
        proto = frame[q + 9]
        not_ours = frame[q + 12 : q + 16] != frame[30:34] or proto not in (TCP, UDP)
        not_ours |= self.is_bad_source(int.from_bytes(frame[q + 16 : q + 20], "big"))
        if not_ours or get16(frame, q + 6) & 0x1FFF:
            return Verdict(Xdp.DROP, frame, R.ICMP_NO_FLOW)
        t = Raw(
            frame[q + 16 : q + 20],
            frame[q + 12 : q + 16],
            frame[ports + 2 : ports + 4],
            frame[ports : ports + 2],
            proto,
        )
        target = self._flow(t) or self._choose(t, vip, keep=False)
        if isinstance(target, DropReason):
            return Verdict(Xdp.DROP, frame, R.ICMP_NO_FLOW)
        slot = self.slots[target.index]
        address = slot.address(proto)
        out = bytearray(frame)
        out[q + 12 : q + 16] = address
        put16(out, q + 10, adjusted(get16(frame, q + 10), frame[q + 12 : q + 16], address))
        out[ports : ports + 2] = target.internal
        old = frame[q + 10 : q + 16] + frame[ports : ports + 2]
        new = bytes(out[q + 10 : q + 16] + out[ports : ports + 2])
        put16(out, at + 2, adjusted(get16(frame, at + 2), old, new))
        rewrite_ip(out, address)
        self._count_in(target.service, get16(frame, 16), new=False)
        return self._deliver(out, slot)

    def _reset(self, frame: bytes, at: int, room: int) -> Verdict:
        """RFC 9293, 3.10.7.1."""
        flags = frame[at + 13]
        if flags & RST:
            return Verdict(Xdp.DROP, frame, R.NO_BACKEND)
        self._count(Count.RST)
        return Verdict(Xdp.TX, reset_for(frame, at, room), R.NO_BACKEND)

    # -- counters ----------------------------------------------------------------

    def _count(self, what: Count) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def _count_in(self, service: int, length: int, *, new: bool) -> None:
        stats = self.stats.setdefault(service, [0, 0, 0])
        stats[0] += 1
        stats[1] += length
        stats[2] += new
