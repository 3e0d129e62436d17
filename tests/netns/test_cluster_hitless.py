# SPDX-License-Identifier: Apache-2.0
"""Hosts, daemons and etcd go and return while packets cross the mesh."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.netns.cluster import Cluster
from tests.netns.conftest import CreateApp
from tests.netns.rig import App, service, tool_argv

pytestmark = pytest.mark.root

ALL = ("host1", "host2", "host3")
AWAY = 30.0  # seconds that etcd is gone
WITHIN = 60.0  # seconds that a change may take on a busy machine


@pytest.fixture(scope="module")
def web(cluster: Cluster, cluster_app: CreateApp) -> App:
    """nginx on host2, reached by way of host1."""
    app = cluster_app("l-web", service("tcp", 8080, 80))
    cluster.add_nginx(app, "l-web", host="host2")
    cluster.edge(app.vip, "host1")
    return app


@pytest.fixture(scope="module")
def echo(cluster: Cluster, cluster_app: CreateApp) -> App:
    """A UDP server on host3, reached by way of host1."""
    app = cluster_app("l-echo", service("udp", 5000, 7777))
    cluster.add_echo(app, "l-echo", host="host3")
    cluster.edge(app.vip, "host1")
    return app


@pytest.fixture(scope="module")
def private(cluster: Cluster, cluster_app: CreateApp) -> str:
    """VMs l-one on host1 and l-two on host2; the address of l-two, which answers
    numbered datagrams on port 5000."""
    app = cluster_app("l-private", vip=False)
    cluster.add_vm(app, "l-one", host="host1")
    cluster.add_vm(app, "l-two", *tool_argv("udp_mirror", 5000), host="host2")
    cluster.until(lambda: cluster.listening("l-two", "udp", 5000), "l-two listens")
    return cluster.sixpn("l-two")


@contextmanager
def load(cluster: Cluster, web: App, echo: App, private: str) -> Iterator[dict[str, Any]]:
    """TCP and UDP from clients, and UDP between VMs, each to another host; the
    dictionary holds the results when the block has been left."""
    results: dict[str, Any] = {}
    running = {
        "http": cluster.begin("client1", "http_load", web.vip, 80, 300, 50),
        "udp": cluster.begin("client2", "udp_stream", echo.vip, 7777, 300, 200),
        "6pn": cluster.begin("l-one", "udp_stream", private, 5000, 300, 200),
    }
    time.sleep(0.5)
    yield results
    time.sleep(0.5)
    for name, traffic in running.items():
        results[name] = traffic.finish()


def check_nothing_lost(results: dict[str, Any]) -> None:
    assert results["http"]["errors"] == []
    assert results["http"]["ok"] > 20
    for name in ("udp", "6pn"):
        assert results[name]["lost"] == 0, (name, results[name])
        assert results[name]["sent"] > 100


def test_all_daemons_killed(cluster: Cluster, web: App, echo: App, private: str) -> None:
    with load(cluster, web, echo, private) as results:
        for host in ALL:
            cluster.daemon("stop", host, "--kill")
        time.sleep(2)
        for host in ALL:
            cluster.daemon("start", host)
        cluster.settle()
    check_nothing_lost(results)
    for host in ALL:
        assert cluster.api(host).get("/v1/status")["programs"]["adopted"] is True


def test_etcd_gone(cluster: Cluster, web: App, echo: App, private: str) -> None:
    """All members are killed: packets go on, writes say why not, all returns."""
    with load(cluster, web, echo, private) as results:
        with cluster.without_etcd():
            left = time.monotonic() + AWAY
            refused = cluster.flyebpf("host1", "orgs", "create", "l-not", check=False)
            assert "etcd" in refused, refused
            assert "Error" in refused, refused
            assert "l-web" in cluster.flyebpf("host2", "machines", "list", "--all")
            cluster.daemon("stop", "host2", "--kill")
            time.sleep(max(0.0, left - time.monotonic()))
            assert "Hello" in cluster.curl("client2", f"http://{web.vip}/")
        cluster.daemon("start", "host2")
        cluster.until(lambda: writes(cluster), "writes go on", WITHIN)
        cluster.settle()
    check_nothing_lost(results)


def writes(cluster: Cluster) -> bool:
    cluster.flyebpf("host3", "orgs", "create", "l-after", check=False)
    return "l-after" in cluster.flyebpf("host1", "orgs", "list", check=False)


def test_one_member_of_etcd_killed_or_hung(cluster: Cluster, cluster_app: CreateApp) -> None:
    for pause in (False, True):
        for member in cluster.lab.members:
            with cluster.without_etcd(member, pause=pause):
                name = f"l-{member}-{'hung' if pause else 'gone'}"
                cluster.until(lambda name=name: created(cluster, name), f"{name} is made", WITHIN)


def created(cluster: Cluster, name: str) -> bool:
    """Ask until it is there: an answer that was lost says nothing."""
    cluster.flyebpf("host1", "orgs", "create", name, check=False)
    return name in cluster.flyebpf("host1", "orgs", "list", check=False)


def test_keys_rotated(cluster: Cluster, web: App, echo: App, private: str) -> None:
    """Twice: each device has been the other's successor."""
    with load(cluster, web, echo, private) as results:
        for _ in range(2):
            [device] = devices(cluster)
            [other] = {"fly0", "fly1"} - {device}
            cluster.flyebpf("host2", "hosts", "rotate-keys")
            cluster.until(
                lambda other=other: devices(cluster) == {other}, f"{other} alone is left", WITHIN
            )
    check_nothing_lost(results)


