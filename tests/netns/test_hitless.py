# SPDX-License-Identifier: Apache-2.0
"""The daemon dies, returns, is replaced: no packet of any flow is lost."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from flyebpf.lab import hosts, net, process
from tests.netns.conftest import CreateApp
from tests.netns.rig import App, Rig, service

pytestmark = pytest.mark.root

TIMES = 20
VERSIONS = 3
"""of the sources: each is compiled once, and is another program each time that it is
loaded."""
SERVERS = ("hit1", "hit2")
NODES = ("client1", "client2", *SERVERS)


@pytest.fixture(scope="module")
def web(create_app: CreateApp, rig: Rig) -> App:
    app = create_app("hit-web", service("tcp", 8080, 80))
    for name in SERVERS:
        rig.add_nginx(app, name)
    return app


@pytest.fixture(scope="module")
def echo(create_app: CreateApp, rig: Rig) -> App:
    app = create_app("hit-echo", service("udp", 5000, 7777))
    rig.add_echo(app, "hit-echo")
    return app


@pytest.fixture(autouse=True)
def _daemon_runs_afterwards(rig: Rig) -> Iterator[None]:
    yield
    rig.command("lab", "daemon", "start", "host1")
    rig.settle()


@contextmanager
def load(rig: Rig, web: App, echo: App) -> Iterator[dict[str, Any]]:
    """New and long-lived TCP connections and a UDP flow; nothing may be lost.

    The dictionary holds the results when the block has been left.
    """
    results: dict[str, Any] = {}
    for node in NODES:
        # A tail loss probe is sent some milliseconds after a segment whatever
        # became of it, and a connection that is closed by then cannot report it
        # as a duplicate: what is sent again then says nothing about loss.
        rig.run(node, "sysctl", "-qw", "net.ipv4.tcp_early_retrans=0")
    before = rig.lost_segments(NODES)
    running = {
        "http": rig.begin("client1", "http_load", web.vip, 80, 300, 100),
        "udp": rig.begin("client2", "udp_stream", echo.vip, 7777, 300, 500),
    }
    # A machine that is busy elsewhere may stand still for seconds: that is no loss.
    wrk = ["wrk", "-t1", "-c10", "-d300s", "--timeout", "30s", f"http://{web.vip}/"]
    with rig.background("client2", *wrk) as kept_alive:
        time.sleep(0.3)
        yield results
        time.sleep(0.3)
        kept_alive.send_signal(signal.SIGINT)
        results["wrk"], _ = kept_alive.communicate(timeout=20)
    for name, traffic in running.items():
        results[name] = traffic.finish()
    results["segments lost"] = rig.lost_segments(NODES) - before


def check_nothing_lost(results: dict[str, Any]) -> None:
    assert results["http"]["errors"] == []
    assert results["http"]["ok"] > 50
    assert results["udp"]["lost"] == 0, results["udp"]
    assert results["udp"]["sent"] > 200
    assert "Socket errors" not in results["wrk"], results["wrk"]
    assert "Non-2xx" not in results["wrk"], results["wrk"]
    assert int(re.findall(r"(\d+) requests in", results["wrk"])[0]) > 500
    assert results["segments lost"] == 0


def test_twenty_kills_lose_nothing(rig: Rig, web: App, echo: App) -> None:
    pids = set()
    with load(rig, web, echo) as results:
        for _ in range(TIMES):
            pids.add(rig.host().daemon.pid)  # type: ignore[union-attr]
            rig.command("lab", "daemon", "stop", "--kill", "host1")
            rig.command("lab", "daemon", "start", "host1")
    assert len(pids) == TIMES
    check_nothing_lost(results)
    assert rig.api().get("/v1/status")["programs"]["adopted"] is True


def test_a_clean_restart_loses_nothing(rig: Rig, web: App, echo: App) -> None:
    with load(rig, web, echo) as results:
        for _ in range(3):
            rig.command("lab", "daemon", "stop", "host1")
            rig.command("lab", "daemon", "start", "host1")
    check_nothing_lost(results)


def test_without_a_daemon_old_and_new_flows_go_on(rig: Rig, web: App, echo: App) -> None:
    rig.command("lab", "daemon", "stop", "--kill", "host1")
    with load(rig, web, echo) as results:
        time.sleep(2)
        assert rig.tool("client1", "udp_clients", echo.vip, 7777, 1000)["answered"] == 1000
        assert "Hello" in rig.curl("client2", f"http://{web.vip}/")
    check_nothing_lost(results)


def test_twenty_changed_programs_are_swapped_in_with_nothing_lost(
    rig: Rig, web: App, echo: App
) -> None:
    digests = {rig.api().get("/v1/status")["programs"]["digest"]}
    with load(rig, web, echo) as results:
        for number in range(TIMES):
            rig.command("lab", "daemon", "stop", "host1")
            rig.environment["FLYEBPF_BPF_EXTRA_CFLAGS"] = f"-DSWAP_TEST={number % VERSIONS}"
            try:
                rig.command("lab", "daemon", "start", "host1")
            finally:
                del rig.environment["FLYEBPF_BPF_EXTRA_CFLAGS"]
            status = rig.api().get("/v1/status")
            assert status["programs"]["adopted"] is False
            digests.add(status["programs"]["digest"])
    assert len(digests) == VERSIONS + 1
    check_nothing_lost(results)


def test_a_reload_loses_nothing(rig: Rig, web: App, echo: App) -> None:
    daemon = rig.host().daemon
    assert daemon is not None
    with load(rig, web, echo) as results:
        for _ in range(5):
            os.kill(daemon.pid, signal.SIGHUP)
            time.sleep(0.1)
    check_nothing_lost(results)
    assert process.alive(daemon)


def test_a_daemon_that_cannot_start_changes_nothing(rig: Rig, web: App, echo: App) -> None:
    rig.command("lab", "daemon", "stop", "host1")
    config = rig.where.host("host1") / "flyebpf.toml"
    good = config.read_text()
    config.write_text(good.replace('region = "ams"', 'region = "AMS!"'))
    try:
        with load(rig, web, echo) as results:
            done = rig.command("lab", "daemon", "start", "host1", check=False)
            assert done.returncode == 1
            assert "region" in done.stderr
        check_nothing_lost(results)
    finally:
        config.write_text(good)


def test_what_changed_while_it_was_dead_is_applied(rig: Rig, web: App) -> None:
    """A VM's interface vanishes while no daemon watches."""
    vm = rig.add_nginx(web, "hit3")
    rig.command("lab", "daemon", "stop", "--kill", "host1")
    net.delete_link(rig.host().namespace, vm.interface)
    rig.command("lab", "daemon", "start", "host1")

    def reported() -> bool:
        problems = hosts.api(rig.host()).get("/v1/status")["problems"]
        return any(vm.interface in p["object"] + p["message"] for p in problems)

    rig.until(reported, "the status names the interface that is gone")
    rig.until(lambda: answers(rig, web), "new connections go to the machines that are left")
    rig.api().delete(f"/v1/machines/{vm.machine}")
    rig.settle()


def answers(rig: Rig, web: App) -> bool:
    """Thirty new connections in a row, so that each of three machines is tried."""
    urls = [f"http://{web.vip}/"] * 30
    command = ["curl", "-sS", "-m", "2", "--fail-early", "-H", "Connection: close", *urls]
    return rig.run("client1", *command, check=False).returncode == 0
