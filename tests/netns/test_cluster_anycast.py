# SPDX-License-Identifier: Apache-2.0
"""Anycast addresses whose machines are on another host than the edge."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator

import pytest

from flyebpf.api.client import path
from flyebpf.lab import addressing
from tests.netns.cluster import Cluster
from tests.netns.conftest import CreateApp
from tests.netns.rig import App, service

pytestmark = pytest.mark.root

ALL = ("host1", "host2", "host3")
TRANSFER = 20_000_000  # bytes
ENOUGH = 2_000_000  # bytes that show which way a transfer went


@pytest.fixture(scope="module")
def web(cluster: Cluster, cluster_app: CreateApp) -> App:
    """nginx, on host2 alone."""
    app = cluster_app("x-web", service("tcp", 8080, 80))
    cluster.add_nginx(app, "x-web", host="host2")
    return app


@pytest.fixture(scope="module")
def echo(cluster: Cluster, cluster_app: CreateApp) -> App:
    """A UDP server on host3, in another region than the other two."""
    app = cluster_app("x-echo", service("udp", 5000, 7777))
    cluster.add_echo(app, "x-echo", host="host3")
    return app


@pytest.fixture(scope="module")
def iperf(cluster: Cluster, cluster_app: CreateApp) -> App:
    app = cluster_app("x-iperf", service("tcp", 5201, 5201), service("udp", 5201, 5201))
    vm = cluster.add_vm(app, "x-iperf", "iperf3", "-s", host="host2")
    # Its UDP socket takes its source address from the route to the client: on
    # the way to fly-global-services that is this one.
    gateway = ["via", "169.254.0.1", "dev", "eth0", "src", vm.services_ip]
    cluster.run("x-iperf", "ip", "route", "add", cluster.lab.clients["client1"].address, *gateway)
    cluster.until(lambda: cluster.listening("x-iperf", "tcp", 5201), "iperf3 listens")
    cluster.edge(app.vip, "host1")
    return app


@pytest.mark.parametrize("edge", ALL)
def test_curl_through_every_host(cluster: Cluster, web: App, edge: str) -> None:
    cluster.edge(web.vip, edge)
    for client in ("client1", "client2"):
        answer = cluster.curl(client, f"http://{web.vip}/")
        assert f"as the VM sees it: {cluster.lab.clients[client].address}:" in answer
        assert "in VM x-web." in answer


@pytest.mark.parametrize("edge", ALL)
def test_udp_through_every_host(cluster: Cluster, echo: App, edge: str) -> None:
    cluster.edge(echo.vip, edge)
    result = cluster.tool("client1", "udp_clients", echo.vip, 7777, 300)
    assert result["wrong"] == []
    assert result["answered"] == 300
    command = f"echo hi | socat -t 5 - UDP4:{echo.vip}:7777,sourceport=4321"
    answer = cluster.run("client2", "sh", "-c", command).stdout
    assert f"saw {cluster.lab.clients['client2'].address}:4321 say hi" in answer


@pytest.fixture(scope="module")
def six(cluster: Cluster, cluster_app: CreateApp) -> Iterator[App]:
    """nginx and a UDP echo server on host2, at an IPv6 address."""
    app = cluster_app("x-six", service("tcp", 8080, 80), service("udp", 5000, 7777))
    vip = cluster.api().post(path("apps", "x-six", "addresses"), {"type": "v6"})["address"]
    cluster.add_nginx(app, "x-six", host="host2")
    echo = (sys.executable, "-m", "flyebpf.lab.udp_echo", "--bind", "::", "--name", "x-six")
    with cluster.background("x-six", *echo):
        cluster.until(lambda: cluster.listening("x-six", "udp", 5000), "the echo server listens")
        yield App("x-six", vip)
    cluster.api().post(path("apps", "x-six", "addresses", "release"), {"addresses": [vip]})


@pytest.mark.parametrize("edge", ALL)
def test_ipv6_through_every_host(cluster: Cluster, six: App, edge: str) -> None:
    """By TCP, with answers and requests that are longer than the mesh takes, and UDP;
    the client's address preserved, and an error of the machine's host for the client."""
    cluster.edge(six.vip, edge)
    client = addressing.client_link6(1).node
    assert f"sees it: {client}:" in cluster.curl("client1", f"http://[{six.vip}]/")
    long = ["-H", f"X-Long: {'x' * 6000}"]
    answer = cluster.run("client1", "curl", "-sS", "-m", "5", *long, f"http://[{six.vip}]/")
    assert "in VM x-six" in answer.stdout
    say = f"echo hi | socat -t 5 - UDP6:[{six.vip}]:7777,sourceport=4321"
    assert f"saw {client}:4321 say hi" in cluster.run("client1", "sh", "-c", say).stdout
    # of 1452 bytes: the edge says what fits, and from then on the client makes fragments
    send = f"head -c 1452 /dev/zero | tr '\\0' x | socat -b 8192 -t 2 - UDP6:[{six.vip}]:7777"
    for _ in range(2):
        answer = cluster.run("client1", "sh", "-c", send, check=False)
    assert answer.stdout.endswith("x" * 1452)
    assert " 0% packet loss" in cluster.run("client1", "ping", "-c", "2", six.vip).stdout


def test_flows_that_are_spread_over_all_hosts(cluster: Cluster, web: App) -> None:
    cluster.edge(web.vip, *ALL)
    for _ in range(30):
        assert "Hello" in cluster.curl("client1", f"http://{web.vip}/")


@pytest.mark.parametrize("direction", ["up", "down"])
def test_iperf3_tcp(cluster: Cluster, iperf: App, direction: str) -> None:
    assert "tcp-segmentation-offload: on" in cluster.run("x-iperf", "ethtool", "-k", "eth0").stdout
    reverse = ["-R"] if direction == "down" else []
    command = ["iperf3", "-c", iperf.vip, "-n", str(TRANSFER), "-J", *reverse]
    end = json.loads(cluster.run("client1", *command, timeout=120).stdout)["end"]
    assert end["sum_received"]["bytes"] > TRANSFER / 2  # some was on its way at the end


def test_iperf3_udp(cluster: Cluster, iperf: App) -> None:
    """Slow enough for two busy cores; that no datagram of a flow is lost is told
    by other tests."""
    count = 1000
    paced = ["-b", "4M", "-k", str(count), "-l", "1200", "-w", "1M"]
    done = cluster.run("client1", "iperf3", "-c", iperf.vip, "-u", "-J", *paced, timeout=120)
    end = json.loads(done.stdout)["end"]["sum"]
    assert end["packets"] == count
    assert end["lost_packets"] <= count / 20


@pytest.mark.parametrize("return_path", ["direct", "edge"])
def test_answers_leave_where_they_shall(cluster: Cluster, iperf: App, return_path: str) -> None:
    def check(way: str, other: str) -> None:
        with cluster.counting(cluster.lab.clients["client1"].address) as sent:
            command = ["iperf3", "-c", iperf.vip, "-n", "4M", "-R", "-J"]
            end = json.loads(cluster.run("client1", *command, timeout=120).stdout)["end"]
        assert end["sum_received"]["bytes"] > ENOUGH
        assert sent[way] > ENOUGH, sent
        assert sent[other] == 0, sent

    if return_path == "direct":
        check("host2", "host1")
        return
    with cluster.reconfigured("host2", "mesh", 'return_path = "edge"'):
        check("host1", "host2")


def test_a_flow_whose_route_moves_stays_on_its_machine(
    cluster: Cluster, cluster_app: CreateApp
) -> None:
    app = cluster_app("x-moves", service("udp", 5000, 7777))
    for number, host in enumerate(("host1", "host1", "host2", "host2")):
        cluster.add_echo(app, f"x-moves{number}", host=host)
    cluster.edge(app.vip, "host1")
    load = cluster.begin("client1", "udp_stream", app.vip, 7777, 60, 300)
    for edge in ("host2", "host1", "host2"):
        cluster.run("client1", "sleep", "0.5")
        cluster.edge(app.vip, edge)
    cluster.run("client1", "sleep", "0.5")
    result = load.finish()
    assert result["lost"] == 0
    assert len(result["servers"]) == 1


def test_machines_of_the_nearest_region_come_first(
    cluster: Cluster, cluster_app: CreateApp
) -> None:
    """host1 and host2 are in ams, host3 in fra."""
    app = cluster_app("x-near", service("tcp", 8080, 80))
    for number, host in enumerate(ALL, start=1):
        cluster.add_nginx(app, f"x-near{number}", host=host)

    def servers(edge: str) -> set[str]:
        cluster.edge(app.vip, edge)
        answers = [cluster.curl("client1", f"http://{app.vip}/") for _ in range(25)]
        return set(re.findall(r"in VM (\S+)\.", " ".join(answers)))

    assert servers("host1") == servers("host2") == {"x-near1", "x-near2"}
    assert servers("host3") == {"x-near3"}
    cluster.machine("cordon", "x-near3")
    assert servers("host3") == {"x-near1", "x-near2"}
    cluster.machine("uncordon", "x-near3")
    cluster.machine("stop", "x-near1")
    cluster.machine("stop", "x-near2")
    assert servers("host1") == {"x-near3"}


def test_a_vm_reaches_an_anycast_address_whose_machine_is_elsewhere(
    cluster: Cluster, cluster_app: CreateApp, web: App, echo: App
) -> None:
    app = cluster_app("x-caller", vip=False)
    cluster.add_vm(app, "x-caller", host="host1")
    assert "in VM x-web." in cluster.curl("x-caller", f"http://{web.vip}/")
    result = cluster.tool("x-caller", "udp_clients", echo.vip, 7777, 20)
    assert (result["wrong"], result["answered"]) == ([], 20)


def test_an_icmp_error_of_a_vm_elsewhere_reaches_the_client(
    cluster: Cluster, cluster_app: CreateApp
) -> None:
    app = cluster_app("x-silent", service("udp", 5000, 7777))
    cluster.add_vm(app, "x-silent", host="host2")
    cluster.edge(app.vip, "host1")
    script = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5)\n"
        f"s.connect(('{app.vip}', 7777)); s.send(b'x')\n"
        "try: s.recv(1)\nexcept ConnectionRefusedError: print('refused')"
    )
    assert cluster.run("client1", "python3", "-c", script, check=False).stdout == "refused\n"


def test_an_address_without_machines_anywhere_answers_nobody(
    cluster: Cluster, cluster_app: CreateApp
) -> None:
    app = cluster_app("x-nobody", service("tcp", 8080, 80))
    cluster.edge(app.vip, "host2")
    before = cluster.drops("host2").get("no_backend", 0)
    cluster.cannot_curl("client1", f"http://{app.vip}/")
    assert cluster.drops("host2")["no_backend"] > before
