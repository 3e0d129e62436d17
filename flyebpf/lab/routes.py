# SPDX-License-Identifier: Apache-2.0
"""Which host the lab's internet sends an Anycast address to.

Every host of a cluster announces the same pool. The router spreads flows over
them, as equal-cost routes do, until it is told otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network

from flyebpf.errors import InvalidError
from flyebpf.lab import addressing, hosts, net
from flyebpf.lab.state import Host, Lab

Network = IPv4Network | IPv6Network
POOLS = f"{addressing.ANYCAST} or {addressing.ANYCAST6}"


def send(lab: Lab, target: str, names: Sequence[str]) -> None:
    """Packets for ``target`` (an address or a part of the pool) reach the cluster
    at these hosts; several share its flows."""
    network = parse(target)
    nodes = [hosts.find(lab, name) for name in names]
    put(lab, network, nodes)


def put(lab: Lab, network: Network, nodes: Sequence[Host]) -> None:
    link_of = addressing.host_link if network.version == 4 else addressing.host_link6
    ways = [f"via {link_of(node.number).node} dev {node.name}" for node in nodes]
    words = ways[0] if len(ways) == 1 else " ".join(f"nexthop {way}" for way in ways)
    net.batch(lab.router, f"route replace {network} {words}")


def parse(target: str) -> Network:
    try:
        network = ip_network(target)
    except ValueError as error:
        raise InvalidError(
            f"{target!r} is not an address or prefix: {error}",
            f"Give an Anycast address, or all of them: {POOLS}",
        ) from error
    if not is_anycast(network):
        raise InvalidError(
            f"{target} is not an Anycast address of the lab",
            f"They are in {POOLS}.",
        )
    return network


def is_anycast(network: Network) -> bool:
    if isinstance(network, IPv4Network):
        return network.subnet_of(addressing.ANYCAST)
    return network.subnet_of(addressing.ANYCAST6)


def table(lab: Lab) -> list[tuple[str, str]]:
    """Each route of the Anycast pool, and the hosts that it leads to."""
    found = []
    for route in net.routes(lab.router):
        destination = str(route["dst"])
        if not destination[0].isdigit() or not is_anycast(ip_network(destination)):
            continue
        ways = route.get("nexthops") or [route]
        found.append((destination, ", ".join(str(way["dev"]) for way in ways)))
    return found
