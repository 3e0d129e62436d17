# SPDX-License-Identifier: Apache-2.0
"""Who has which address in the lab: pure functions of a node's number.

Clients, hosts and members of etcd are numbered from 1. Everything visible
outside a VM comes from the blocks reserved for documentation (RFC 5737, RFC 3849),
and what hosts use among themselves from the one for benchmarks (RFC 2544), so that
nothing in the lab can be mistaken for a real address.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import combinations

CLIENTS = IPv4Network("192.0.2.0/24")
UPLINKS = IPv4Network("198.51.100.0/24")
ANYCAST = IPv4Network("203.0.113.0/24")
SHARED = IPv4Network("198.51.100.128/29")
"""Addresses that apps share, beyond the hosts' links."""
PRIVATE = IPv4Network("172.16.0.0/12")
ALIAS = IPv4Network("100.64.0.0/12")
FABRIC = IPv4Network("198.18.0.0/24")
CLIENTS6 = IPv6Network("2001:db8:c::/48")
UPLINKS6 = IPv6Network("2001:db8:b::/48")
ANYCAST6 = IPv6Network("2001:db8:a::/48")

# Link-local addresses that nobody has: a VM's gateway. The data plane answers
# ARP and neighbour solicitations for them.
GATEWAY = IPv4Address("169.254.0.1")
GATEWAY6 = IPv6Address("fe80::1")

LINK_PREFIX = 30
PREFIX6 = 64  # of links and pools
POOL_PREFIX = 28
BLOCK_PREFIX = 20

MAX_CLIENTS = 1 << (LINK_PREFIX - CLIENTS.prefixlen)
MAX_HOSTS = 1 << (POOL_PREFIX - ANYCAST.prefixlen)

HOSTS_PER_REGION = 2
REGIONS = {
    "ams": 0,
    "fra": 8,
    "iad": 80,
    "gru": 190,
    "nrt": -230,
    "sin": -160,
    "syd": -280,
    "lhr": 6,
}
"""Where each is on a line, in ms of round trip: the lab's wires are all equally
short, so that what hosts measure would decide nothing."""

ETCD_MEMBERS = 3
ETCD_OFFSET = 100
ETCD_CLIENT_PORT = 2379
ETCD_PEER_PORT = 2380


@dataclass(frozen=True, slots=True)
class Link:
    """A point-to-point link between the router and a node."""

    router: IPv4Address | IPv6Address
    node: IPv4Address | IPv6Address
    prefixlen: int = LINK_PREFIX


def client_link(number: int) -> Link:
    return _link(CLIENTS, number)


def host_link(number: int) -> Link:
    return _link(UPLINKS, number)


def client_link6(number: int) -> Link:
    return _link6(CLIENTS6, number)


def host_link6(number: int) -> Link:
    return _link6(UPLINKS6, number)


def anycast_pool6(number: int) -> IPv6Network:
    """The Anycast IPv6 addresses that host ``number`` may give to apps."""
    return _slice6(ANYCAST6, number)


def anycast_pool(number: int) -> IPv4Network:
    """The Anycast addresses that host ``number`` may give to apps."""
    return _slice(ANYCAST, POOL_PREFIX, number)


def private_block(number: int) -> IPv4Network:
    """The private addresses of the VMs on host ``number``."""
    return _slice(PRIVATE, BLOCK_PREFIX, number)


def fabric_address(number: int) -> IPv4Address:
    """Host ``number`` on the network that only hosts and etcd are on."""
    return FABRIC[number]


def etcd_address(number: int) -> IPv4Address:
    return FABRIC[ETCD_OFFSET + number]


def region(number: int) -> str:
    """Two hosts a region: host1 and host2 in ams, host3 and host4 in fra, …"""
    return tuple(REGIONS)[(number - 1) // HOSTS_PER_REGION]


def latencies(hosts: int) -> tuple[str, ...]:
    """Round-trip times between the regions of that many hosts, as the daemon's
    configuration takes them: ``"ams fra 8"``, in ms."""
    used = tuple(REGIONS)[: -(-hosts // HOSTS_PER_REGION)]
    return tuple(
        f"{one} {other} {max(1, abs(REGIONS[one] - REGIONS[other]))}"
        for one, other in combinations(used, 2)
    )


def _link(network: IPv4Network, number: int) -> Link:
    part = _slice(network, LINK_PREFIX, number)
    return Link(part[1], part[2])


def _link6(network: IPv6Network, number: int) -> Link:
    part = _slice6(network, number)
    return Link(part[1], part[2], PREFIX6)


def _slice6(network: IPv6Network, number: int) -> IPv6Network:
    """The part of ``network`` with that number."""
    return IPv6Network((int(network.network_address) + (number << (128 - PREFIX6)), PREFIX6))


def _slice(network: IPv4Network, prefixlen: int, number: int) -> IPv4Network:
    """The ``number``-th part of ``network``, counted from 1."""
    size = 1 << (network.max_prefixlen - prefixlen)
    base = int(network.network_address) + (number - 1) * size
    part = IPv4Network((base, prefixlen))
    if number < 1 or not part.subnet_of(network):
        raise ValueError(f"{network} has no part {number} of /{prefixlen}")
    return part
