# SPDX-License-Identifier: Apache-2.0
"""What a VM does itself: to the internet, and to Anycast addresses."""

from __future__ import annotations

import json

import pytest

from tests.netns.conftest import CreateApp
from tests.netns.rig import App, Rig, service

pytestmark = pytest.mark.root


@pytest.fixture(scope="module", autouse=True)
def web(create_app: CreateApp, rig: Rig) -> App:
    app = create_app("out-web", service("tcp", 8080, 80))
    rig.add_nginx(app, "out1")
    return app


@pytest.fixture(scope="module")
def other(create_app: CreateApp, rig: Rig) -> App:
    app = create_app("out-echo", service("udp", 5000, 7777))
    rig.add_echo(app, "echo1")
    return app


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_the_internet_sees_the_hosts_address(rig: Rig, protocol: str) -> None:
    how = {"TCP": "TCP4-LISTEN:8000,fork,reuseaddr", "UDP": "UDP4-RECVFROM:8000,fork"}[protocol]
    with rig.background("client1", "socat", how, "SYSTEM:echo $SOCAT_PEERADDR"):
        rig.until(lambda: rig.listening("client1", protocol.lower(), 8000), "socat listens")
        target = f"{protocol}4:192.0.2.2:8000"
        answer = rig.run("out1", "sh", "-c", f"echo hi | socat -t 2 - {target}").stdout
        assert answer.strip() == rig.host().address


def test_ping_to_the_internet(rig: Rig) -> None:
    assert "2 received" in rig.run("out1", "ping", "-c2", "-i0.05", "-W1", "192.0.2.2").stdout


def test_a_path_through_the_host_answers_ttl_exceeded(rig: Rig) -> None:
    done = rig.run("out1", "ping", "-c1", "-W1", "-t2", "192.0.2.2", check=False)
    assert "Time to live exceeded" in done.stdout


@pytest.mark.parametrize("direction", ["up", "down"])
def test_iperf3_to_the_internet_with_offloads_on(rig: Rig, direction: str) -> None:
    with rig.background("client1", "iperf3", "-s", "-p", "5301"):
        rig.until(lambda: rig.listening("client1", "tcp", 5301), "iperf3 listens")
        reverse = ["-R"] if direction == "down" else []
        command = ["iperf3", "-c", "192.0.2.2", "-p", "5301", "-t", "2", "-J", *reverse]
        result = json.loads(rig.run("out1", *command).stdout)["end"]
        assert result["sum_received"]["bytes"] > 20_000_000


def test_its_own_apps_address(rig: Rig, web: App) -> None:
    """A VM may be chosen for its own request: then it talks to itself."""
    answer = rig.curl("out1", f"http://{web.vip}/")
    assert "in VM out1" in answer
    assert "as the VM sees it: 100.64." in answer


def test_another_apps_address_by_udp(rig: Rig, other: App) -> None:
    result = rig.tool("out1", "udp_clients", other.vip, 7777, 50)
    assert (result["wrong"], result["answered"]) == ([], 50)


def test_another_apps_address_by_tcp(rig: Rig, web: App, other: App) -> None:
    assert "in VM out1" in rig.curl("echo1", f"http://{web.vip}/")


def test_a_large_answer_between_vms(rig: Rig, create_app: CreateApp) -> None:
    app = create_app("out-iperf", service("tcp", 5201, 5201))
    rig.add_vm(app, "iperf1", "iperf3", "-s")
    rig.until(lambda: rig.listening("iperf1", "tcp", 5201), "iperf3 listens")
    for reverse in ([], ["-R"]):
        done = rig.run("out1", "iperf3", "-c", app.vip, "-t", "1", "-J", *reverse)
        assert json.loads(done.stdout)["end"]["sum_received"]["bytes"] > 10_000_000


def test_ping_of_an_anycast_address_from_a_vm(rig: Rig, web: App) -> None:
    assert "1 received" in rig.run("out1", "ping", "-c1", "-W1", web.vip).stdout


def test_a_closed_port_is_closed_for_vms_too(rig: Rig, web: App) -> None:
    with rig.dropping("no_service"):
        rig.cannot_curl("out1", f"http://{web.vip}:81/")
