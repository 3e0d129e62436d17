# SPDX-License-Identifier: Apache-2.0
"""Addresses of the private networks (contract, section 1).

A machine's address, from the most significant bit: ``fdaa`` (16 bits), network
(32), host (32), machine (32), 16 bits of the machine's own, of which it uses
``::2``. Numbers are plain integers.
"""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

PREFIX = 0xFDAA
NAMESERVER = "fdaa::3"
MACHINE_SUFFIX = 2
HOST_BIT = 1 << 31
"""Set in every host's number and in no network's, so that they never collide
in the mesh form of an address."""

FLYCAST_HOST = 1
"""The host field of Flycast addresses; no host has it, as HOST_BIT is not set."""

PEER_MACHINE = 10
"""The machine field of users' WireGuard peers; machines start at 16."""
HOST_SUFFIX = 1
"""Of a host's own address on the mesh, with network and machine 0."""

HOST_PORT, HOST_PORT_FAR = "flyhost", "flyvms"
"""The pair of devices by which the host's own services meet private networks."""
NETWORKS = "fdaa::/17"
"""The addresses of all networks; the other half of fdaa::/16 is that of hosts."""

_U32 = 1 << 32


def machine_base(network: int, host: int, machine: int) -> int:
    """The machine's /112 as a 128-bit integer.

    Raises ValueError for numbers that are out of range or of the wrong kind.
    """
    if not 0 < network < HOST_BIT:
        raise ValueError(f"network number {network} is not in 1..2^31-1")
    if not HOST_BIT <= host < _U32:
        raise ValueError(f"host number {host} is not in 2^31..2^32-1")
    if not 0 < machine < _U32:
        raise ValueError(f"machine number {machine} is not in 1..2^32-1")
    return PREFIX << 112 | network << 80 | host << 48 | machine << 16


def machine_address(network: int, host: int, machine: int) -> str:
    """The address that the machine uses, in canonical text."""
    return str(IPv6Address(machine_base(network, host, machine) | MACHINE_SUFFIX))


def machine_prefix(network: int, host: int, machine: int) -> str:
    """The /112 that the machine owns, as a CIDR."""
    return str(IPv6Network((machine_base(network, host, machine), 112)))


def network_prefix(network: int) -> str:
    """The /48 of a network, as a CIDR."""
    if not 0 < network < HOST_BIT:
        raise ValueError(f"network number {network} is not in 1..2^31-1")
    return str(IPv6Network((PREFIX << 112 | network << 80, 48)))


def host_prefix(host: int) -> str:
    """The /48 of a host in mesh form (network and host field swapped), as a CIDR."""
    if not HOST_BIT <= host < _U32:
        raise ValueError(f"host number {host} is not in 2^31..2^32-1")
    return str(IPv6Network((PREFIX << 112 | host << 80, 48)))


def host_address(host: int) -> str:
    """The host's own address on the mesh."""
    if not HOST_BIT <= host < _U32:
        raise ValueError(f"host number {host} is not in 2^31..2^32-1")
    return str(IPv6Address(PREFIX << 112 | host << 80 | HOST_SUFFIX))


def flycast_address(network: int, number: int) -> str:
    """A Flycast address, ``fdaa:<net>:0:1::<number>``, canonical text.

    Raises ValueError for numbers that are out of range.
    """
    if not 0 < network < HOST_BIT:
        raise ValueError(f"network number {network} is not in 1..2^31-1")
    if not 0 < number < _U32:
        raise ValueError(f"Flycast number {number} is not in 1..2^32-1")
    return str(IPv6Address(PREFIX << 112 | network << 80 | FLYCAST_HOST << 48 | number))


def network_nameserver(network: int) -> str:
    """The DNS address of a network for users' peers: ``fdaa:<net>::3``."""
    return str(IPv6Address(int(IPv6Network(network_prefix(network)).network_address) | 3))


def peer_prefix(network: int, host: int, number: int) -> str:
    """A user's peer: ``fdaa:<net>:<gateway host>:0:a:XX02/120``, XX being
    ``number`` (0 to 255). The CIDR of its 256 addresses."""
    if not 0 <= number < 256:
        raise ValueError(f"peer number {number} is not in 0..255")
    base = machine_base(network, host, PEER_MACHINE)
    return str(IPv6Network((base | number << 8, 120)))


def peer_address(network: int, host: int, number: int) -> str:
    """The one address that a user's peer has of its /120, canonical text."""
    return str(
        IPv6Address(int(IPv6Network(peer_prefix(network, host, number)).network_address) | 2)
    )
