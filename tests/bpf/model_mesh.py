# SPDX-License-Identifier: Apache-2.0
"""What mesh_tc should do, in plain Python, for the differential test.

Written from the rules (contract, comments of the headers), not from the C:
addresses of the mesh are integers, packets are parsed by ``struct``, flows are in
dictionaries. Frames have an Ethernet header, as on a plain underlay.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from flyebpf.bpf.layout import SLOT_LIVE
from flyebpf.model.reasons import Count, DropReason
from tests.bpf.arithmetic import (
    ACK,
    ICMP,
    SYN,
    TCP,
    UDP,
    Raw,
    adjusted,
    check_transport,
    checksum,
    fragment_key,
    get16,
    put16,
)
from tests.bpf.model import ERRORS, Model, Slot
from tests.bpf.rig import Tc

R = DropReason
PEER = 10
OPTIONS_READ = 12


class Verdict(NamedTuple):
    """``place``: of an L4 checksum that was changed, or 0."""

    verdict: Tc
    frame: bytes
    reason: DropReason | None = None
    place: int = 0


class Fields(NamedTuple):
    """Of an address in mesh form."""

    inside: bool
    host: int
    network: int
    machine: int
    suffix: int


def fields_of(address: bytes) -> Fields:
    number = int.from_bytes(address, "big")
    return Fields(
        number >> 112 == 0xFDAA,
        number >> 80 & 0xFFFFFFFF,
        number >> 48 & 0xFFFFFFFF,
        number >> 16 & 0xFFFFFFFF,
        number & 0xFFFF,
    )


def is_host(number: int) -> bool:
    return bool(number >> 31)


def swapped(address: bytes) -> bytes:
    return address[:2] + address[6:10] + address[2:6] + address[10:]


class Reply(NamedTuple):
    service: int
    vip: bytes
    port: int
    unique: bool


class Kept(NamedTuple):
    """A flow that goes to a machine here."""

    slot: int
    service: int
    internal: int
    generations: tuple[int, int]


@dataclass
class Mesh:
    """This host, ``number``, as other hosts' packets find it. ``edge`` has what
    it shares with edges: pools, services, slots."""

    number: int
    edge: Model
    hosts: set[int]
    machines: dict[tuple[int, int], int]  # (network or 0, machine): slot
    replies: dict[tuple[int, int, int], Reply]  # slot, port, protocol
    dialled: dict[Raw, int]  # flows of this host's clients: a machine's number or 0
    far: int  # the host of the machines of those
    mss: int
    peers: bool = True
    return_edge: bool = False
    flows: dict[Raw, Kept] = field(default_factory=dict)
    fragments: dict[bytes, tuple[int, int, bytes]] = field(default_factory=dict)
    returned: dict[bytes, int] = field(default_factory=dict)
    counts: dict[Count, int] = field(default_factory=dict)

    def decide(self, frame: bytes) -> Verdict:
        """What happens to a frame from the mesh."""
        try:
            if frame[12:14] == b"\x86\xdd":
                return self._ipv6(frame)
            if frame[12:14] == b"\x08\x00":
                return self._ipv4(frame)
        except Drop as drop:
            return Verdict(Tc.SHOT, frame, drop.reason)
        return Verdict(Tc.UNSPEC, frame)

    def _ipv4(self, frame: bytes) -> Verdict:
        prefix, mask = self.edge.private
        source, target = (int.from_bytes(frame[at : at + 4], "big") for at in (26, 30))
        private = [one & mask == prefix for one in (source, target)]
        fabric = not any(private) and target & mask != self.edge.alias
        if fabric:
            return Verdict(Tc.UNSPEC, frame)
        raise Drop(R.MESH_FORM)

    def _ipv6(self, frame: bytes) -> Verdict:
        src, dst = fields_of(frame[22:38]), fields_of(frame[38:54])
        if not src.inside and not dst.inside:
            return Verdict(Tc.UNSPEC, frame)
        if is_search(frame, src, dst):
            return Verdict(Tc.UNSPEC, frame)
        drop_if(not (src.inside and dst.inside) or frame[14] >> 4 != 6, R.MESH_FORM)
        drop_if(54 + get16(frame, 18) > len(frame), R.TRUNCATED)
        hosts = is_host(src.host) and is_host(dst.host)
        drop_if(not hosts or is_host(src.network) or is_host(dst.network), R.MESH_FORM)
        drop_if(dst.host != self.number, R.MESH_NOT_HERE)
        drop_if(src.host not in self.hosts, R.MESH_SOURCE)
        drop_if(src.network != dst.network, R.MESH_NETWORK)
        if dst.network:
            return self._sixpn(frame, src, dst)
        return self._from_host(frame, src, dst)

    def _slot(self, network: int, machine: int) -> tuple[int, Slot]:
        index = self.machines.get((network, machine), -1)
        slot = self.edge.slots.get(index)
        if slot is None or not slot.flags & SLOT_LIVE:
            raise Drop(R.MESH_MACHINE)
        return index, slot

    def _sixpn(self, frame: bytes, src: Fields, dst: Fields) -> Verdict:
        drop_if(not src.machine, R.MESH_SOURCE)
        drop_if(frame[21] == 255, R.MESH_FORM)
        out = bytearray(frame)
        out[22:38], out[38:54] = swapped(frame[22:38]), swapped(frame[38:54])
        if dst.machine == PEER:
            drop_if(not self.peers, R.MESH_MACHINE)
            self._count(Count.PEER_OUT)
            return Verdict(Tc.REDIRECT, bytes(out))
        _, slot = self._slot(dst.network, dst.machine)
        out[0:6], out[6:12] = slot.mac, slot.host_mac
        self._count(Count.SIXPN_IN)
        return Verdict(Tc.REDIRECT, bytes(out))

    def _from_host(self, frame: bytes, src: Fields, dst: Fields) -> Verdict:
        drop_if(bool(src.machine) or src.suffix != 1, R.MESH_SOURCE)
        if frame[20] not in (4, 41):
            drop_if(bool(dst.machine) or dst.suffix != 1, R.MESH_FORM)
            return Verdict(Tc.UNSPEC, frame)
        inner = frame[:12] + b"\x08\x00" + frame[54:]
        drop_if(frame[20] != 4 or len(inner) < 34, R.MESH_INNER)
        header, total = (inner[14] & 15) * 4, get16(inner, 16)
        drop_if(total != get16(frame, 18) or inner[14] >> 4 != 4, R.MESH_INNER)
        drop_if(header < 20 or total < header, R.MESH_INNER)
        drop_if(checksum(inner[14 : 14 + header]) != 0, R.MESH_INNER)
        if dst.machine:
            return self._deliver(inner, dst)
        drop_if(bool(dst.suffix), R.MESH_FORM)
        return self._return(inner, src.host)

    # -- to a machine here ---------------------------------------------------------

    def _deliver(self, inner: bytes, dst: Fields) -> Verdict:
        index, slot = self._slot(0, dst.machine)
        source, target = (int.from_bytes(inner[at : at + 4], "big") for at in (26, 30))
        vip = self.edge.vip_of(target)
        alias = source & self.edge.private[1] == self.edge.alias
        drop_if(vip is None or (not alias and self.edge.is_bad_source(source)), R.MESH_INNER)
        proto = inner[23]
        if get16(inner, 20) & 0x1FFF:
            kept = self.fragments.get(fragment_key(inner))
            drop_if(kept is None or kept[:2] != (index, slot.generation), R.FRAG_NO_FIRST)
            assert kept is not None
            return self._to_machine(bytearray(inner), slot, kept[2], Count.MESH_IN)
        if proto in (TCP, UDP):
            assert vip is not None
            return self._transport(inner, index, slot, vip, dst.suffix)
        drop_if(proto != ICMP, R.MESH_INNER)
        return self._error(inner, index, slot)

    def _tuple(self, inner: bytes) -> tuple[int, Raw]:
        """Where the L4 header is, and the ends of the packet."""
        at = 14 + (inner[14] & 15) * 4
        room = get16(inner, 16) - (at - 14)
        fragment = bool(get16(inner, 20) & 0x2000)
        drop_if(check_transport(inner, at, room, fragment) is not None, R.MESH_INNER)
        ports = inner[at : at + 2], inner[at + 2 : at + 4]
        return at, Raw(inner[26:30], inner[30:34], *ports, inner[23])

    def _transport(self, inner: bytes, index: int, slot: Slot, vip: int, port: int) -> Verdict:
        at, t = self._tuple(inner)
        drop_if(not port, R.MESH_INNER)
        drop_if(bool(self.dialled.get(t)), R.MESH_SOURCE)
        flags = inner[at + 13] if t.proto == TCP else 0
        internal = None if flags & (SYN | ACK) == SYN else self._old(t, index, slot)
        if internal is None:
            internal = self._new(t, index, slot, vip, port)
        address = slot.address(t.proto)
        if get16(inner, 20) & 0x2000:
            self.fragments[fragment_key(inner)] = (index, slot.generation, address)
        out = bytearray(inner)
        source = int.from_bytes(t.client, "big")
        back = self.return_edge or source & self.edge.private[1] == self.edge.alias
        if flags & SYN and back and lower_mss(out, at, self.mss):
            self._count(Count.MSS)
        place = rewrite(out, at, address, internal.to_bytes(2, "big"))
        return self._to_machine(out, slot, address, Count.MESH_IN)._replace(place=place)

    def _old(self, t: Raw, index: int, slot: Slot) -> int | None:
        flow = self.flows.get(t)
        if flow is None or flow.slot != index:
            return None
        now = (slot.generation, self.edge.generations.get(flow.service, 0))
        return flow.internal if flow.generations == now else None

    def _new(self, t: Raw, index: int, slot: Slot, vip: int, port: int) -> int:
        reply = self.replies.get((index, port, t.proto))
        if reply is None:
            raise Drop(R.NO_SERVICE)
        service = reply.service
        dialled = (t.vip, int.from_bytes(t.vip_port, "big"))
        if not (reply.unique and (reply.vip, reply.port) == dialled):
            found = self.edge._service(vip, t)
            service = service if isinstance(found, DropReason) else found.id
        generations = (slot.generation, self.edge.generations.get(service, 0))
        self.flows[t] = Kept(index, service, port, generations)
        self.dialled.pop(t, None)
        self._count(Count.FLOW_NEW)
        return port

    def _error(self, inner: bytes, index: int, slot: Slot) -> Verdict:
        at = 14 + (inner[14] & 15) * 4
        room = get16(inner, 16) - (at - 14)
        q = at + 8
        bad = bool(get16(inner, 20) & 0x2000) or room < 36 or inner[at] not in ERRORS
        drop_if(bad, R.MESH_INNER)
        ports = q + (inner[q] & 15) * 4
        bad = inner[q] >> 4 != 4 or ports < q + 20 or room < ports - at + 8
        drop_if(bad, R.MESH_INNER)
        proto = inner[q + 9]
        t = Raw(
            inner[q + 16 : q + 20],
            inner[q + 12 : q + 16],
            inner[ports + 2 : ports + 4],
            inner[ports : ports + 2],
            proto,
        )
        internal = self._old(t, index, slot)
        ours = inner[q + 12 : q + 16] == inner[30:34] and not get16(inner, q + 6) & 0x1FFF
        drop_if(internal is None or not ours, R.ICMP_NO_FLOW)
        assert internal is not None
        out, address = bytearray(inner), slot.address(proto)
        out[q + 12 : q + 16] = address
        put16(out, q + 10, adjusted(get16(inner, q + 10), inner[q + 12 : q + 16], address))
        put16(out, ports, internal)
        old = inner[q + 10 : q + 16] + inner[ports : ports + 2]
        new = bytes(out[q + 10 : q + 16] + out[ports : ports + 2])
        put16(out, at + 2, adjusted(get16(inner, at + 2), old, new))
        return self._to_machine(out, slot, address, Count.MESH_IN)

    def _to_machine(self, out: bytearray, slot: Slot, address: bytes, what: Count) -> Verdict:
        put16(out, 24, adjusted(get16(out, 24), bytes(out[30:34]), address))
        out[30:34] = address
        out[0:6], out[6:12] = slot.mac, slot.host_mac
        self._count(what)
        return Verdict(Tc.REDIRECT, bytes(out))

    # -- back to a client ------------------------------------------------------------

    def _return(self, inner: bytes, host: int) -> Verdict:
        source, target = (int.from_bytes(inner[at : at + 4], "big") for at in (26, 30))
        alias = target & self.edge.private[1] == self.edge.alias
        bad = self.edge.vip_of(source) is None
        drop_if(bad or (not alias and self.edge.is_bad_source(target)), R.MESH_INNER)
        proto, at = inner[23], 0
        if proto == ICMP:
            start, end = 14 + (inner[14] & 15) * 4, 14 + get16(inner, 16)
            whole = not get16(inner, 20) & 0x3FFF and start + 8 <= end
            drop_if(alias or not whole or inner[start] not in ERRORS, R.MESH_INNER)
            came_in = -1
        elif proto not in (TCP, UDP):
            raise Drop(R.MESH_INNER)
        elif get16(inner, 20) & 0x1FFF:
            came_in = self.returned.get(fragment_key(inner), -1)
        else:
            at, t = self._tuple(inner)
            mine = Raw(t.vip, t.client, t.vip_port, t.client_port, proto)
            came_in = self.dialled.get(mine, -1) if host == self.far else -1
            if get16(inner, 20) & 0x2000:
                self.returned[fragment_key(inner)] = came_in
        return self._to_vm(inner, at, came_in) if alias else self._out(inner, target, came_in)

    def _to_vm(self, inner: bytes, at: int, number: int) -> Verdict:
        slot = self.edge.slots.get(number)
        prefix, mask = self.edge.private
        low = int.from_bytes(inner[30:34], "big") & ~mask & 0xFFFFFFFF
        address = (prefix | low).to_bytes(4, "big")
        gone = slot is None or not slot.flags & SLOT_LIVE or slot.private != address
        drop_if(gone, R.MESH_NO_FLOW)
        assert slot is not None
        out, place = bytearray(inner), 0
        if at:
            place = rewrite(out, at, address, inner[at + 2 : at + 4])
        return self._to_machine(out, slot, address, Count.MESH_RETURN)._replace(place=place)

    def _out(self, inner: bytes, target: int, came_in: int) -> Verdict:
        if came_in < 0:
            drop_if(target >> 24 == 10, R.VM_NOT_PUBLIC)
        drop_if(target >> 8 == 0xC05863, R.VM_NO_ROUTE)
        own = target in (0xC0000201, 0xC6336401, 0xC00002FF, 0xC63364FF)
        drop_if(own, R.VM_TO_HOST)
        self._count(Count.MESH_RETURN)
        return Verdict(Tc.REDIRECT, bytes(12) + inner[12:])

    def _count(self, what: Count) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


class Drop(Exception):  # noqa: N818 - an outcome, not an error
    """The packet ends, for a reason."""

    def __init__(self, reason: DropReason) -> None:
        super().__init__(reason)
        self.reason = reason


def drop_if(condition: bool, reason: DropReason) -> None:
    if condition:
        raise Drop(reason)


def rewrite(out: bytearray, at: int, address: bytes, port: bytes) -> int:
    """Destination port, and the checksum over that and the address, which is
    not written here; returns where the checksum is."""
    udp = out[23] == UDP
    place = at + (6 if udp else 16)
    old = bytes(out[30:34] + out[at + 2 : at + 4])
    out[at + 2 : at + 4] = port
    check = get16(out, place)
    if not udp or check:
        check = adjusted(check, old, address + port)
        put16(out, place, check or 0xFFFF if udp else check)
    return place


def lower_mss(out: bytearray, at: int, most: int) -> bool:
    """Whether there was a larger one."""
    end, place = at + (out[at + 12] >> 4) * 4, at + 20
    for _ in range(OPTIONS_READ):
        if place + 4 > end or out[place] == 0:
            return False
        kind, length = out[place], out[place + 1]
        if kind == 2:
            old = bytes(out[place + 2 : place + 4])
            if length != 4 or int.from_bytes(old, "big") <= most:
                return False
            new = most.to_bytes(2, "big")
            out[place + 2 : place + 4] = new
            turn = -1 if (place - at) % 2 else 1
            put16(out, at + 16, adjusted(get16(out, at + 16), old[::turn], new[::turn]))
            return True
        if kind != 1 and length < 2:
            return False
        place += 1 if kind == 1 else length
    return False


def is_search(frame: bytes, src: Fields, dst: Fields) -> bool:
    """How hosts on a fabric ask for each other's MAC, and answer."""
    if frame[20:22] != bytes((58, 255)) or frame[54:55] not in (b"\x87", b"\x88"):
        return False
    if is_host_address(src):
        return link_local(frame[38:54]) or frame[38] == 0xFF
    return is_host_address(dst) and link_local(frame[22:38])


def is_host_address(a: Fields) -> bool:
    return a.inside and is_host(a.host) and (a.network, a.machine, a.suffix) == (0, 0, 1)


def link_local(address: bytes) -> bool:
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80
