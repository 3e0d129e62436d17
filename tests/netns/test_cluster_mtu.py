# SPDX-License-Identifier: Apache-2.0
"""Packets that are too long for the mesh: the sender is told, nothing vanishes.

VMs have the MTU of Ethernet here, as a VM that was not told would.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from tests.netns.cluster import Cluster
from tests.netns.conftest import CreateApp
from tests.netns.rig import App, service, tool_argv

pytestmark = pytest.mark.root

CARRIED = 40  # bytes of IPv6 around what an edge sends on
TRANSFER = 15_000_000  # bytes


@pytest.fixture(scope="module")
def mesh_mtu(cluster: Cluster) -> int:
    """Of the mesh, as its devices have it: the longest packet of 6PN."""
    links = json.loads(cluster.run("host1", "ip", "-j", "link", "show").stdout)
    [mtu] = {link["mtu"] for link in links if link["ifname"] in {"fly0", "fly1"}}
    assert 1280 <= mtu < 1500
    return int(mtu)


@pytest.fixture(scope="module")
def app(cluster: Cluster, cluster_app: CreateApp) -> App:
    """VMs mtu1 and near on host1, mtu2 on host2, with servers; the service on mtu2."""
    made = cluster_app("mtu", service("tcp", 5201, 5201))
    cluster.add_vm(made, "mtu2", "iperf3", "-s", host="host2")
    others = cluster_app("mtu-near", vip=False)
    length = tool_argv("udp_length", 5000)
    cluster.add_vm(others, "mtu1", *length, host="host1")
    cluster.add_vm(others, "near", *length, host="host1")
    cluster.add_vm(others, "far", *length, host="host3")
    for name in ("mtu1", "near", "far", "mtu2"):
        cluster.run(name, "ip", "link", "set", "eth0", "mtu", "1500")
    cluster.until(lambda: cluster.listening("mtu2", "tcp", 5201), "iperf3 listens")
    for name in ("near", "far"):
        cluster.until(lambda name=name: cluster.listening(name, "udp", 5000), f"{name} listens")
    cluster.edge(made.vip, "host1")
    return made


def iperf(cluster: Cluster, node: str, address: str, *options: str) -> Any:
    command = ["iperf3", "-c", address, "-n", str(TRANSFER), "-J", *options]
    return json.loads(cluster.run(node, *command, timeout=120).stdout)


@pytest.mark.parametrize("options", [[], ["-R"]])
def test_tcp_to_a_service_is_told_its_segment_size(
    cluster: Cluster, app: App, mesh_mtu: int, options: list[str]
) -> None:
    before = cluster.all_drops().get("too_big", 0)
    result = iperf(cluster, "client1", app.vip, *options)
    assert result["end"]["sum_received"]["bytes"] > TRANSFER / 2
    if not options:  # the direction that crosses the mesh
        assert result["start"]["tcp_mss_default"] <= mesh_mtu - CARRIED - 40
    assert cluster.all_drops().get("too_big", 0) == before


@pytest.mark.parametrize("options", [[], ["-R"]])
def test_tcp_between_vms_of_two_hosts_with_offloads(
    cluster: Cluster, app: App, mesh_mtu: int, options: list[str]
) -> None:
    del app
    for name in ("mtu1", "far"):
        assert "tcp-segmentation-offload: on" in cluster.run(name, "ethtool", "-k", "eth0").stdout
    with cluster.background("far", "iperf3", "-s", "-p", "5300"):
        cluster.until(lambda: cluster.listening("far", "tcp", 5300), "iperf3 listens in far")
        result = iperf(cluster, "mtu1", cluster.sixpn("far"), "-p", "5300", *options)
    assert result["end"]["sum_received"]["bytes"] > TRANSFER / 2
    assert result["start"]["tcp_mss_default"] <= mesh_mtu - 60


def test_udp_of_a_client_is_told_with_fragmentation_needed(
    cluster: Cluster, cluster_app: CreateApp, mesh_mtu: int
) -> None:
    udp = cluster_app("mtu-udp", service("udp", 5000, 7777))
    cluster.add_echo(udp, "mtu-echo", host="host2")
    cluster.edge(udp.vip, "host1")
    before = cluster.drops("host1").get("too_big", 0)
    found = cluster.tool("client2", "path_mtu", udp.vip, 7777)
    assert found["answered"]
    assert found["mtu"] == mesh_mtu - CARRIED
    assert found["payloads"][0] == 1500 - 28
    assert cluster.drops("host1").get("too_big", 0) > before


def test_udp_between_vms_is_told_with_packet_too_big(
    cluster: Cluster, app: App, mesh_mtu: int
) -> None:
    del app
    before = cluster.drops("host1").get("too_big", 0)
    found = cluster.tool("mtu1", "path_mtu", cluster.sixpn("far"), 5000)
    assert found["answered"]
    assert found["mtu"] == mesh_mtu
    assert found["payloads"][0] == 1500 - 48
    assert cluster.drops("host1").get("too_big", 0) > before


def test_on_one_host_packets_are_as_long_as_the_link_takes(cluster: Cluster, app: App) -> None:
    del app
    found = cluster.tool("mtu1", "path_mtu", cluster.sixpn("near"), 5000)
    assert found == {"mtu": 1500, "answered": True, "payloads": [1500 - 48]}


def test_a_datagram_in_fragments_crosses_the_mesh(cluster: Cluster, app: App) -> None:
    """The sender's own fragments, of a length that the path takes."""
    del app
    script = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.settimeout(1)\n"
        "for _ in range(20):\n"
        "    s.sendto(bytes(8000), (sys.argv[1], 5000))\n"
        "    try: print(s.recv(100).decode()); break\n"
        "    except TimeoutError: pass\n"
    )
    command = [sys.executable, "-c", script, cluster.sixpn("far")]
    assert cluster.run("mtu1", *command).stdout == "8000\n"
