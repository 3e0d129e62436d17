# SPDX-License-Identifier: Apache-2.0
"""Giving out addresses of a pool, each to one owner.

First every address that was never given out, in order; then those that were
released, the longest released first. So an address rests for as long as the
pool allows before its next owner, who would else get packets of the last one.
Both steps take constant time. The record that an address belongs to somebody
decides; positions and queue only say where to look. When they say that nothing
is left, the whole pool is searched: a pool that was taken out of the
configuration and put back may have addresses that they do not know.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from flyebpf.model.records import Address, Pool, PrivateAddress, Released
from flyebpf.ops.transact import Tx

Used = type[Address] | type[PrivateAddress]

_STALE = 200
"""Entries of the queue that one transaction drops at most, as etcd takes only so
many writes; the next one goes on from there."""


@dataclass(frozen=True, slots=True)
class Block:
    """The usable part of ``cidr``: ``count`` addresses from ``first`` on, given
    out from the one at ``start`` on, and around."""

    cidr: str
    first: IPv4Address | IPv6Address
    count: int
    start: int = 0

    def __getitem__(self, position: int) -> str:
        """The address that is given out at this position, from 0 on."""
        return str(self.first + (position + self.start) % self.count)

    def __contains__(self, address: str) -> bool:
        try:
            parsed = ip_address(address)
        except ValueError:  # in a record that nobody of us wrote
            return False
        if parsed.version != self.first.version:
            return False
        return 0 <= int(parsed) - int(self.first) < self.count


def routed(cidr: str, most: int | None = None) -> Block:
    """A pool whose addresses are routed to the hosts one by one (Anycast): there
    is no link and so no network or broadcast address; all are usable. The
    first one (``.0``) comes last: some filters out there still think otherwise.
    ``most``: no more than so many, from the first one on."""
    network = ip_network(cidr)
    count = network.num_addresses if most is None else min(network.num_addresses, most)
    return Block(cidr, network.network_address, count, start=1 % count)


def linked(cidr: str) -> Block:
    """A pool that machines see as their link's: all but its network address,
    the gateway (the first one) and the broadcast address."""
    network = ip_network(cidr)
    return Block(cidr, network.network_address + 2, max(network.num_addresses - 3, 0))


def take(tx: Tx, name: str, blocks: Sequence[Block], used: Used) -> str | None:
    """A free address, or None when the pool is full.

    The caller writes the record of kind ``used`` under it in the same
    transaction.
    """
    pool = tx.get(Pool, name) or Pool(name)
    pool, address = _never_given_out(tx, pool, blocks, used)
    if address is None:
        pool, address = _released(tx, pool, blocks, used)
    if address is None:
        address = _searched(tx, blocks, used)
    if address is not None:
        tx.put(pool)
    return address


def give_back(tx: Tx, name: str, address: str) -> None:
    """Queue an address; the caller deletes the record that it is used."""
    pool = tx.get(Pool, name) or Pool(name)
    tx.put_unguarded(Released(name, pool.tail, address))  # guarded by the pool's record
    tx.put(replace(pool, tail=pool.tail + 1))


def _never_given_out(
    tx: Tx, pool: Pool, blocks: Sequence[Block], used: Used
) -> tuple[Pool, str | None]:
    positions = dict(pool.positions)
    for block in blocks:
        for offset in range(positions.get(block.cidr, 0), block.count):
            positions[block.cidr] = offset + 1
            address = block[offset]
            if tx.is_free(used, address):
                return replace(pool, positions=positions), address
    return replace(pool, positions=positions), None


def _released(tx: Tx, pool: Pool, blocks: Sequence[Block], used: Used) -> tuple[Pool, str | None]:
    last = min(pool.tail, pool.head + _STALE)
    while pool.head < last:
        ident = f"{pool.name}/{pool.head}"
        released = tx.glance(Released, ident)  # guarded by the pool's record
        tx.delete(Released, ident)
        pool = replace(pool, head=pool.head + 1)
        if released is None or not any(released.address in block for block in blocks):
            continue
        if tx.is_free(used, released.address):
            return pool, released.address
    return pool, None


def _searched(tx: Tx, blocks: Sequence[Block], used: Used) -> str | None:
    taken = {entry.id for entry in tx.store.list(used.kind)}
    free = (address for address in _addresses(blocks) if address not in taken)
    return next((address for address in free if tx.is_free(used, address)), None)


def _addresses(blocks: Sequence[Block]) -> Iterator[str]:
    for block in blocks:
        for offset in range(block.count):
            yield block[offset]
