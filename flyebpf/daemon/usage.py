# SPDX-License-Identifier: Apache-2.0
"""How much of what can run out is used, and how packets reach the machines."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable
from ipaddress import ip_network
from socket import inet_aton

from flyebpf.api.backend import Delivery, Fill, PoolUse
from flyebpf.bpf.layout import FLOW_WAYS
from flyebpf.bpf.maps import flow_buckets
from flyebpf.config import DataplaneConfig
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


def pools(cidrs: Iterable[str], addresses: Iterable[Address]) -> list[PoolUse]:
    """Of dedicated IPv4 addresses. One that no pool has any more is not counted."""
    numbers = sorted(inet_aton(a.address) for a in addresses if a.type is AddressKind.V4)
    found = []
    for cidr in cidrs:
        network = ip_network(cidr)
        first, last = network.network_address.packed, network.broadcast_address.packed
        allocated = bisect_right(numbers, last) - bisect_left(numbers, first)
        found.append(PoolUse(cidr, allocated, network.num_addresses))
    return found


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
