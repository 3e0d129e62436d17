# SPDX-License-Identifier: Apache-2.0
"""Who has which address in the lab: pure functions of a node's number.

Clients and hosts are numbered from 1. Everything visible outside a VM comes
from the blocks reserved for documentation (RFC 5737), so that nothing in the
lab can be mistaken for a real address.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

CLIENTS = IPv4Network("192.0.2.0/24")
UPLINKS = IPv4Network("198.51.100.0/24")
ANYCAST = IPv4Network("203.0.113.0/24")
PRIVATE = IPv4Network("172.16.0.0/12")
ALIAS = IPv4Network("100.64.0.0/12")

# A link-local address that nobody has: a VM's gateway. The data plane answers
# ARP for everything that is not the VM's own.
GATEWAY = IPv4Address("169.254.0.1")

LINK_PREFIX = 30
POOL_PREFIX = 28
BLOCK_PREFIX = 20

MAX_CLIENTS = 1 << (LINK_PREFIX - CLIENTS.prefixlen)
MAX_HOSTS = 1 << (POOL_PREFIX - ANYCAST.prefixlen)

REGIONS = ("ams", "iad", "nrt", "syd", "gru", "fra", "lhr", "sin")


@dataclass(frozen=True, slots=True)
class Link:
    """A point-to-point link between the router and a node."""

    router: IPv4Address
    node: IPv4Address
    prefixlen: int = LINK_PREFIX


def client_link(number: int) -> Link:
    return _link(CLIENTS, number)


def host_link(number: int) -> Link:
    return _link(UPLINKS, number)


def anycast_pool(number: int) -> IPv4Network:
    """The Anycast addresses that host ``number`` may give to apps."""
    return _slice(ANYCAST, POOL_PREFIX, number)


def private_block(number: int) -> IPv4Network:
    """The private addresses of the VMs on host ``number``."""
    return _slice(PRIVATE, BLOCK_PREFIX, number)


def region(number: int) -> str:
    return REGIONS[(number - 1) % len(REGIONS)]


def _link(network: IPv4Network, number: int) -> Link:
    part = _slice(network, LINK_PREFIX, number)
    return Link(part[1], part[2])


def _slice(network: IPv4Network, prefixlen: int, number: int) -> IPv4Network:
    """The ``number``-th part of ``network``, counted from 1."""
    size = 1 << (network.max_prefixlen - prefixlen)
    base = int(network.network_address) + (number - 1) * size
    part = IPv4Network((base, prefixlen))
    if number < 1 or not part.subnet_of(network):
        raise ValueError(f"{network} has no part {number} of /{prefixlen}")
    return part
