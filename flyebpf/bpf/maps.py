# SPDX-License-Identifier: Apache-2.0
"""The pinned maps: name, type, layout and size of each.

A map is pinned as ``<bpffs>/maps/<name>-<digest>``, the digest being over type,
layout and size: programs with another layout get other maps and the old ones
go on serving the old programs until the new ones are filled and swapped in.
"""

from __future__ import annotations

import ctypes as ct
import hashlib
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from flyebpf.bpf import layout
from flyebpf.config import DataplaneConfig
from flyebpf.model.reasons import COUNT_MAX, DROP_REASON_MAX

BPF_F_NO_PREALLOC = 1


CType = type[Any]
"""A ctypes integer, array or structure."""


class MapType(IntEnum):
    """``enum bpf_map_type`` of linux/bpf.h."""

    HASH = 1
    ARRAY = 2
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LPM_TRIE = 11
    SOCKMAP = 15


@dataclass(frozen=True, slots=True)
class MapSpec:
    """``key`` and ``value`` are ctypes; sizes in bytes follow from them."""

    name: str
    type: MapType
    key: CType
    value: CType
    max_entries: int
    flags: int = 0
    family: str = ""

    @property
    def digest(self) -> str:
        """8 hex digits over everything that makes two maps incompatible."""
        text = "|".join(
            (
                self.type.name,
                describe(self.key),
                describe(self.value),
                str(self.max_entries),
                str(self.flags),
                self.family,
            )
        )
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def pin_name(self) -> str:
        return f"{self.name}-{self.digest}"


def describe(ctype: CType) -> str:
    """A ctypes type's layout as text: names, offsets and sizes."""
    fields = getattr(ctype, "_fields_", None)
    if fields is None:
        return f"{ctype.__name__}:{ct.sizeof(ctype)}"
    inner = ",".join(
        f"{name}@{getattr(ctype, name).offset}:{describe(kind)}" for name, kind, *_ in fields
    )
    return f"{ctype.__name__}({inner}):{ct.sizeof(ctype)}"


class Id(ct.Structure):
    """Value of ``ids``: which index a name has, and what it was made from.

    ``digest`` is userspace's fingerprint of the object's contents.
    """

    _fields_ = (("index", layout.U32), ("kind", layout.U32), ("digest", layout.U64))


INDEPENDENT = (
    *("drops", "counts", "hosts", "names", "dns_scratch", "mesh_scratch", "egress_policy"),
    *("proxies", "proxy_sockets", "proxy_own"),
)
"""Maps in which no index of another map is, nor is theirs in any."""

POLICY_PREFIXES = 1024
"""Rows of `egress_policy` beside those of hosts: reserved networks, pools, `egress.allow`."""


def map_specs(config: DataplaneConfig) -> tuple[MapSpec, ...]:
    """Every pinned map, at the configured sizes.

    Maps that hold indexes of each other are one family: when the layout or the
    size of one changes, all of them are new. A new ``slots`` beside an old
    ``tables`` or ``flows`` would lead packets to other machines.
    """
    specs = plain_specs(config)
    text = "".join(spec.digest for spec in specs if spec.name not in INDEPENDENT)
    family = hashlib.sha256(text.encode()).hexdigest()[:8]
    return tuple(
        spec if spec.name in INDEPENDENT else replace(spec, family=family) for spec in specs
    )


