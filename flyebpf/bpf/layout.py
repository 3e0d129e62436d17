# SPDX-License-Identifier: Apache-2.0
"""The structs of ``bpf/include/layout.h`` for userspace.

The C header is the authority. :func:`flyebpf.bpf.loader.compare_layouts`
compares sizes and field offsets of the two whenever programs are compiled.
Addresses and ports are in network byte order (``bytes`` or big-endian
integers), all other integers in host byte order.
"""

from __future__ import annotations

import ctypes as ct

MAX_POOLS = 16
MAX_POOLS6 = 8
MAX_UPLINKS = 8

VIP_ALLOCATED = 1
VIP_RANGES = 2

POOL_SHARED = 1

BIND_NOBODY = 1000
BIND_SHARED = 1001
PROXY_LISTENERS = 128
PROXY_WAITING = 127

SERVICE_REVERSE = 1
SERVICE_PROXY = 4

SLOT_LIVE = 1
SLOT_VIA_TC = 2
SLOT_REMOTE = 4

MESH_RETURN_EDGE = 1
MESH_ETHERNET = 2

REPLY_UNIQUE = 1
REPLY_IPV6 = 6

FLOW_REPLIED = 1
FLOW_CONFIRMED = 2
FLOW_CLOSING = 4
FLOW_OWN = 8
FLOW_WAYS = 4

VM_SLOT_WAYS = 4

POLICY_ALLOW = 0

NAME_ADDRESSES = 8
DNS_QUERY_MAX = 236
DNS_TAIL_WORDS = 59

U8 = ct.c_uint8
U16 = ct.c_uint16
U32 = ct.c_uint32
U64 = ct.c_uint64
BE16 = ct.c_uint16.__ctype_be__
BE32 = ct.c_uint32.__ctype_be__
Addr = U8 * 16


class Pool(ct.Structure):
    _fields_ = (("prefix", U32), ("mask", U32), ("vip_base", U32), ("flags", U32))


class Pool6(ct.Structure):
    _fields_ = (("prefix", Addr), ("mask", Addr), ("vip_base", U32), ("size", U32))


class Settings(ct.Structure):
    _fields_ = (
        ("pool", Pool * MAX_POOLS),
        ("pool_count", U32),
        ("private_prefix", U32),
        ("private_mask", U32),
        ("alias_prefix", U32),
        ("uplink", U32 * MAX_UPLINKS),
        ("uplink_count", U32),
        ("flow_buckets", U32),
        ("seed", U64),
        ("host", U32),
        ("mesh_mtu", U32),
        ("mesh_flags", U32),
        ("peers", U32),
        ("vm_buckets", U32),
        ("host_port", U32),
        ("host_mac", U8 * 6),
        ("pad", U16),
        ("pool6", Pool6 * MAX_POOLS6),
        ("pool6_count", U32),
        ("zero", U32),
        ("proxy", BE32),
        ("pad2", U32),
    )


class ProxyPortKey(ct.Structure):
    _fields_ = (("slot", U32), ("port", BE16), ("pad", U16))


class BindKey(ct.Structure):
    _fields_ = (("prefixlen", U32), ("addr", Addr), ("port", BE16), ("pad", U16))


class Host(ct.Structure):
    _fields_ = (("next_hop", Addr), ("ifindex", U32), ("pad", U32))


class SixpnKey(ct.Structure):
    _fields_ = (("network", U32), ("machine", U32))


class NameKey(ct.Structure):
    _fields_ = (("network", U32), ("pad", U32), ("hash", U64 * 2))


class Name(ct.Structure):
    _fields_ = (("count", U32), ("sum", U32), ("addr", Addr * NAME_ADDRESSES))


class DnsLimit(ct.Structure):
    _fields_ = (("seen", U32), ("left", U32))


class DnsScratch(ct.Structure):
    _fields_ = (
        ("front", U8 * 4),
        ("query", U8 * 348),
        ("tail", U32 * DNS_TAIL_WORDS),
        ("pad", U32),
    )


class IcmpLimit(ct.Structure):
    _fields_ = (("seen", U32), ("left", U32))


