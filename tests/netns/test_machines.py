# SPDX-License-Identifier: Apache-2.0
"""Machines that are started, stopped, cordoned and removed under traffic."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.netns.conftest import CreateApp
from tests.netns.rig import App, Rig, service

pytestmark = pytest.mark.root

# Connects, prints the first answer, waits for a line, asks again.
TWO_REQUESTS = """
import socket, sys
s = socket.create_connection((sys.argv[1], 80), 5)
def ask():
    s.settimeout(3)
    s.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    return s.recv(4096).decode()
print(ask().splitlines()[-2], flush=True)
sys.stdin.readline()
try:
    print(ask().splitlines()[-2], flush=True)
except (ConnectionError, IndexError) as error:
    print("ended", type(error).__name__, flush=True)
"""


@pytest.fixture
def app(rig: Rig) -> Iterator[App]:
    """Two fresh VMs, each with nginx and an echo server."""
    made = rig.create_app("two", service("tcp", 8080, 80), service("udp", 5000, 7777))
    with ExitStack() as servers:
        for name in ("a", "b"):
            rig.add_nginx(made, name)
            echo = [sys.executable, "-m", "flyebpf.lab.udp_echo", "--name", name]
            servers.enter_context(rig.background(name, *echo))
            wait_for_echo(rig, name)
        yield made
    rig.destroy_app(made)


def wait_for_echo(rig: Rig, name: str) -> None:
    rig.until(lambda: rig.listening(name, "udp", 5000), f"the echo server runs in {name}")


def served_by(rig: Rig, app: App, count: int = 40) -> set[str]:
    """Which VMs get new connections."""
    found: set[str] = set()
    for _ in range(count):
        found |= set(re.findall(r"in VM (\w+)", rig.curl("client1", f"http://{app.vip}/")))
    return found


def test_a_cordoned_machine_keeps_its_flows_and_gets_no_new_ones(rig: Rig, app: App) -> None:
    assert served_by(rig, app) == {"a", "b"}
    with connection(rig, app) as (owner, again):
        rig.machine("cordon", owner)
        other = "b" if owner == "a" else "a"
        assert served_by(rig, app) == {other}
        assert f"in VM {owner}" in again()
    rig.machine("uncordon", owner)
    assert served_by(rig, app) == {"a", "b"}


def test_a_stopped_machine_ends_its_tcp_flows_at_once(rig: Rig, app: App) -> None:
    with connection(rig, app) as (owner, again):
        rig.machine("stop", owner)
        assert served_by(rig, app) == {"b" if owner == "a" else "a"}
        assert again().startswith("ended Connection")
    rig.machine("start", owner)
    assert served_by(rig, app) == {"a", "b"}


def test_udp_flows_of_a_stopped_machine_move(rig: Rig, app: App) -> None:
    load = rig.begin("client1", "udp_stream", app.vip, 7777, 30, 200)
    rig.until(lambda: datagrams(rig, "a") + datagrams(rig, "b") > 50, "a stream")
    owner, other = ("a", "b") if datagrams(rig, "a") else ("b", "a")
    assert datagrams(rig, other) == 0
    rig.machine("stop", owner)
    rig.until(lambda: datagrams(rig, other) > 50, "the stream has moved")
    result = load.finish()
    assert set(result["servers"]) == {"a", "b"}
    # Only what was on its way to the machine at that moment may be lost.
    assert result["lost"] <= 2
    rig.machine("start", owner)


def test_with_all_machines_stopped_nobody_answers(rig: Rig, app: App) -> None:
    for name in ("a", "b"):
        rig.machine("stop", name)
    with rig.dropping("no_backend"):
        assert rig.tool("client1", "udp_clients", app.vip, 7777, 3)["answered"] == 0
    for name in ("a", "b"):
        rig.machine("start", name)
    assert rig.tool("client1", "udp_clients", app.vip, 7777, 3)["answered"] == 3


def test_flows_of_a_removed_machine_never_reach_its_addresses_next_owner(
    rig: Rig, create_app: CreateApp
) -> None:
    """The same private address and interface name, another app."""
    victim = create_app("removed", service("udp", 5000, 7777))
    old = rig.add_echo(victim, "same")
    assert rig.tool("client1", "udp_clients", victim.vip, 7777, 1)["answered"] == 1
    load = rig.begin("client1", "udp_stream", victim.vip, 7777, 30, 200)
    rig.until(lambda: datagrams(rig, "same") > 50, "a stream")
    rig.remove_vm(victim, "same")
    stranger = create_app("stranger", service("udp", 5000, 7777))
    new = rig.add_echo(stranger, "same")
    before = rig.drops().get("no_backend", 0)
    rig.until(lambda: rig.drops().get("no_backend", 0) > before + 50, "drops for no_backend")
    load.finish()
    assert new.machine != old.machine
    assert new.interface == old.interface
    assert datagrams(rig, "same") == 0


def test_an_interface_without_a_machine_passes_nothing(rig: Rig, app: App) -> None:
    """The machine is forgotten, its namespace still there."""
    vm = rig.vm("a")
    rig.api().delete(f"/v1/machines/{vm.machine}")
    rig.settle()
    done = rig.run("a", "ping", "-c1", "-W0.5", "192.0.2.2", check=False)
    assert done.returncode != 0
    assert served_by(rig, app, 10) == {"b"}


class connection:  # noqa: N801 (reads as a context manager)
    """One TCP connection; ``again()`` uses it once more and tells the answer."""

    def __init__(self, rig: Rig, app: App) -> None:
        command = [sys.executable, "-c", TWO_REQUESTS, app.vip]
        pipe = subprocess.PIPE
        argv = rig.argv("client1", command)
        self.running = subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True)

    def __enter__(self) -> tuple[str, Callable[[], str]]:
        assert self.running.stdout is not None
        [owner] = re.findall(r"in VM (\w+)", self.running.stdout.readline())
        return owner, self.again

    def again(self) -> str:
        output, _ = self.running.communicate("go\n", timeout=10)
        return output

    def __exit__(self, *_error: object) -> None:
        self.running.kill()
        self.running.communicate()


def datagrams(rig: Rig, name: str) -> int:
    """UDP datagrams that have reached a server in the VM."""
    snmp = rig.run(name, "cat", "/proc/net/snmp").stdout
    [received] = re.findall(r"^Udp: (\d+)", snmp, re.MULTILINE)
    return int(received)