def devices(cluster: Cluster) -> set[str]:
    """The mesh devices that are there on any host."""
    shown = (cluster.run(host, "ip", "-br", "link").stdout for host in ALL)
    return set(re.findall(r"^(fly[01]) ", "\n".join(shown), re.M))


def test_a_host_drained(cluster: Cluster, cluster_app: CreateApp) -> None:
    """New flows go elsewhere, those that are there go on."""
    app = cluster_app("l-drain", service("udp", 5000, 7777), service("tcp", 8080, 80))
    cluster.add_echo(app, "l-drain2", host="host2")
    cluster.edge(app.vip, "host1")
    old = cluster.begin("client1", "udp_stream", app.vip, 7777, 300, 200)
    cluster.until(lambda: served_by(cluster, app, "l-drain2"), "l-drain2 answers")
    cluster.add_echo(app, "l-drain1", host="host1")
    cluster.until(lambda: served_by(cluster, app, "l-drain1", "l-drain2"), "both answer", WITHIN)
    cluster.flyebpf("host3", "hosts", "drain", "host2")
    try:
        cluster.until(lambda: served_by(cluster, app, "l-drain1"), "host1 knows of it", WITHIN)
        time.sleep(1)
        result = old.finish()
        assert result["lost"] == 0, result
        assert set(result["servers"]) == {"l-drain2"}
        for edge in ALL:
            cluster.edge(app.vip, edge)
            cluster.until(lambda: served_by(cluster, app, "l-drain1"), "all know of it", WITHIN)
    finally:
        cluster.flyebpf("host1", "hosts", "undrain", "host2")
    both = ("l-drain1", "l-drain2")
    cluster.until(lambda: served_by(cluster, app, *both), "both answer again", WITHIN)


def served_by(cluster: Cluster, app: App, *names: str) -> bool:
    """Whether these answer new flows, and every flow is answered."""
    found = cluster.tool("client2", "udp_clients", app.vip, 7777, 40)
    return found["answered"] == 40 and set(found["servers"]) == set(names)


def test_a_host_dies(cluster: Cluster, cluster_app: CreateApp, echo: App) -> None:
    """host2 loses its daemon and its links at once. What does not need it goes on,
    and new flows avoid it."""
    app = cluster_app("l-dies", service("udp", 5000, 7777))
    cluster.add_echo(app, "l-dies1", host="host1")
    cluster.add_echo(app, "l-dies2", host="host2")
    cluster.edge(app.vip, "host3")
    cluster.until(lambda: served_by(cluster, app, "l-dies1", "l-dies2"), "both answer")
    other = cluster.begin("client1", "udp_stream", echo.vip, 7777, 300, 200)
    with cluster.dead("host2"):
        cluster.until(lambda: served_by(cluster, app, "l-dies1"), "host2 is left out", WITHIN)
        # A client that had no flow to the dead host: flows that there are stay.
        assert cluster.tool("client1", "udp_clients", app.vip, 7777, 200)["answered"] == 200
    cluster.until(lambda: served_by(cluster, app, "l-dies1", "l-dies2"), "host2 is back", WITHIN)
    result = other.finish()
    assert result["lost"] == 0, result
