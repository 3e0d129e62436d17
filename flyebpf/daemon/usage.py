# SPDX-License-Identifier: Apache-2.0
"""How much of what can run out is used, and how packets reach the machines."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable
from ipaddress import ip_network
from socket import AF_INET, AF_INET6, inet_pton

from flyebpf.api.backend import Delivery, Fill, PoolUse
from flyebpf.bpf.layout import FLOW_WAYS
from flyebpf.bpf.maps import flow_buckets
from flyebpf.config import DaemonConfig, DataplaneConfig
from flyebpf.daemon.engine import Engine
from flyebpf.drivers.mapio import SIZED_BY
from flyebpf.model.records import Address, AddressKind

NAMES = {
    "service_states": "services",
    "slots": "machines",
    "tables": "tables",
    "maglev": "maglev_entries",
    "names": "names",
}
"""What the maps driver calls a table, and what its users do."""


def delivery(engine: Engine) -> Delivery:
    """Of this host's machines, stopped ones included."""
    ways = Counter(engine.delivery_ways().values())
    return Delivery(xdp=ways["xdp"], tc=ways["tc"], missing=ways["missing"])


DEDICATED = {AddressKind.V4: AF_INET, AddressKind.V6: AF_INET6}


def pools(config: DaemonConfig, addresses: Iterable[Address]) -> list[PoolUse]:
    """Of dedicated addresses. One that no pool has any more is not counted."""
    numbers: dict[AddressKind, list[bytes]] = {kind: [] for kind in DEDICATED}
    for address in addresses:
        if address.type in DEDICATED:
            packed = inet_pton(DEDICATED[address.type], address.address)
            numbers[address.type].append(packed)
    four, six = (sorted(found) for found in numbers.values())
    most = config.dataplane.pool6_addresses
    return [
        *(pool_use(cidr, four) for cidr in config.pools.anycast_v4),
        *(pool_use(cidr, six, most) for cidr in config.pools.anycast_v6),
    ]


def pool_use(cidr: str, numbers: list[bytes], most: int | None = None) -> PoolUse:
    """``numbers``: all allocated addresses, sorted; ``most``: that are given out."""
    network = ip_network(cidr)
    first, last = network.network_address.packed, network.broadcast_address.packed
    allocated = bisect_right(numbers, last) - bisect_left(numbers, first)
    size = network.num_addresses if most is None else min(network.num_addresses, most)
    return PoolUse(cidr, allocated, size)


def tables(engine: Engine) -> dict[str, Fill]:
    """What the maps driver gives out."""
    found = engine.maps.fill()
    return {
        called: Fill(*found[name], f"dataplane.{SIZED_BY[name]}")
        for name, called in NAMES.items()
        if name in found
    }


def flows(entries: int, config: DataplaneConfig) -> Fill:
    """``entries``: the estimate (:meth:`flyebpf.drivers.counters.Counters.flow_entries`)."""
    return Fill(entries, flow_buckets(config) * FLOW_WAYS, "dataplane.flows", sampled=True)
