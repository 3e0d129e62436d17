# SPDX-License-Identifier: Apache-2.0
"""The loaded programs, their maps, and one packet at a time through them."""

from __future__ import annotations

import ctypes as ct
import ipaddress
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from scapy.packet import Packet

from flyebpf.bpf import layout
from flyebpf.bpf.libbpf import Map
from flyebpf.bpf.loader import Generation
from flyebpf.bpf.maps import MapType
from flyebpf.bpf.program import TestRun
from flyebpf.bpf.syscalls import possible_cpus
from flyebpf.drivers.map_vm_slots import VmSlots
from flyebpf.model.reasons import COUNT_MAX, DROP_REASON_MAX, Count, DropReason
from tests import packets, packets6
from tests.bpf.namespace import Namespace

BUCKETS = 64
"""Of the flow tables, where a test does not say otherwise."""
SEED = 0x0123456789ABCDEF
TCP, UDP = 6, 17
NEVER = 0xFFFFFFFF
POOL6_BASE, POOL6_SIZE = 512, 32
"""Of the IPv6 pool, in ``vips``."""


class Xdp(IntEnum):
    """Verdicts of an XDP program."""

    ABORTED = 0
    DROP = 1
    PASS = 2
    TX = 3
    REDIRECT = 4


class Tc(IntEnum):
    """Verdicts of a tc program."""

    OK = 0
    SHOT = 2
    REDIRECT = 7
    UNSPEC = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters of a service, as :class:`layout.ServiceStats`."""

    in_packets: int = 0
    in_bytes: int = 0
    out_packets: int = 0
    out_bytes: int = 0
    flows: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a program did with a packet: everything that it changed but flows.

    ``drops`` has packets and bytes by reason. ``meta``: XDP metadata.
    """

    verdict: IntEnum
    packet: bytes
    drops: dict[DropReason, tuple[int, int]] = field(default_factory=dict)
    counts: dict[Count, int] = field(default_factory=dict)
    stats: dict[int, Stats] = field(default_factory=dict)
    meta: bytes = b""

    @property
    def reason(self) -> DropReason | None:
        """The only reason, if the packet was dropped for one."""
        return next(iter(self.drops)) if len(self.drops) == 1 else None


def ip_number(address: str) -> int:
    return int(ipaddress.IPv4Address(address))


def u32(number: int) -> bytes:
    return struct.pack("=I", number)


def mapped(address: str) -> bytes:
    """An address as maps have it."""
    if ":" in address:
        return ipaddress.IPv6Address(address).packed
    return bytes(10) + b"\xff\xff" + socket.inet_aton(address)


def mac_bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def is_left_to_vm6(verdict: int, frame: bytes) -> bool:
    """Whether vm_tc has left an IPv6 frame to the filters behind it, and it is not
    for the name server."""
    return verdict == Tc.UNSPEC and frame[38:40] != b"\xfd\xaa"


