# SPDX-License-Identifier: Apache-2.0
"""What a VM must not be able to do (contract, section 2)."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.netns.conftest import CreateApp
from tests.netns.rig import App, Rig, service

pytestmark = pytest.mark.root

BIND_AND_SEND = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], int(sys.argv[2])))
s.sendto(b"unasked", (sys.argv[3], int(sys.argv[4])))
"""

RECEIVE_ONE = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 4444))
payload, source = s.recvfrom(100)
print(payload.decode(), "from", *source)
"""


@pytest.fixture(scope="module", autouse=True)
def bad(create_app: CreateApp, rig: Rig) -> App:
    """The VM ``bad`` is the attacker's, ``good`` somebody else's."""
    app = create_app("bad", service("udp", 5000, 7777), service("udp", 6000, 8000, 8001))
    rig.add_echo(app, "bad")
    victim = create_app("good", service("tcp", 8080, 80))
    rig.add_nginx(victim, "good")
    return app


@pytest.fixture
def host_service(rig: Rig) -> Iterator[str]:
    """A server on the host, on every address; returns the uplink's."""
    with rig.background("host1", "socat", "TCP-LISTEN:9999,fork,reuseaddr", "EXEC:echo secret"):
        rig.until(lambda: rig.listening("host1", "tcp", 9999), "socat listens on the host")
        yield rig.host().address


def test_the_hosts_services_are_out_of_reach(rig: Rig, host_service: str) -> None:
    assert "secret" in rig.run("client1", "socat", "-", f"TCP4:{host_service}:9999").stdout
    with rig.dropping("vm_to_host"):
        rig.cannot_curl("bad", f"http://{host_service}:9999/")


def test_the_gateway_is_nobody(rig: Rig, host_service: str) -> None:
    with rig.dropping("vm_not_public"):
        rig.cannot_curl("bad", "http://169.254.0.1:9999/")


@pytest.mark.parametrize("address", ["private_ip", "services_ip"])
def test_other_vms_private_addresses_are_out_of_reach(rig: Rig, address: str) -> None:
    target = getattr(rig.vm("good"), address)
    with rig.dropping("vm_to_private"):
        rig.cannot_curl("bad", f"http://{target}:8080/")
    with rig.dropping("vm_to_private"):
        assert rig.run("bad", "ping", "-c", "1", "-W", "0.3", target, check=False).returncode == 1


@pytest.mark.parametrize("target", ["10.0.0.1", "192.168.1.1", "100.64.0.1"])
def test_addresses_that_are_not_public_are_out_of_reach(rig: Rig, target: str) -> None:
    before = rig.drops()
    rig.cannot_curl("bad", f"http://{target}/", seconds=0.3)
    after = rig.drops()
    reasons = ("vm_not_public", "vm_to_private")
    assert sum(after.get(r, 0) for r in reasons) > sum(before.get(r, 0) for r in reasons)


def test_a_forged_source_address_is_dropped(rig: Rig) -> None:
    for source in (rig.vm("good").private_ip, "192.0.2.6", rig.host().address, "203.0.113.1"):
        with rig.dropping("spoofed_ip"):
            rig.tool("bad", "inject", "ip", source, "192.0.2.2")


def test_a_forged_source_mac_is_dropped(rig: Rig) -> None:
    with rig.dropping("spoofed_mac"):
        rig.tool("bad", "inject", "mac", rig.vm("good").mac, "192.0.2.2")


def test_forged_arp_is_dropped_and_changes_no_neighbour(rig: Rig) -> None:
    def neighbours() -> list[str]:
        lines = rig.run("host1", "ip", "-4", "neigh", "show").stdout.splitlines()
        return sorted(line.rpartition(" ")[0] for line in lines if "PERMANENT" in line)

    before = neighbours()
    for target in (rig.vm("good").private_ip, rig.host().address):
        with rig.dropping("spoofed_arp"):
            rig.tool("bad", "inject", "arp-reply", target)
        with rig.dropping("spoofed_arp"):
            rig.tool("bad", "inject", "arp-request", target, "172.16.0.99")
    assert neighbours() == before


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (["ethertype", "0x88cc"], "ethertype"),
        (["ipv6"], "ipv6"),
        (["router"], "spoofed_ip"),
    ],
)
def test_other_protocols_end_at_the_interface(rig: Rig, frame: list[str], reason: str) -> None:
    with rig.dropping(reason):
        rig.tool("bad", "inject", *frame)


def test_multicast_ends_at_the_interface(rig: Rig) -> None:
    own = rig.vm("bad").private_ip
    with rig.dropping("vm_multicast"):
        rig.run("bad", sys.executable, "-c", BIND_AND_SEND, own, "0", "224.0.0.251", "5353")


def test_the_services_address_only_answers(rig: Rig) -> None:
    """Port 4000 belongs to no service."""
    own = rig.vm("bad").services_ip
    with rig.dropping("reply_no_flow"):
        rig.run("bad", sys.executable, "-c", BIND_AND_SEND, own, "4000", "192.0.2.2", "9")


def test_unasked_datagrams_of_a_services_port_come_from_its_address(rig: Rig, bad: App) -> None:
    """Only one (address, port) leads to internal port 5000, so it is the source."""
    rig.remove_vm(bad, "bad")  # its server holds the port
    vm = rig.add_vm(bad, "bad")
    with rig.background("client1", sys.executable, "-c", RECEIVE_ONE) as listener:
        rig.until(lambda: rig.listening("client1", "udp", 4444), "the client listens")
        arguments = [vm.services_ip, "5000", "192.0.2.2", "4444"]
        rig.run("bad", sys.executable, "-c", BIND_AND_SEND, *arguments)
        assert listener.wait(5) == 0
        assert listener.stdout is not None
        assert listener.stdout.read() == f"unasked from {bad.vip} 7777\n"


def test_unasked_datagrams_with_two_possible_sources_are_dropped(rig: Rig) -> None:
    """Ports 8000 and 8001 both lead to 6000."""
    own = rig.vm("bad").services_ip
    with rig.dropping("reply_ambiguous"):
        rig.run("bad", sys.executable, "-c", BIND_AND_SEND, own, "6000", "192.0.2.2", "9")
