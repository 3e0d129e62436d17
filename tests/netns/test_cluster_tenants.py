# SPDX-License-Identifier: Apache-2.0
"""Machines come, move and go: nobody gets what was meant for another."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from flyebpf.lab.state import Vm
from tests.netns.cluster import Cluster
from tests.netns.conftest import CreateApp
from tests.netns.rig import App, service, tool_argv

pytestmark = pytest.mark.root

SMALL = "172.16.44.0/29"  # of host3's block: five addresses, two a machine


@pytest.fixture
def small(cluster: Cluster) -> Iterator[None]:
    with cluster.block("host3", SMALL):
        yield


def mirror(port: int = 5000) -> list[str]:
    return tool_argv("udp_mirror", port)


def add_mirror(cluster: Cluster, app: App, name: str, host: str) -> Vm:
    vm = cluster.add_vm(app, name, *mirror(), host=host)
    cluster.until(lambda: cluster.listening(name, "udp", 5000), f"{name} listens")
    return vm


@pytest.mark.usefixtures("small")
def test_the_next_owner_of_addresses_gets_nothing_of_the_last(
    cluster: Cluster, cluster_app: CreateApp
) -> None:
    """Clients and a VM go on sending while the machine is replaced by another
    tenant's, with the same private addresses and on the same host."""
    first = cluster_app("t-first", service("udp", 5000, 7777), org="t-first")
    old = cluster.add_echo(first, "t-old", host="host3")
    cluster.add_vm(first, "t-friend", host="host1")
    mirrors = cluster_app("t-mirrors", org="t-first", vip=False)
    listener = add_mirror(cluster, mirrors, "t-listen", "host3")
    cluster.edge(first.vip, "host1")
    second = cluster_app("t-second", org="t-second", vip=False)
    loads = [
        cluster.begin("client1", "udp_stream", first.vip, 7777, 120, 300),
        cluster.begin("t-friend", "udp_stream", listener.sixpn, 5000, 120, 300),
    ]
    cluster.edge(first.vip, "host3")
    loads.append(cluster.begin("client2", "udp_stream", first.vip, 7777, 120, 300))
    time.sleep(0.5)
    cluster.remove_vm(first, "t-old")
    cluster.remove_vm(mirrors, "t-listen")
    heirs = [cluster.make_vm(second, f"t-new{number}", host="host3") for number in (1, 2)]
    given_out = {address for vm in heirs for address in (vm.private_ip, vm.services_ip)}
    assert {old.private_ip, old.services_ip, listener.private_ip} <= given_out
    cluster.settle()
    listen = [{"namespace": vm.namespace, "interfaces": ["eth0"], "incoming": True} for vm in heirs]
    with cluster.scripting("leaks", {"mark": "", "listen": listen}) as answer:
        time.sleep(2)
    assert answer == [{"leaks": [], "seen": 0, "missed": 0}]
    for load in loads:
        result = load.finish()
        assert result["sent"] > 500
        assert len(result["servers"]) <= 1, result


def test_the_next_owner_serves_its_own_clients(cluster: Cluster, cluster_app: CreateApp) -> None:
    """The VIP goes to another app, the flow of before does not."""
    first = cluster_app("t-vip1", service("udp", 5000, 7777))
    cluster.add_echo(first, "t-vip1", host="host2")
    cluster.edge(first.vip, "host1")
    load = cluster.begin("client1", "udp_stream", first.vip, 7777, 120, 200)
    time.sleep(0.5)
    second = cluster_app("t-vip2", service("udp", 5000, 7777), org="t-other")
    cluster.add_echo(second, "t-vip2", host="host2")
    cluster.remove_vm(first, "t-vip1")
    cluster.edge(second.vip, "host1")
    result = cluster.tool("client2", "udp_clients", second.vip, 7777, 50)
    assert (result["wrong"], set(result["servers"])) == ([], {"t-vip2"})
    stream = load.finish()
    assert set(stream["servers"]) == {"t-vip1"}


def test_a_machine_moved_to_another_host(cluster: Cluster, cluster_app: CreateApp) -> None:
    """Same id, another address; its service follows it, its old address is nobody's."""
    app = cluster_app("t-moves", service("tcp", 8080, 80))
    before = cluster.add_nginx(app, "t-moves", host="host2")
    cluster.add_vm(app, "t-asks", host="host1")
    add_mirror(cluster, app, "t-stays", "host2")
    cluster.machine("cordon", "t-stays")
    cluster.machine("cordon", "t-asks")
    cluster.edge(app.vip, "host1")
    assert "in VM t-moves." in cluster.curl("client1", f"http://{app.vip}/")
    assert answers(cluster, "t-asks", before.sixpn)
    after = cluster.move_vm("t-moves", "host3")
    assert after.machine == before.machine
    assert after.sixpn != before.sixpn
    assert after.private_ip != before.private_ip
    for edge in cluster.hosts:
        cluster.edge(app.vip, edge)
        assert "in VM t-moves." in cluster.curl("client1", f"http://{app.vip}/")
    for name in ("t-asks", "t-stays"):
        assert answers(cluster, name, after.sixpn)
        assert not answers(cluster, name, before.sixpn)
    drops = cluster.all_drops()
    assert drops.get("mesh_machine", 0) > 0
    assert drops.get("sixpn_machine", 0) > 0


def answers(cluster: Cluster, node: str, address: str) -> bool:
    done = cluster.run(node, "ping", "-c", "1", "-W", "1", address, check=False)
    return done.returncode == 0