def plain_specs(config: DataplaneConfig) -> tuple[MapSpec, ...]:
    """Each map by itself."""
    buckets = flow_buckets(config)
    u32 = layout.U32
    array, per_cpu, hash_ = MapType.ARRAY, MapType.PERCPU_ARRAY, MapType.HASH
    lpm, lru = MapType.LPM_TRIE, MapType.LRU_HASH
    services, machines = config.services, config.machines
    return (
        MapSpec("settings", array, u32, layout.Settings, 1),
        MapSpec("vips", array, u32, layout.Vip, vip_entries(config)),
        MapSpec("services", hash_, layout.ServiceKey, layout.Service, services),
        MapSpec(
            "service_ranges",
            lpm,
            layout.ServiceRangeKey,
            layout.Service,
            services,
            BPF_F_NO_PREALLOC,
        ),
        MapSpec("service_states", array, u32, layout.ServiceState, services),
        MapSpec("service_stats", per_cpu, u32, layout.ServiceStats, services),
        MapSpec("tables", array, u32, layout.Table, services),
        MapSpec("maglev", array, u32, u32, config.maglev_entries),
        MapSpec("slots", array, u32, layout.Slot, machines),
        MapSpec("vm_slots", array, u32, layout.VmSlotBucket, vm_buckets(config)),
        MapSpec("sixpn", hash_, layout.SixpnKey, u32, 2 * machines, BPF_F_NO_PREALLOC),
        MapSpec("hosts", hash_, u32, layout.Host, config.hosts),
        MapSpec("names", hash_, layout.NameKey, layout.Name, config.names, BPF_F_NO_PREALLOC),
        MapSpec("dns_limits", array, u32, layout.DnsLimit, machines),
        MapSpec("dns_scratch", per_cpu, u32, layout.DnsScratch, 1),
        MapSpec("mesh_scratch", per_cpu, u32, layout.MeshScratch, 1),
        MapSpec("icmp_limit", per_cpu, u32, layout.IcmpLimit, 1 + machines),
        MapSpec("replies", hash_, layout.ReplyKey, layout.Reply, services),
        MapSpec("flows", array, u32, layout.FlowBucket, buckets),
        MapSpec("reverse", array, u32, layout.ReverseBucket, buckets),
        MapSpec("fragments", lru, layout.FragKey, layout.Frag, config.fragments),
        MapSpec("fragments6", lru, layout.Frag6Key, layout.Frag6, config.fragments),
        MapSpec(
            "egress_policy", lpm, layout.PolicyKey, u32, policy_entries(config), BPF_F_NO_PREALLOC
        ),
        MapSpec("proxies", hash_, layout.BE32, u32, config.hosts + 1),
        MapSpec("proxy_ports", hash_, layout.ProxyPortKey, u32, services, BPF_F_NO_PREALLOC),
        MapSpec("binds", lpm, layout.BindKey, u32, services, BPF_F_NO_PREALLOC),
        MapSpec("proxy_own", hash_, u32, u32, 8 * layout.PROXY_LISTENERS),
        MapSpec("proxy_sockets", MapType.SOCKMAP, u32, layout.U64, 2 * layout.PROXY_LISTENERS),
        MapSpec("drops", per_cpu, u32, layout.DropStats, DROP_REASON_MAX),
        MapSpec("counts", per_cpu, u32, layout.U64, COUNT_MAX),
        MapSpec("ids", hash_, layout.U8 * 16, Id, 4 * services, BPF_F_NO_PREALLOC),
    )


def policy_entries(config: DataplaneConfig) -> int:
    """A row for each other host's endpoint; the rest are the configuration's own."""
    return config.hosts + POLICY_PREFIXES


def vip_entries(config: DataplaneConfig) -> int:
    """The IPv4 pools' addresses, and behind them a part for each IPv6 pool."""
    return config.pool_addresses + layout.MAX_POOLS6 * config.pool6_addresses


def flow_buckets(config: DataplaneConfig) -> int:
    """Buckets of a flow table: ``config.flows`` entries, a power of two."""
    return power_of_two(config.flows // layout.FLOW_WAYS)


def vm_buckets(config: DataplaneConfig) -> int:
    """Buckets of ``vm_slots``: as many as machines, with VM_SLOT_WAYS each. The
    kernel counts interfaces up, so buckets fill evenly also where each VM takes
    up to that many numbers (a veth pair: two)."""
    return power_of_two(config.machines)


def power_of_two(wanted: int) -> int:
    """The first one that is not smaller."""
    return 1 << (max(wanted, 1) - 1).bit_length()
