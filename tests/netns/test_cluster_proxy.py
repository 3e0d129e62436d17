# SPDX-License-Identifier: Apache-2.0
"""Proxies of a cluster's hosts, and machines of other hosts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

from flyebpf.api.client import path
from tests.netns.cluster import Cluster
from tests.netns.conftest import CreateApp
from tests.netns.rig import ORG, TOOLS, App

pytestmark = pytest.mark.root

SERVICES = """
[[services]]
protocol = "tcp"
internal_port = 8080
[[services.ports]]
port = 80
handlers = ["http"]
[[services]]
protocol = "tcp"
internal_port = 8080
[[services.ports]]
port = 7000
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


def doctors_of_both_hosts_agree(cluster: Cluster, app: App) -> None:
    """The one asks the machine, the other sees where its clients are led."""
    for host, at_edge in (("host1", "led to machines on host host2"), ("host2", "answers")):
        told = cluster.flyebpf(host, "doctor", "-a", app.name, "--only", "app-", "--json")
        said = {f"{f['check']} {f['message']}": f["state"] for f in json.loads(told)}
        assert "failed" not in said.values(), said
        (edge,) = [text for text in said if text.startswith("app-edge")]
        assert edge.startswith(f"app-edge tcp 7000 at {app.vip}: ")
        assert edge.endswith(at_edge)
        assert any(f"at {app.vip}, http://" in t and t.endswith(": 200") for t in said), said


def users_computers_call_flycast(cluster: Cluster, app: App, folder: Path) -> None:
    """By host1's proxy, one of the app's network; one of another network cannot."""
    own = path("apps", app.name, "addresses")
    address = cluster.api().post(own, {"type": "private_v6"})["address"]
    url = f"http://[{address}]/"
    with computer(cluster, folder, ORG):
        ask = ("curl", "-sS", "-m", "2", url)
        cluster.until(lambda: "far1" in cluster.run("client2", *ask, check=False).stdout,
                      "a user's computer is served", 30)  # fmt: skip
        said = json.loads(cluster.run("client2", *ask).stdout)
        assert dict(said["headers"])["fly-client-ip"].startswith("fdaa:")
        body = cluster.run("client2", *ask, "--data-binary", "x" * 100_000).stdout
        assert json.loads(body)["body"] == 100_000
        cluster.run("client2", "ping", "-c", "1", "-W", "2", address)
        cluster.cannot_curl("client2", f"http://[{address}]:81/")
    cluster.api().post(path("orgs"), {"name": "n-far"})
    cluster.api().post(path("apps"), {"name": "n-far", "org": "n-far"})
    with computer(cluster, folder, "n-far"):
        before = cluster.drops("host1").get("sixpn_network", 0)

        def is_dropped() -> bool:
            cluster.cannot_curl("client2", url)
            return cluster.drops("host1").get("sixpn_network", 0) > before

        cluster.until(is_dropped, "another network's computer is let in, and gets nothing", 30)
    cluster.api().post(f"{own}/release", {"addresses": [address]})


@contextmanager
def computer(cluster: Cluster, folder: Path, org: str) -> Iterator[None]:
    """client2 as a user's of the organization, by way of host1; all private networks'
    addresses lead there."""
    file = folder / f"{org}.conf"
    cluster.flyebpf("host1", "wireguard", "create", f"pc-{org}", str(file), "-o", org)
    given = {
        "namespace": cluster.lab.clients["client2"].namespace,
        "device": "user2",
        "config": file.read_text(),
        "folder": str(folder),
    }
    with cluster.scripting("user_peer", given):
        cluster.run("client2", "ip", "route", "replace", "fdaa::/16", "dev", "user2")
        yield
    cluster.flyebpf("host1", "wireguard", "remove", f"pc-{org}", "-o", org, "-y")


def woken_from_another_host(cluster: Cluster, app: App) -> None:
    """Clients at two hosts at once: one machine is started, and serves both."""
    cluster.add_vm(app, "near1", sys.executable, str(TOOLS / "say.py"), "8080", "near1")
    ids = [cluster.vm(name).machine for name in ("far1", "near1")]
    for ident, host in zip(ids, ("host1", "host2"), strict=True):  # on either host
        cluster.api(host).post(path("machines", ident, "stop"))
    cluster.settle()
    command = ("curl", "-sS", "-m", "60", f"http://{app.vip}/")
    cluster.edge(app.vip, *PEERS)
    asked = [
        Popen(cluster.argv(node, command), stdout=PIPE, text=True)
        for node in ("client1", "client2") * 4  # their flows are shared out
    ]
    answers = [json.loads(one.communicate(timeout=60)[0]) for one in asked]
    assert {answer["peer"] for answer in answers} <= set(PEERS.values())
    assert len({answer["name"] for answer in answers}) == 1

    def states() -> list[str]:
        return sorted(cluster.api().get(path("machines", ident))["state"] for ident in ids)

    cluster.until(lambda: states() == ["started", "stopped"], "one is started, one is not")


def test_any_hosts_proxy_reaches_the_machine(
    cluster: Cluster, cluster_app: CreateApp, tmp_path: Path
) -> None:
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
        doctors_of_both_hosts_agree(cluster, app)
        users_computers_call_flycast(cluster, app, tmp_path)
        woken_from_another_host(cluster, app)
    for name in PEERS:
        left = cluster.run(name, "ip", "route", "show", "table", "local", "proto", "254").stdout
        assert left == ""
        assert not (cluster.where.host(name) / "bpffs" / "links" / "proxy-sklookup").exists()
