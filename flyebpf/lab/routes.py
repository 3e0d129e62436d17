# SPDX-License-Identifier: Apache-2.0
"""Which host the lab's internet sends an Anycast address to.

Every host of a cluster announces the same pool. The router spreads flows over
them, as equal-cost routes do, until it is told otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network

from flyebpf.errors import InvalidError
from flyebpf.lab import addressing, hosts, net
from flyebpf.lab.state import Host, Lab


def send(lab: Lab, target: str, names: Sequence[str]) -> None:
    """Packets for ``target`` (an address or a part of the pool) reach the cluster
    at these hosts; several share its flows."""
    network = parse(target)
    nodes = [hosts.find(lab, name) for name in names]
    put(lab, network, nodes)


def put(lab: Lab, network: IPv4Network, nodes: Sequence[Host]) -> None:
    ways = [f"via {node.address} dev {node.name}" for node in nodes]
    words = ways[0] if len(ways) == 1 else " ".join(f"nexthop {way}" for way in ways)
    net.batch(lab.router, f"route replace {network} {words}")


def parse(target: str) -> IPv4Network:
    try:
        network = IPv4Network(target)
    except ValueError as error:
        raise InvalidError(
            f"{target!r} is not an IPv4 address or prefix: {error}",
            f"Give an Anycast address, or all of them: {addressing.ANYCAST}",
        ) from error
    if not network.subnet_of(addressing.ANYCAST):
        raise InvalidError(
            f"{target} is not an Anycast address of the lab",
            f"They are in {addressing.ANYCAST}.",
        )
    return network


def table(lab: Lab) -> list[tuple[str, str]]:
    """Each route of the Anycast pool, and the hosts that it leads to."""
    found = []
    for route in net.routes(lab.router):
        destination = str(route["dst"])
        if not destination[0].isdigit() or not IPv4Network(destination).subnet_of(
            addressing.ANYCAST
        ):
            continue
        ways = route.get("nexthops") or [route]
        found.append((destination, ", ".join(str(way["dev"]) for way in ways)))
    return found
