# SPDX-License-Identifier: Apache-2.0
"""Addresses and prefixes as integers: planning checks many of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address, IPv6Network, NetmaskValueError
from socket import AF_INET, inet_ntoa, inet_pton


def parse_ipv4(text: str) -> int | None:
    """The address in host order, or None when ``text`` is not one."""
    try:
        return int.from_bytes(inet_pton(AF_INET, text), "big")
    except (OSError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Prefix:
    """An IPv4 prefix; ``network`` has no bits outside of ``mask``."""

    network: int
    mask: int

    @classmethod
    def parse(cls, text: str) -> Prefix | None:
        """A CIDR such as ``10.0.0.0/8``; None when it is not one, or when it
        has host bits set."""
        address, _, length = text.partition("/")
        number = parse_ipv4(address)
        if number is None or not length.isdecimal() or int(length) > 32:
            return None
        mask = (0xFFFFFFFF << (32 - int(length))) & 0xFFFFFFFF
        return None if number & ~mask else cls(number, mask)

    def __contains__(self, address: int) -> bool:
        return address & self.mask == self.network

    def covers(self, other: Prefix) -> bool:
        """Whether ``other`` is the same or a part of this one."""
        return self.mask & other.mask == self.mask and other.network & self.mask == self.network


def parse_all(texts: Iterable[str]) -> tuple[Prefix, ...]:
    """Those of ``texts`` that are IPv4 prefixes."""
    return tuple(prefix for text in texts if (prefix := Prefix.parse(text)))


def within(address: int, prefixes: Iterable[Prefix]) -> bool:
    """Whether one of ``prefixes`` contains the address."""
    return any(address in prefix for prefix in prefixes)


@dataclass(frozen=True, slots=True)
class Pool6:
    """The part of an IPv6 pool that is given out: ``size`` addresses from ``first``."""

    first: int
    size: int

    @classmethod
    def parse(cls, text: str, most: int) -> Pool6 | None:
        """Of a CIDR, at most so many addresses; None when it is not one, or has host
        bits set."""
        try:
            network = IPv6Network(text)
        except (AddressValueError, NetmaskValueError, ValueError):
            return None
        return cls(int(network.network_address), min(network.num_addresses, most))

    def __contains__(self, address: str) -> bool:
        try:
            return 0 <= int(IPv6Address(address)) - self.first < self.size
        except AddressValueError:
            return False


def proxy_source(block: str) -> str:
    """What machines see as the proxy of the host with this private block: its gateway
    (``ops.pools.linked`` gives that to nobody). "" for what is no IPv4 prefix."""
    prefix = Prefix.parse(block)
    return "" if prefix is None else inet_ntoa((prefix.network + 1).to_bytes(4, "big"))
