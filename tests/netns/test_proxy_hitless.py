# SPDX-License-Identifier: Apache-2.0
"""Under load: deploys, machines that come and go, another Envoy, Envoy's end, the
daemon's end. No request is lost but those that Envoy had when it was killed."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.netns.proxied import envoy_of, envoys, proxied
from tests.netns.rig import TOOLS, App, Rig

pytestmark = pytest.mark.root

HTTP = """
[[services]]
protocol = "tcp"
internal_port = 8080
[services.concurrency]
type = "requests"
soft_limit = {soft}
hard_limit = {hard}
[[services.ports]]
port = 80
handlers = ["http"]
[services.ports.http_options]
idle_timeout = {idle}
[services.ports.http_options.response.headers]
"X-Version" = "{version}"
"""


def services(version: int) -> str:
    return HTTP.format(version=version, soft=20 + version, hard=100 + version, idle=30 + version)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with proxied("l") as made:
        yield made


def add_server(rig: Rig, app: App, name: str) -> None:
    rig.add_vm(app, name, sys.executable, str(TOOLS / "say.py"), "8080", name)


@pytest.fixture(scope="module")
def web(rig: Rig) -> App:
    app = rig.create_app("web", services(0))
    for name in ("web1", "web2"):
        add_server(rig, app, name)
    rig.until(lambda: served_by(rig, app) == {"web1", "web2"}, "both serve", 20)
    return app


def served_by(rig: Rig, app: App, times: int = 8) -> set[str]:
    """Whom so many new connections come to."""
    urls = [f"http://{app.vip}/" for _ in range(times)]
    command = ("curl", "-sS", "-m", "10", "--no-keepalive", "-w", "\n")
    lines = rig.run("client1", *command, *urls, check=False).stdout.split("\n")
    return {json.loads(line)["name"] for line in lines if line.startswith("{")}


@contextmanager
def load(rig: Rig, app: App) -> Iterator[dict[str, Any]]:
    """New connections and kept ones; the results when the block has been left."""
    found: dict[str, Any] = {}
    new = rig.begin("client1", "http_load", app.vip, 80, 300, 40)
    kept = rig.begin("client1", "kept_load", app.vip, 80, 4)
    yield found
    found["new"], found["kept"] = new.finish(), kept.finish()


def nothing_lost(found: dict[str, Any]) -> None:
    assert found["new"]["failed"] == found["kept"]["failed"] == 0, found
    assert found["new"]["ok"] > 0
    assert found["kept"]["ok"] > 0


def version(rig: Rig, app: App) -> str:
    done = rig.run("client1", "curl", "-sSi", "-m", "10", f"http://{app.vip}/", check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("x-version: ")]
    return lines[0].split()[1] if lines else ""


def test_deploys(rig: Rig, web: App) -> None:
    with load(rig, web) as found:
        for number in range(1, 11):
            rig.deploy(web, services(number))
            rig.until(lambda n=number: version(rig, web) == str(n), "it is served so", 10)  # type: ignore[misc]
    nothing_lost(found)


def test_machines_come_and_go(rig: Rig, web: App) -> None:
    """A machine that is taken out of service before it goes."""
    with load(rig, web) as found:
        add_server(rig, web, "web3")
        rig.until(lambda: "web3" in served_by(rig, web), "the new one serves", 20)
        rig.machine("cordon", "web3")
        rig.until(lambda: idle(rig, "web3"), "its connections have ended", 20)
        rig.remove_vm(web, "web3")
        rig.machine("cordon", "web1")
        rig.until(lambda: served_by(rig, web) == {"web2"}, "the other one serves alone", 20)
        rig.machine("uncordon", "web1")
        rig.until(lambda: "web1" in served_by(rig, web), "it serves again", 20)
    nothing_lost(found)


def idle(rig: Rig, name: str) -> bool:
    """Whether the machine's server has no connections."""
    listed = rig.run(name, "ss", "-Htn", "state", "established", "sport = :8080")
    return not listed.stdout.strip()


def test_another_envoy(rig: Rig, web: App) -> None:
    """What it is started with has changed: a second one takes over, and the first one
    ends when its connections have. That is no failure."""
    config = rig.where.host("host1") / "flyebpf.toml"
    before = envoy_of(rig)
    text = config.read_text()
    with load(rig, web) as found:
        rig.command("lab", "daemon", "stop", "host1")
        config.write_text(text.replace("workers = 1", "workers = 2"))
        rig.command("lab", "daemon", "start", "host1")
        rig.until(lambda: len(envoys(rig) - {before}) == 1, "there is another one", 20)
        rig.until(lambda: before not in envoys(rig), "the first one has ended", 60)
        assert served_by(rig, web)
    nothing_lost(found)
    assert rig.api().get("/v1/status")["problems"] == []


def test_envoy_is_killed(rig: Rig, web: App) -> None:
    """Whoever comes after that waits for the next one."""
    urls = [f"http://{web.vip}/" for _ in range(5)]
    before = envoy_of(rig)
    os.kill(before, signal.SIGKILL)
    done = rig.run("client1", "curl", "-sS", "-m", "20", "--no-keepalive", "-w", "\n", *urls)
    assert done.stdout.count('"name"') == len(urls)
    assert envoy_of(rig) != before


def test_envoy_is_killed_under_load(rig: Rig, web: App) -> None:
    """What it had is lost, and nothing after that."""
    with load(rig, web) as found:
        rig.until(lambda: bool(served_by(rig, web)), "it is served", 10)
        os.kill(envoy_of(rig), signal.SIGKILL)
        rig.until(lambda: bool(served_by(rig, web)), "it is served again", 10)
        served = time.monotonic()
        rig.until(lambda: served_by(rig, web) == {"web1", "web2"}, "by both", 10)
    for kind in ("new", "kept"):
        assert found[kind]["last_error"] < served, found
        assert not [text for text in found[kind]["errors"] if "refused" in text], found


def test_the_daemon_is_killed(rig: Rig, web: App) -> None:
    before = envoy_of(rig)
    with load(rig, web) as found:
        os.kill(rig.host().daemon.pid, signal.SIGKILL)
        assert served_by(rig, web)
        rig.command("lab", "daemon", "start", "host1")
        rig.settle()
        rig.deploy(web, services(99))
        rig.until(lambda: version(rig, web) == "99", "it goes on", 20)
    assert envoy_of(rig) == before
    nothing_lost(found)


def test_a_machine_that_refuses(rig: Rig, web: App) -> None:
    """Its server is not there, so it always has the least to do: it is left out, and the
    others serve everybody."""
    rig.add_vm(web, "deaf1")
    rig.until(lambda: reached(rig, web, "deaf1"), "it is tried", 20)
    rig.until(lambda: answers(rig, web, 40) == 40, "the others serve", 20)
    rig.remove_vm(web, "deaf1")


def reached(rig: Rig, app: App, name: str) -> bool:
    """Whether the machine has been asked for a connection."""
    answers(rig, app, 4)
    return rig.kernel_counters(name)["Tcp.OutRsts"] > 0


def answers(rig: Rig, app: App, times: int) -> int:
    urls = [f"http://{app.vip}/" for _ in range(times)]
    done = rig.run("client1", "curl", "-sS", "-m", "10", "-w", "\n", *urls, check=False)
    return done.stdout.count('"name"')
