# SPDX-License-Identifier: Apache-2.0
"""Proxies of a cluster's hosts, and machines of other hosts."""

from __future__ import annotations

import json
import sys

import pytest

from tests.netns.cluster import Cluster
from tests.netns.conftest import CreateApp
from tests.netns.rig import TOOLS, App

pytestmark = pytest.mark.root

SERVICES = """
[[services]]
protocol = "tcp"
internal_port = 8080
[[services.ports]]
port = 80
handlers = ["http"]
"""
PEERS = {"host1": "172.16.0.1", "host2": "172.16.16.1"}
"""What machines see as the hosts' proxies."""


def peer_at(cluster: Cluster, app: App, edge: str) -> str:
    """Whom the app sees when its clients come in at this host."""
    cluster.edge(app.vip, edge)
    done = cluster.run("client1", "curl", "-sS", "-m", "2", f"http://{app.vip}/", check=False)
    try:
        return str(json.loads(done.stdout)["peer"])
    except ValueError:
        return done.stdout + done.stderr


def test_any_hosts_proxy_reaches_the_machine(cluster: Cluster, cluster_app: CreateApp) -> None:
    """Over the mesh, and nobody but a proxy does; and after that nothing is left."""
    with cluster.proxied("host1", "host2"):
        app = cluster_app("proxied", SERVICES)
        cluster.add_vm(app, "far1", sys.executable, str(TOOLS / "say.py"), "8080", "far1",
                       host="host2")  # fmt: skip
        for edge, peer in PEERS.items():
            cluster.until(lambda e=edge, p=peer: peer_at(cluster, app, e) == p,  # type: ignore[misc]
                          f"served by way of {edge}", 20)  # fmt: skip
        private = cluster.vm("far1").private_ip
        for port in ("22", "8080"):  # from an address of host1 that is no proxy's
            done = cluster.run("host1", "curl", "-sS", "-m", "0.6", f"http://{private}:{port}/",
                               check=False)  # fmt: skip
            assert done.returncode == 28, done.stdout
        closed = cluster.run("host1", "curl", "-sS", "-m", "0.6", "--interface", PEERS["host1"],
                             f"http://{private}:22/", check=False)  # fmt: skip
        assert closed.returncode == 28
        assert cluster.drops("host2").get("not_for_vm", 0) >= 1
    for name in PEERS:
        left = cluster.run(name, "ip", "route", "show", "table", "local", "proto", "254").stdout
        assert left == ""
        assert not (cluster.where.host(name) / "bpffs" / "links" / "proxy-sklookup").exists()
