# SPDX-License-Identifier: Apache-2.0
"""Settings, pools and the index that each pool address has in ``vips``."""

from __future__ import annotations

import ctypes as ct
import socket
from collections.abc import Callable, Hashable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network

from flyebpf.bpf.layout import (
    MAX_POOLS,
    MESH_ETHERNET,
    MESH_RETURN_EDGE,
    POOL_SHARED,
    VIP_ALLOCATED,
    VIP_RANGES,
    Pool,
    Settings,
    Vip,
)
from flyebpf.drivers.link import LinkOf
from flyebpf.drivers.map_pools6 import Pools6
from flyebpf.drivers.mapio import MapLike, UnappliedError, explain, u32, write_all
from flyebpf.errors import KernelError
from flyebpf.model.rows import Row, SettingsRow, VipRow
from flyebpf.reconcile.base import Failure

NOWHERE = (0xFFFFFFFF, 0)
"""Prefix and mask of an entry that stands for no pool: no address matches it."""

UNKNOWN = "vip#"
"""How an index is named whose pool is no longer known."""


class Pools:
    """Which part of ``vips`` each pool has. A pool keeps its part and its place
    in ``settings`` for as long as it exists, so that adding or removing another
    one moves nothing."""

    def __init__(self, capacity: int, six: Pools6) -> None:
        """``capacity``: entries of ``vips`` that IPv4 pools have. ``six``: the IPv6
        pools, which have what comes after them."""
        self._capacity = capacity
        self.six = six
        self.places: list[tuple[int, int, int]] = []  # prefix, mask, vip_base
        self._retired: list[tuple[int, int, int]] = []

    def load(self, settings: Settings) -> None:
        """Start from what the kernel has."""
        count = min(settings.pool_count, MAX_POOLS)
        self.places = [(p.prefix, p.mask, p.vip_base) for p in settings.pool[:count]]
        self.six.load(settings)

    def arrange(self, wanted: Sequence[str]) -> list[tuple[int, int, int]]:
        """The places for these CIDRs; see :meth:`adopt`.

        Raises UnappliedError when there are too many, or too many addresses.
        """
        nets = [IPv4Network(text) for text in wanted]
        keys = [(int(net.network_address), int(net.netmask)) for net in nets]
        places = [p if p[:2] in keys else (*NOWHERE, 0) for p in self.places]
        present = {p[:2] for p in places}
        for key in keys:
            if key not in present:
                place = (*key, self._room(places, size_of(key[1])))
                free = next((i for i, p in enumerate(places) if p[:2] == NOWHERE), len(places))
                places[free : free + 1] = [place]
        while places and places[-1][:2] == NOWHERE:
            places.pop()
        if len(places) > MAX_POOLS:
            raise UnappliedError(f"more than {MAX_POOLS} pools", "Merge neighbouring pools.")
        return places

    def _room(self, places: Sequence[tuple[int, int, int]], size: int) -> int:
        """The first part of ``vips`` that is large enough and nobody's."""
        used = sorted((p[2], size_of(p[1])) for p in places if p[:2] != NOWHERE)
        base = 0
        for start, length in used:
            if start - base >= size:
                break
            base = max(base, start + length)
        if base + size > self._capacity:
            raise UnappliedError(
                f"no room for a pool of {size} addresses in the map vips",
                "Raise dataplane.pool_addresses in the configuration and restart the daemon.",
            )
        return base

    def adopt(self, places: list[tuple[int, int, int]]) -> None:
        """From now on these; addresses of pools that went can still be named."""
        gone = [p for p in self.places if p not in places and p[:2] != NOWHERE]
        taken = [(p[2], p[2] + size_of(p[1])) for p in places if p[:2] != NOWHERE]
        self._retired = [
            p
            for p in [*self._retired, *gone]
            if all(p[2] + size_of(p[1]) <= start or p[2] >= end for start, end in taken)
        ]
        self.places = places

    def index(self, address: str) -> int | None:
        """The index of an address in ``vips``, or None; for ``vip#…`` only while
        no pool has that index."""
        if address.startswith(UNKNOWN):
            number = int(address.removeprefix(UNKNOWN))
            return number if self.address(number) == address else None
        if ":" in address:
            return self.six.index(address)
        number = int.from_bytes(socket.inet_aton(address), "big")
        for prefix, mask, base in (*self.places, *self._retired):
            if number & mask == prefix and (prefix, mask) != NOWHERE:
                return base + (number & ~mask & 0xFFFFFFFF)
        return None

    def address(self, index: int) -> str:
        """The address that has this index."""
        for prefix, mask, base in (*self.places, *self._retired):
            if 0 <= index - base < size_of(mask) and (prefix, mask) != NOWHERE:
                return socket.inet_ntoa((prefix + index - base).to_bytes(4, "big"))
        return self.six.address(index) or f"{UNKNOWN}{index}"


