# SPDX-License-Identifier: Apache-2.0
"""UDP through Anycast addresses to fly-global-services in VMs."""

from __future__ import annotations

import sys

import pytest

from tests.netns.conftest import CreateApp
from tests.netns.rig import App, Rig, service

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def echo(create_app: CreateApp, rig: Rig) -> App:
    """Port 7777 and a range outside, port 5000 inside."""
    app = create_app("echo", service("udp", 5000, 7777, (30000, 30015)))
    for name in ("echo1", "echo2"):
        rig.add_echo(app, name)
    return app


def test_a_thousand_clients_each_get_their_own_answer(rig: Rig, echo: App) -> None:
    result = rig.tool("client1", "udp_clients", echo.vip, 7777, 1000)
    assert result["wrong"] == []
    assert result["answered"] == 1000
    assert min(result["servers"].get(name, 0) for name in ("echo1", "echo2")) > 200


@pytest.mark.parametrize("port", [30000, 30007, 30015])
def test_the_answer_comes_from_the_port_dialled(rig: Rig, echo: App, port: int) -> None:
    result = rig.tool("client1", "udp_clients", echo.vip, port, 10)
    assert (result["wrong"], result["answered"]) == ([], 10)


def test_a_port_outside_the_range_is_closed(rig: Rig, echo: App) -> None:
    with rig.dropping("no_service", 3):
        assert rig.tool("client1", "udp_clients", echo.vip, 30016, 3)["answered"] == 0


def test_the_vm_sees_the_clients_address(rig: Rig, echo: App) -> None:
    command = f"echo hi | socat -t 2 - UDP4:{echo.vip}:7777,sourceport=4321"
    answer = rig.run("client2", "sh", "-c", command).stdout
    assert f"saw {rig.lab.clients['client2'].address}:4321 say hi" in answer


def test_a_flow_stays_on_its_vm(rig: Rig, echo: App) -> None:
    result = rig.tool("client1", "udp_stream", echo.vip, 7777, 1, 500)
    assert result["lost"] == 0
    assert len(result["servers"]) == 1


def test_datagrams_larger_than_the_mtu_arrive(rig: Rig, echo: App) -> None:
    script = f"head -c 4000 /dev/zero | tr '\\0' x | socat -b 8192 -t 2 - UDP4:{echo.vip}:7777"
    answer = rig.run("client1", "sh", "-c", script).stdout
    assert answer.endswith("x" * 4000)


def test_an_icmp_error_of_the_vm_reaches_the_client(rig: Rig, create_app: CreateApp) -> None:
    """Nothing listens in the VM: its port-unreachable becomes the client's."""
    app = create_app("silent", service("udp", 5000, 7777))
    rig.add_vm(app, "silent1")
    script = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2)\n"
        f"s.connect(('{app.vip}', 7777)); s.send(b'x')\n"
        "try: s.recv(1)\nexcept ConnectionRefusedError: print('refused')"
    )
    assert rig.run("client1", sys.executable, "-c", script, check=False).stdout == "refused\n"
