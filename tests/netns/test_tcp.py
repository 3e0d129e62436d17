# SPDX-License-Identifier: Apache-2.0
"""TCP through Anycast addresses to real servers in VMs."""

from __future__ import annotations

import json
import re

import pytest

from tests.netns.conftest import CreateApp
from tests.netns.rig import App, Rig, service

pytestmark = pytest.mark.root

RANGE = (20000, 20099)


@pytest.fixture(scope="module")
def web(create_app: CreateApp, rig: Rig) -> App:
    app = create_app("web", service("tcp", 8080, 80, RANGE))
    for name in ("web1", "web2", "web3"):
        rig.add_nginx(app, name)
    return app


@pytest.fixture(scope="module")
def iperf(create_app: CreateApp, rig: Rig) -> App:
    app = create_app("iperf", service("tcp", 5201, 5201))
    rig.add_vm(app, "iperf1", "iperf3", "-s")
    rig.until(lambda: rig.listening("iperf1", "tcp", 5201), "iperf3 listens")
    return app


def test_nginx_answers_and_sees_the_clients_address(rig: Rig, web: App) -> None:
    for client in ("client1", "client2"):
        answer = rig.curl(client, f"http://{web.vip}/")
        assert f"as the VM sees it: {rig.lab.clients[client].address}:" in answer


def test_every_vm_gets_new_connections(rig: Rig, web: App) -> None:
    answers = rig.run("client1", "curl", "-sS", *[f"http://{web.vip}/?{n}" for n in range(3)])
    assert len(re.findall("Hello", answers.stdout)) == 3
    seen = set()
    for _ in range(60):
        seen |= set(re.findall(r"in VM (\w+)", rig.curl("client1", f"http://{web.vip}/")))
    assert seen == {"web1", "web2", "web3"}


def test_a_connection_stays_on_its_vm(rig: Rig, web: App) -> None:
    urls = [f"http://{web.vip}/?{n}" for n in range(50)]
    answers = rig.run("client1", "curl", "-sS", *urls).stdout  # one connection, kept alive
    assert len(set(re.findall(r"sees it: (\S+)", answers))) == 1
    assert len(set(re.findall(r"in VM (\w+)", answers))) == 1


@pytest.mark.parametrize("port", [RANGE[0], 20050, RANGE[1]])
def test_a_port_range_is_open_to_its_ends(rig: Rig, web: App, port: int) -> None:
    assert "Hello" in rig.curl("client1", f"http://{web.vip}:{port}/")


@pytest.mark.parametrize("port", [RANGE[0] - 1, RANGE[1] + 1, 81, 8080])
def test_other_ports_are_closed(rig: Rig, web: App, port: int) -> None:
    with rig.dropping("no_service"):
        rig.cannot_curl("client1", f"http://{web.vip}:{port}/")


def test_an_address_that_no_app_has_is_dropped(rig: Rig, web: App) -> None:
    with rig.dropping("vip_unallocated"):
        rig.cannot_curl("client1", "http://203.0.113.15/")


def test_a_service_without_machines_answers_nobody(rig: Rig, create_app: CreateApp) -> None:
    app = create_app("nobody", service("tcp", 8080, 80))
    with rig.dropping("no_backend"):
        rig.cannot_curl("client1", f"http://{app.vip}/")


def test_the_vm_is_not_reachable_but_by_its_services(rig: Rig, web: App) -> None:
    vm = rig.vm("web1")
    rig.run("router", "ip", "route", "add", f"{vm.private_ip}/32", "via", rig.host().address)
    try:
        with rig.dropping("private_dst"):
            rig.cannot_curl("client1", f"http://{vm.private_ip}:8080/")
    finally:
        rig.run("router", "ip", "route", "del", f"{vm.private_ip}/32")


def test_ping_of_the_address_is_answered(rig: Rig, web: App) -> None:
    done = rig.run("client1", "ping", "-c", "3", "-i", "0.05", "-W", "1", web.vip)
    assert "3 received" in done.stdout
    large = rig.run("client1", "ping", "-c", "1", "-W", "1", "-s", "1400", web.vip)
    assert "1 received" in large.stdout


def test_the_hosts_own_traffic_is_left_alone(rig: Rig, web: App) -> None:
    done = rig.run("client1", "ping", "-c", "2", "-i", "0.05", "-W", "1", rig.host().address)
    assert "2 received" in done.stdout


def test_counters_grow_in_both_directions(rig: Rig, web: App) -> None:
    def http() -> dict[str, int]:
        [item] = [i for i in rig.counters(web) if i["first_port"] == 80]
        return dict(item["counters"])

    before = http()
    rig.curl("client1", f"http://{web.vip}/")
    after = http()
    assert after["flows"] == before["flows"] + 1
    for key in ("in_packets", "out_packets"):
        assert after[key] >= before[key] + 4, key
    assert after["out_bytes"] - before["out_bytes"] > 200


@pytest.mark.parametrize("direction", ["up", "down"])
def test_iperf3_with_the_vms_offloads_on(rig: Rig, iperf: App, direction: str) -> None:
    offloads = rig.run("iperf1", "ethtool", "-k", "eth0").stdout
    assert "tcp-segmentation-offload: on" in offloads
    assert "tx-checksumming: on" in offloads
    reverse = ["-R"] if direction == "down" else []
    done = rig.run("client1", "iperf3", "-c", iperf.vip, "-t", "2", "-J", *reverse)
    result = json.loads(done.stdout)["end"]
    assert result["sum_received"]["bytes"] > 20_000_000


def test_wrk_has_no_errors(rig: Rig, web: App) -> None:
    done = rig.run("client1", "wrk", "-t2", "-c100", "-d3s", f"http://{web.vip}/")
    assert "Socket errors" not in done.stdout
    assert "Non-2xx" not in done.stdout
    assert int(re.findall(r"(\d+) requests in", done.stdout)[0]) > 1000