def size_of(mask: int) -> int:
    """Addresses under a netmask."""
    return (~mask & 0xFFFFFFFF) + 1


class SettingsPart:
    """The one entry of ``settings``."""

    kind: type[Row] = SettingsRow

    def __init__(
        self,
        table: MapLike,
        pools: Pools,
        link_of: LinkOf,
        sizes: Mapping[str, int],
        purge: Callable[[range], None],
    ) -> None:
        """``sizes``: fields of ``struct settings`` that say how large maps are.
        ``purge`` removes all entries for a range of indexes of ``vips``."""
        self._table = table
        self._pools = pools
        self._link_of = link_of
        self._map_sizes = sizes
        self._purge = purge

    def load(self) -> None:
        self._pools.load(Settings.from_buffer_copy(self._table.lookup(u32(0)) or bytes(SIZE)))

    def read(self) -> dict[Hashable, object]:
        value = self._table.lookup(u32(0)) or bytes(SIZE)
        return {"settings": value} if any(value) else {}

    def fingerprint(self, row: Row) -> object:
        assert isinstance(row, SettingsRow)
        try:
            return bytes(self._lower(row, *self._arrange(row)))
        except UnappliedError as error:
            return error.error

    def apply(self, puts: Sequence[Row], deletes: Sequence[Hashable]) -> list[Failure]:
        """Without settings nothing is delivered, so a deletion clears them."""
        failures: list[Failure] = []
        try:
            if deletes:
                self._table.update(u32(0), bytes(SIZE))
                self._pools.load(Settings())
            for row in puts:
                assert isinstance(row, SettingsRow)
                self._write(row)
        except UnappliedError as error:
            failures.append(error.failure(SettingsRow, puts[0].key))
        except KernelError as error:
            key = puts[0].key if puts else deletes[0]
            failures.append(explain("settings", error).failure(SettingsRow, key))
        return failures

    def _write(self, row: SettingsRow) -> None:
        """New pools get their base first and their prefix after that: a packet
        never finds a prefix with another pool's base."""
        places, six = self._arrange(row)
        new = [place for place in places if place not in self._pools.places]
        for prefix, mask, base in new:
            if (prefix, mask) != NOWHERE:
                self._purge(range(base, base + size_of(mask)))
        new6 = self._pools.six.new(six)
        for i in new6:
            self._purge(self._pools.six.part(i))
        if new or new6:
            veiled = [(*NOWHERE, p[2]) if p in new else p for p in places]
            veiled6 = ["" if i in new6 else cidr for i, cidr in enumerate(six)]
            self._table.update(u32(0), bytes(self._lower(row, veiled, veiled6)))
        self._table.update(u32(0), bytes(self._lower(row, places, six)))
        self._pools.adopt(places)
        self._pools.six.adopt(six)

    def _arrange(self, row: SettingsRow) -> tuple[list[tuple[int, int, int]], list[str]]:
        return self._pools.arrange(row.pools), self._pools.six.arrange(row.pools6)

    def _lower(
        self, row: SettingsRow, places: Sequence[tuple[int, int, int]], six: Sequence[str]
    ) -> Settings:
        """Interfaces that do not exist are left out; they are reported by the
        driver that would make them, or attach programs to them."""
        private, alias = IPv4Network(row.private_prefix), IPv4Network(row.alias_prefix)
        found = [self._link_of(name) for name in row.uplinks]
        uplinks = [link.ifindex for link in found if link is not None]
        peers = self._link_of(row.peers) if row.peers else None
        settings = Settings(
            pool_count=len(places),
            private_prefix=int(private.network_address),
            private_mask=int(private.netmask),
            alias_prefix=int(alias.network_address),
            uplink_count=len(uplinks),
            seed=row.seed & 0xFFFFFFFFFFFFFFFF,
            host=row.host,
            mesh_mtu=row.mesh_mtu,
            mesh_flags=mesh_flags(row),
            peers=peers.ifindex if peers else 0,
            **self._map_sizes,
        )
        port = self._link_of(row.host_port) if row.host_port else None
        if port is not None:
            settings.host_port = port.ifindex
            settings.host_mac[:] = port.mac
        if row.proxy:
            settings.proxy = int(IPv4Address(row.proxy))
        nets = [IPv4Network(text) for text in row.shared]
        shared = {(int(net.network_address), int(net.netmask)) for net in nets}
        for i, (prefix, mask, base) in enumerate(places):
            flags = POOL_SHARED if (prefix, mask) in shared else 0
            settings.pool[i] = Pool(prefix=prefix, mask=mask, vip_base=base, flags=flags)
        settings.pool6_count = len(six)
        for i, cidr in enumerate(six):
            settings.pool6[i] = self._pools.six.lower(i, cidr)
        for i, ifindex in enumerate(uplinks):
            settings.uplink[i] = ifindex
        return settings


