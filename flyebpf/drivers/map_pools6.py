# SPDX-License-Identifier: Apache-2.0
"""IPv6 pools, and the index that their addresses have in ``vips``."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv6Address, IPv6Network

from flyebpf.bpf.layout import MAX_POOLS6, Pool6, Settings
from flyebpf.drivers.mapio import UnappliedError

NOWHERE = Pool6(prefix=(0xFF,) * 16)
"""An entry that stands for no pool: with an empty mask no address matches it."""


class Pools6:
    """Each pool has a place in ``settings``, which it keeps for as long as it exists,
    and the part of ``vips`` that belongs to the place: ``size`` entries, the first
    place's from ``start`` on. A pool is a CIDR, and ``""`` a place without one."""

    def __init__(self, start: int, size: int) -> None:
        self._start = start
        self._size = size
        self.places: list[str] = []
        self._last = [""] * MAX_POOLS6  # what each place has held, gone or not

    def load(self, settings: Settings) -> None:
        """Start from what the kernel has."""
        count = min(settings.pool6_count, MAX_POOLS6)
        self.adopt([cidr_of(pool) for pool in settings.pool6[:count]])

    def arrange(self, wanted: Sequence[str]) -> list[str]:
        """The places for these CIDRs; see :meth:`adopt`. Raises UnappliedError when
        there are too many."""
        places = [cidr if cidr in wanted else "" for cidr in self.places]
        for cidr in wanted:
            if cidr not in places:
                free = places.index("") if "" in places else len(places)
                places[free : free + 1] = [cidr]
        while places and not places[-1]:
            places.pop()
        if len(places) > MAX_POOLS6:
            raise UnappliedError(f"more than {MAX_POOLS6} IPv6 pools", "Merge neighbouring pools.")
        return places

    def new(self, places: Sequence[str]) -> list[int]:
        """The places that would get another pool than they have."""
        before = [*self.places, *[""] * len(places)]
        return [i for i, cidr in enumerate(places) if cidr and cidr != before[i]]

    def adopt(self, places: list[str]) -> None:
        """From now on these; addresses of pools that went can still be named."""
        for i, cidr in enumerate(places):
            self._last[i] = cidr or self._last[i]
        self.places = places

    def part(self, place: int) -> range:
        """The indexes of ``vips`` that belong to a place."""
        first = self._start + place * self._size
        return range(first, first + self._size)

    def lower(self, place: int, cidr: str) -> Pool6:
        """The entry of ``settings``."""
        if not cidr:
            return NOWHERE
        network = IPv6Network(cidr)
        size = min(self._size, network.num_addresses)
        pool = Pool6(vip_base=self.part(place).start, size=size)
        pool.prefix[:] = network.network_address.packed
        pool.mask[:] = network.netmask.packed
        return pool

    def index(self, address: str) -> int | None:
        """The index of an address in ``vips``, or None."""
        number = int(IPv6Address(address))
        for i, cidr in enumerate(self._last):
            if cidr:
                network = IPv6Network(cidr)
                offset = number - int(network.network_address)
                if 0 <= offset < min(self._size, network.num_addresses):
                    return self.part(i).start + offset
        return None

    def address(self, index: int) -> str | None:
        """The address that has this index, or None."""
        place, offset = divmod(index - self._start, self._size)
        if not 0 <= place < MAX_POOLS6 or not self._last[place]:
            return None
        return str(IPv6Network(self._last[place]).network_address + offset)


def cidr_of(pool: Pool6) -> str:
    """The pool of an entry of ``settings``; "" for none."""
    mask = int.from_bytes(bytes(pool.mask), "big")
    if not mask:
        return ""
    return str(IPv6Network((bytes(pool.prefix), mask.bit_count())))