class Vip(ct.Structure):
    _fields_ = (("flags", U32), ("pad", U32))


class ServiceKey(ct.Structure):
    _fields_ = (("vip", U32), ("port", BE16), ("proto", U8), ("pad", U8))


class ServiceRangeKey(ct.Structure):
    _fields_ = (
        ("prefixlen", U32),
        ("vip", BE32),
        ("proto", U8),
        ("pad", U8),
        ("port", BE16),
    )


class ServiceState(ct.Structure):
    _fields_ = (("generation", U32), ("pad", U32))


class Service(ct.Structure):
    _fields_ = (
        ("id", U32),
        ("table", U32),
        ("internal_port", BE16),
        ("flags", U16),
        ("pad", U32),
    )


class Table(ct.Structure):
    _fields_ = (("start", U32), ("size", U32))


class Slot(ct.Structure):
    _fields_ = (
        ("generation", U32),
        ("flags", U32),
        ("ifindex", U32),
        ("private_ip", BE32),
        ("services_ip", BE32),
        ("mac", U8 * 6),
        ("host_mac", U8 * 6),
        ("machine_id", U64),
        ("network", U32),
        ("host", U32),
        ("machine", U32),
        ("pad", U32 * 3),
    )


class VmSlot(ct.Structure):
    _fields_ = (("ifindex", U32), ("slot", U32))


class VmSlotBucket(ct.Structure):
    _fields_ = (("way", VmSlot * VM_SLOT_WAYS),)


class ReplyKey(ct.Structure):
    _fields_ = (("slot", U32), ("port", BE16), ("proto", U8), ("family", U8))


class Reply(ct.Structure):
    _fields_ = (("vip", Addr), ("service", U32), ("port", BE16), ("flags", U16))


class Flow(ct.Structure):
    _fields_ = (
        ("seal", U64),
        ("client", Addr),
        ("vip", Addr),
        ("client_port", BE16),
        ("vip_port", BE16),
        ("proto", U8),
        ("state", U8),
        ("internal_port", BE16),
        ("slot", U32),
        ("ifindex", U32),
        ("service", U32),
        ("seen", U32),
    )


class Reverse(ct.Structure):
    _fields_ = (
        ("seal", U64),
        ("client", Addr),
        ("vip", Addr),
        ("client_port", BE16),
        ("internal_port", BE16),
        ("proto", U8),
        ("state", U8),
        ("vip_port", BE16),
        ("slot", U32),
        ("service", U32),
        ("seen", U32),
        ("ifindex", U32),
    )


class FlowBucket(ct.Structure):
    _fields_ = (("way", Flow * FLOW_WAYS),)


class ReverseBucket(ct.Structure):
    _fields_ = (("way", Reverse * FLOW_WAYS),)


class FragKey(ct.Structure):
    _fields_ = (("src", BE32), ("dst", BE32), ("id", BE16), ("proto", U8), ("from_vm", U8))


class Frag(ct.Structure):
    _fields_ = (
        ("slot", U32),
        ("generation", U32),
        ("new_addr", BE32),
        ("ifindex", U32),
        ("service", U32),
        ("seen", U32),
    )


class Frag6Key(ct.Structure):
    _fields_ = (("src", Addr), ("dst", Addr), ("id", BE32), ("from_vm", U32))


class Frag6(ct.Structure):
    _fields_ = (
        ("new_addr", Addr),
        ("slot", U32),
        ("generation", U32),
        ("ifindex", U32),
        ("service", U32),
        ("seen", U32),
        ("pad", U32),
    )


class MeshScratch(ct.Structure):
    _fields_ = (("tuple", U64 * 5), ("key", Frag6Key), ("frag", Frag6))


class ServiceStats(ct.Structure):
    _fields_ = (
        ("in_packets", U64),
        ("in_bytes", U64),
        ("out_packets", U64),
        ("out_bytes", U64),
        ("flows", U64),
    )


class DropStats(ct.Structure):
    _fields_ = (("packets", U64), ("bytes", U64))


class PolicyKey(ct.Structure):
    _fields_ = (("prefixlen", U32), ("addr", BE32))
