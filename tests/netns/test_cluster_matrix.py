# SPDX-License-Identifier: Apache-2.0
"""Who reaches whom: 50 machines in 10 networks on 3 hosts, every pair."""

from __future__ import annotations

from itertools import permutations

import pytest

from tests.netns.cluster import Cluster
from tests.netns.conftest import CreateApp
from tests.netns.rig import App

pytestmark = pytest.mark.root

NETWORKS = [(org, network) for org in "abcde" for network in ("default", "other")]
EACH = 5
PROTOCOLS = ("tcp", "udp", "icmp")
Pair = tuple[int, int]


@pytest.fixture(scope="module")
def names(cluster: Cluster, cluster_app: CreateApp) -> list[str]:
    """The VMs' names; those of a network are next to each other. Each network
    has machines on every host, and two on the same."""
    made: list[str] = []
    apps: list[App] = []
    for number, (org, network) in enumerate(NETWORKS):
        app = cluster_app(f"m-{org}-{network}", org=f"m-{org}", network=network, vip=False)
        apps.append(app)
        for member in range(EACH):
            name = f"m{number}-{member}"
            host = cluster.hosts[(number + member) % len(cluster.hosts)]
            cluster.make_vm(app, name, host=host)
            made.append(name)
    cluster.settle()
    return made


def network_of(position: int) -> int:
    return position // EACH


def allowed(count: int) -> set[Pair]:
    pairs = permutations(range(count), 2)
    return {(one, other) for one, other in pairs if network_of(one) == network_of(other)}


def pairs(found: list[list[int]]) -> set[Pair]:
    return {(one, other) for one, other in found}


def test_exactly_the_machines_of_a_network_reach_each_other(
    cluster: Cluster, names: list[str]
) -> None:
    expected = allowed(len(names))
    assert len(expected) == len(NETWORKS) * EACH * (EACH - 1)
    before = cluster.all_drops()
    found = cluster.reach(names, expected=expected)
    for protocol in PROTOCOLS:
        assert pairs(found["arrived"][protocol]) == expected, protocol
        assert pairs(found["answered"][protocol]) == expected, protocol
    assert found["strange"] == []
    after = cluster.all_drops()
    refused = len(names) * (len(names) - 1) - len(expected)
    grown = after.get("sixpn_network", 0) - before.get("sixpn_network", 0)
    assert grown >= len(PROTOCOLS) * refused


def test_private_ipv4_addresses_lead_nowhere(cluster: Cluster, names: list[str]) -> None:
    sample = names[:: EACH - 1]  # of all networks and hosts
    for addresses in ("private_ip", "services_ip"):
        found = cluster.reach(sample, addresses)
        assert found["arrived"] == found["answered"] == {name: [] for name in PROTOCOLS}
        assert found["strange"] == []