def mesh_flags(row: SettingsRow) -> int:
    edge = MESH_RETURN_EDGE if row.return_edge else 0
    return edge | (MESH_ETHERNET if row.mesh_ethernet else 0)


SIZE = ct.sizeof(Settings)


class VipPart:
    """``vips``: flags of the addresses that apps own."""

    kind: type[Row] = VipRow

    def __init__(self, table: MapLike, pools: Pools) -> None:
        self._table = table
        self._pools = pools

    def read(self) -> dict[Hashable, object]:
        return {
            self._pools.address(int.from_bytes(key, "little")): value
            for key, value in self._table.filled()
        }

    def fingerprint(self, row: Row) -> object:
        assert isinstance(row, VipRow)
        return bytes(Vip(flags=VIP_ALLOCATED | (VIP_RANGES if row.ranges else 0)))

    def apply(self, puts: Sequence[Row], deletes: Sequence[Hashable]) -> list[Failure]:
        failures: list[Failure] = []
        keys: dict[bytes, Hashable] = {}
        pairs: list[tuple[bytes, bytes]] = []
        wanted = [(row.key, self.fingerprint(row)) for row in puts]
        for key, value in [*wanted, *((key, bytes(ct.sizeof(Vip))) for key in deletes)]:
            index = self._pools.index(str(key))
            if index is not None:
                keys[u32(index)] = key
                pairs.append((u32(index), bytes(value)))  # type: ignore[call-overload]
            elif key not in deletes:
                failures.append(no_pool(str(key)).failure(VipRow, key))
        for raw, error in write_all(self._table, pairs).items():
            failures.append(explain("vips", error).failure(VipRow, keys[raw]))
        return failures

    def purge(self, indexes: range) -> None:
        """Nobody owns these addresses."""
        nothing = bytes(ct.sizeof(Vip))
        used = [int.from_bytes(key, "little") for key, _ in self._table.filled()]
        mine = [u32(index) for index in used if index in indexes]
        write_all(self._table, [(key, nothing) for key in mine])


def no_pool(address: str) -> UnappliedError:
    """The address belongs to no pool of this host."""
    return UnappliedError(
        f"address {address} is in no pool of this host",
        "Add its network to [pools] in the configuration, or release the address.",
        permanent=True,
    )