class Rig:
    """Maps as tests want them; see :meth:`reset` for how each test finds them."""

    def __init__(self, generation: Generation, namespace: Namespace) -> None:
        self.maps = generation.maps
        self.programs = generation.programs
        self.namespace = namespace
        self.ifindex = namespace.ifindex
        self._vip_index: dict[str, int] = {}
        self._pools: list[tuple[ipaddress.IPv4Network, int]] = []
        self._maglev = 0
        self._tables = 0
        self.settings = layout.Settings()

    # -- maps ---------------------------------------------------------------

    def reset(self) -> None:
        """Two pools, two uplinks, everything else empty and zero."""
        for opened in self.maps.values():
            self._clear(opened)
        self._maglev = self._tables = 0
        self._pools = [
            (ipaddress.IPv4Network(packets.POOL), 0),
            (ipaddress.IPv4Network(packets.SMALL_POOL), 256),
        ]
        self.settings = self._settings()
        self.write_settings()
        self.policy("0.0.0.0/0", 0)
        self.policy(packets.PRIVATE, DropReason.VM_TO_PRIVATE)
        self.policy(packets.ALIAS, DropReason.VM_TO_PRIVATE)
        self.policy("10.0.0.0/8", DropReason.VM_NOT_PUBLIC)
        self.policy("127.0.0.0/8", DropReason.VM_TO_HOST)

    def _clear(self, opened: Map) -> None:
        if opened.shape.type == MapType.SOCKMAP:
            for index in range(opened.shape.max_entries):
                if opened.lookup(u32(index)) is not None:
                    opened.delete(u32(index))
            return
        if opened.shape.type not in (MapType.ARRAY, MapType.PERCPU_ARRAY):
            for key in list(opened.keys()):
                opened.delete(key)
            return
        empty = bytes(opened.value_size)
        if opened.per_cpu:
            for index in range(opened.shape.max_entries):
                opened.update(u32(index), empty)
            return
        size = self._used_size(opened)
        opened.update_batch([(u32(i), empty) for i in range(size)])

    def _used_size(self, opened: Map) -> int:
        """Of flow tables most tests use only the beginning."""
        if opened.name in ("flows", "reverse"):
            return max(BUCKETS, self.settings.flow_buckets)
        return opened.shape.max_entries

    def _settings(self) -> layout.Settings:
        settings = layout.Settings(
            pool_count=len(self._pools),
            private_prefix=ip_number("172.16.0.0"),
            private_mask=ip_number("255.240.0.0"),
            alias_prefix=ip_number("100.64.0.0"),
            uplink_count=2,
            flow_buckets=BUCKETS,
            seed=SEED,
            vm_buckets=self.maps["vm_slots"].shape.max_entries,
            host=packets6.HOST,
            mesh_mtu=packets6.MESH_MTU,
        )
        for i, (net, base) in enumerate(self._pools):
            settings.pool[i] = layout.Pool(int(net.network_address), int(net.netmask), base)
        pool6 = ipaddress.IPv6Network(packets6.POOL)
        settings.pool6_count = 1
        settings.pool6[0].prefix[:] = pool6.network_address.packed
        settings.pool6[0].mask[:] = pool6.netmask.packed
        settings.pool6[0].vip_base = POOL6_BASE
        settings.pool6[0].size = POOL6_SIZE
        settings.uplink[0] = self.ifindex["up0"]
        settings.uplink[1] = self.ifindex["up1"]
        return settings

    def write_settings(self) -> None:
        self.maps["settings"].update(u32(0), bytes(self.settings))

    def vip_index(self, address: str) -> int:
        if ":" in address:
            pool6 = ipaddress.IPv6Network(packets6.POOL).network_address
            return POOL6_BASE + int(ipaddress.IPv6Address(address)) - int(pool6)
        ip = ipaddress.IPv4Address(address)
        net, base = next((n, b) for n, b in self._pools if ip in n)
        return base + int(ip) - int(net.network_address)

    def vip(self, address: str, flags: int = layout.VIP_ALLOCATED) -> None:
        self.maps["vips"].update(u32(self.vip_index(address)), bytes(layout.Vip(flags)))

    def slot(self, number: int, *, flags: int = layout.SLOT_LIVE, generation: int = 1) -> None:
        """Machine ``number`` in slot ``number``, behind ``vm<number>``. As the host's
        daemon does it, ``sixpn`` has it twice: by its network, and by 0."""
        slot = layout.Slot(
            generation=generation,
            flags=flags,
            ifindex=self.ifindex[f"vm{number}"],
            private_ip=ip_number(packets.private_ip(number)),
            services_ip=ip_number(packets.services_ip(number)),
            machine_id=number,
            network=packets6.network_of(number),
            host=packets6.HOST,
            machine=packets6.machine_of(number),
        )
        slot.mac[:] = mac_bytes(packets.vm_mac(number))
        slot.host_mac[:] = mac_bytes(packets.gateway_mac(number))
        self.maps["slots"].update(u32(number), bytes(slot))
        self.vm_slot(slot.ifindex, number)
        for network in (0, slot.network):
            self.sixpn(network, slot.machine, number)

    def change_slot(self, number: int, **fields: int) -> None:
        """Set fields of a slot, all else as it was."""
        raw = self.maps["slots"].lookup(u32(number))
        assert raw is not None
        slot = layout.Slot.from_buffer_copy(raw)
        for name, value in fields.items():
            setattr(slot, name, value)
        self.maps["slots"].update(u32(number), bytes(slot))

    def sixpn(self, network: int, machine: int, slot: int) -> None:
        """The slot of a machine by its address."""
        self.maps["sixpn"].update(bytes(layout.SixpnKey(network, machine)), u32(slot))

    def host(self, number: int, device: str, next_hop: str = "::") -> None:
        """Another host of the cluster is reached over a device."""
        value = layout.Host(ifindex=self.ifindex[device])
        value.next_hop[:] = ipaddress.IPv6Address(next_hop).packed
        self.maps["hosts"].update(u32(number), bytes(value))

    def vm_slot(self, ifindex: int, slot: int) -> None:
        """What ``vm_slots`` says of an interface."""
        VmSlots(self.maps["vm_slots"], self.settings.vm_buckets).write([(ifindex, slot)])

    def table(self, slots: Sequence[int], index: int | None = None) -> int:
        """A Maglev table with these entries, in a new run of ``maglev``."""
        if index is None:
            index, self._tables = self._tables, self._tables + 1
        start = self._maglev
        self.maps["maglev"].update_batch([(u32(start + i), u32(s)) for i, s in enumerate(slots)])
        self._maglev += len(slots)
        self.maps["tables"].update(u32(index), bytes(layout.Table(start, len(slots))))
        return index

    def service(
        self,
        vip: str,
        proto: int,
        port: int,
        *,
        id: int,
        table: int,
        internal: int,
        flags: int = 0,
    ) -> None:
        key = layout.ServiceKey(self.vip_index(vip), port, proto)
        value = layout.Service(id, table, internal, flags)
        self.maps["services"].update(bytes(key), bytes(value))
        self.service_generation(id, 1)

    def service_range(
        self,
        vip: str,
        proto: int,
        port: int,
        bits: int,
        *,
        id: int,
        table: int,
        internal: int,
        flags: int = 0,
    ) -> None:
        """The ports that share their leading ``bits`` with ``port``."""
        key = layout.ServiceRangeKey(48 + bits, self.vip_index(vip), proto, 0, port)
        value = layout.Service(id, table, internal, flags)
        self.maps["service_ranges"].update(bytes(key), bytes(value))
        self.service_generation(id, 1)

    def service_generation(self, id: int, generation: int) -> None:
        self.maps["service_states"].update(u32(id), bytes(layout.ServiceState(generation)))

    def reply(
        self,
        slot: int,
        proto: int,
        internal: int,
        *,
        id: int,
        vip: str = "",
        port: int = 0,
        unique: bool = True,
    ) -> None:
        """``vip`` and ``port`` lead there: the only ones, or (not ``unique``) the
        oldest; none given: there are several, and none of them is known."""
        flags = layout.REPLY_UNIQUE if vip and unique else 0
        value = layout.Reply(service=id, port=port, flags=flags)
        value.vip[:] = mapped(vip) if vip else bytes(16)
        key = layout.ReplyKey(slot, internal, proto, layout.REPLY_IPV6 if ":" in vip else 0)
        self.maps["replies"].update(bytes(key), bytes(value))

    def policy(self, prefix: str, reason: int) -> None:
        net = ipaddress.IPv4Network(prefix)
        key = layout.PolicyKey(net.prefixlen, int(net.network_address))
        self.maps["egress_policy"].update(bytes(key), u32(reason))

    # -- flows ---------------------------------------------------------------

    def _entries(self, name: str, bucket: type[ct.Structure]) -> Iterable[tuple[bytes, ct.Array]]:
        for index in range(self.settings.flow_buckets):
            value = self.maps[name].lookup(u32(index))
            assert value is not None
            yield u32(index), bucket.from_buffer_copy(value)

    def flows(self) -> list[layout.Flow]:
        """Every entry of the flow table that is in use."""
        buckets = self._entries("flows", layout.FlowBucket)
        return [way for _, bucket in buckets for way in bucket.way if way.seal]

    def reverses(self) -> list[layout.Reverse]:
        """Every entry of the reverse table that is in use."""
        buckets = self._entries("reverse", layout.ReverseBucket)
        return [way for _, bucket in buckets for way in bucket.way if way.seal]

    def change_flows(self, **fields: int) -> int:
        """Set fields of every flow, its seal as it was; returns how many."""
        return self._change("flows", layout.FlowBucket, fields)

    def change_reverses(self, **fields: int) -> int:
        return self._change("reverse", layout.ReverseBucket, fields)

    def _change(self, name: str, kind: type[ct.Structure], fields: dict[str, int]) -> int:
        changed = 0
        for key, bucket in list(self._entries(name, kind)):
            used = [way for way in bucket.way if way.seal]
            for way in used:
                for attribute, value in fields.items():
                    setattr(way, attribute, value)
            if used:
                self.maps[name].update(key, bytes(bucket))
            changed += len(used)
        return changed

    def fragments(self) -> list[layout.Frag]:
        return [layout.Frag.from_buffer_copy(v) for _, v in self.maps["fragments"].items()]

    # -- runs ------------------------------------------------------------------

    def xdp(self, packet: Packet | bytes, device: str = "up0", meta: bytes = b"") -> Outcome:
        """``edge_xdp`` on a frame that came in on ``device``."""
        data = meta + bytes(packet)
        context = struct.pack("=6I", len(meta), len(data), 0, self.ifindex[device], 0, 0)
        before = self._counters()
        run = self.programs["edge_xdp"].test_run(data, context=context)
        start = struct.unpack_from("=I", run.context)[0]
        return self._outcome(Xdp(run.verdict), run, start, before)

    def tc(
        self,
        packet: Packet | bytes,
        device: str,
        *,
        program: str = "vm_tc",
        gso_size: int = 0,
        gso_segs: int = 0,
    ) -> Outcome:
        """A tc program on a frame that came in on ``device``."""
        context = bytearray(192)  # struct __sk_buff
        struct.pack_into("=I", context, 40, self.ifindex[device])
        struct.pack_into("=I", context, 164, gso_segs)
        struct.pack_into("=I", context, 176, gso_size)
        before = self._counters()
        run = self.programs[program].test_run(bytes(packet), context=bytes(context))
        return self._outcome(Tc(run.verdict), run, 0, before)

    def vm(self, number: int, packet: Packet | bytes, **gso: int) -> Outcome:
        """``vm_tc`` on a frame from machine ``number``, and ``vm6_tc`` on what that
        leaves to it."""
        outcome = self.tc(packet, f"vm{number}", **gso)
        if is_left_to_vm6(outcome.verdict, bytes(packet)):
            return self.tc(packet, f"vm{number}", program="vm6_tc", **gso)
        return outcome

    def drops(self, reason: DropReason) -> int:
        """Packets dropped for this so far."""
        return self._sum("drops", reason, 2)[0]

    def count(self, what: Count) -> int:
        """How often that has happened so far."""
        return self._sum("counts", what, 1)[0]

    def _outcome(self, verdict: IntEnum, run: TestRun, start: int, before: Counters) -> Outcome:
        drops, counts, stats = self._counters().since(before)
        return Outcome(verdict, run.data[start:], drops, counts, stats, run.data[:start])

    def _counters(self) -> Counters:
        return Counters(
            {r: self._sum("drops", r, 2) for r in range(DROP_REASON_MAX)},
            {c: self._sum("counts", c, 1)[0] for c in range(COUNT_MAX)},
            {s: self._sum("service_stats", s, 5) for s in range(SERVICES)},
        )

    def _sum(self, name: str, index: int, words: int) -> tuple[int, ...]:
        raw = self.maps[name].lookup(u32(index))
        assert raw is not None
        numbers = struct.unpack(f"={words * possible_cpus()}Q", raw)
        return tuple(sum(numbers[i::words]) for i in range(words))


SERVICES = 24
"""Service ids below this are used."""


@dataclass(frozen=True, slots=True)
class Counters:
    """All counters at a time, by index."""

    drops: dict[int, tuple[int, ...]]
    counts: dict[int, int]
    stats: dict[int, tuple[int, ...]]

    def since(
        self, old: Counters
    ) -> tuple[dict[DropReason, tuple[int, int]], dict[Count, int], dict[int, Stats]]:
        """What was counted since ``old``; an index that is no reason is an error."""
        drops = {
            DropReason(index): (now[0] - old.drops[index][0], now[1] - old.drops[index][1])
            for index, now in self.drops.items()
            if now != old.drops[index]
        }
        counts = {
            Count(index): now - old.counts[index]
            for index, now in self.counts.items()
            if now != old.counts[index]
        }
        stats = {
            index: Stats(*(a - b for a, b in zip(now, old.stats[index], strict=True)))
            for index, now in self.stats.items()
            if now != old.stats[index]
        }
        return drops, counts, stats
