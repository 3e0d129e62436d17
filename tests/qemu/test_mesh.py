# SPDX-License-Identifier: Apache-2.0
"""Two hosts and the kernel's WireGuard: private networks and Anycast from one
to the other, between real VMs."""

from __future__ import annotations

import hashlib
import random
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from tests.qemu.fabric import CLIENT, SITES, Fabric, booted
from tests.qemu.node import Node

MEGABYTE = 1 << 20
SIZE = 10 * MEGABYTE
LONG = 300.0  # seconds; megabytes through four guests under TCG


@pytest.fixture(scope="module")
def fabric(accelerator: str) -> Iterator[Fabric]:
    with booted(accelerator) as made:
        yield made


def test_the_kernels_wireguard_is_used(fabric: Fabric) -> None:
    for node in fabric.nodes.values():
        said = node.guest.run("ip -d link show type wireguard").output
        assert "fly0" in said
        assert node.guest.run("pidof wireguard-go", check=False).code != 0


def test_private_network_between_hosts(fabric: Fabric) -> None:
    """TCP from the VM on host a to the one on host b, whole and from its address."""
    words = f"put {SIZE}\\n"
    sent = fabric.vms["a"].run(
        f"(printf '{words}'; head -c {SIZE} /dev/urandom | tee /tmp/sent) |"
        f" socat -t 100 - 'TCP6:[{fabric.sixpn('b')}]:7000' >/tmp/answer;"
        " sha256sum </tmp/sent; cat /tmp/answer; rm /tmp/sent",
        timeout=LONG,
    )
    here, there = (line.split()[0] for line in sent.output.split("\n") if line.strip())
    assert here == there
    seen = ask(fabric, "b", "a")
    assert seen.split()[0].strip("[]") == expanded(fabric.sixpn("b"))


def ask(fabric: Fabric, asker: str, asked: str) -> str:
    """What the VM on host ``asked`` sees of a connection from the other one."""
    target = f"TCP6:[{fabric.sixpn(asked)}]:7000"
    return fabric.vms[asker].run(f"echo seen | socat -t 30 - '{target}'", timeout=LONG).output


def expanded(address: str) -> str:
    """As socat writes it: eight groups of four digits."""
    packed = socket.inet_pton(socket.AF_INET6, address).hex()
    return ":".join(packed[i : i + 4] for i in range(0, 32, 4))


def test_echo_both_ways(fabric: Fabric) -> None:
    for here, there in (("a", "b"), ("b", "a")):
        fabric.vms[here].run(f"ping -6 -c 3 -W 10 {fabric.sixpn(there)}", timeout=LONG)


def test_datagrams_between_hosts(fabric: Fabric) -> None:
    target = f"UDP6:[{fabric.sixpn('b')}]:7000"
    said = fabric.vms["a"].run(f"echo hello | socat -t 30 - '{target}'", timeout=LONG).output
    assert "hello" in said
    assert expanded(fabric.sixpn("a")) in said


def test_another_network_is_not_reached(fabric: Fabric) -> None:
    """The same host, the same machine, another network number: dropped at the
    sender's interface, and nothing on the wire."""
    node = fabric.nodes["a"]
    before = node.drops().get("sixpn_network", 0)
    groups = expanded(fabric.sixpn("b")).split(":")
    groups[2] = f"{int(groups[2], 16) ^ 0x11:04x}"
    other = ":".join(groups)
    done = fabric.vms["a"].run(f"ping -6 -c 3 -W 2 {other}", timeout=LONG, check=False)
    assert done.code != 0
    assert node.drops()["sixpn_network"] >= before + 3


def test_a_host_that_forges_another_hosts_address_is_refused_and_counted(fabric: Fabric) -> None:
    """WireGuard itself knows which sources are a peer's, and counts what is not."""
    here, there = fabric.nodes["a"], fabric.nodes["b"]
    forged = "fdaa:8000:99::1"
    (host,) = (h for h in there.api("get", "/v1/hosts")["items"] if h["this"])
    target = host["mesh_address"]
    here.guest.run(f"ip -6 address add {forged}/128 dev fly0 nodad")
    here.guest.run(f"ping -6 -c 3 -W 2 -I {forged} {target}", check=False)
    here.guest.run(f"ip -6 address del {forged}/128 dev fly0")
    deadline = time.monotonic() + LONG
    while (counted := refused(there)) < 3:  # the daemon may have looked in between
        assert time.monotonic() < deadline, counted
        time.sleep(1)
    assert counted == 3


def refused(node: Node) -> int:
    """As its daemon has seen it last."""
    devices = node.api("get", "/v1/status")["mesh"]["devices"]
    return sum(device["refused"] or 0 for device in devices)


def client(fabric: Fabric, kind: socket.SocketKind) -> socket.socket:
    with fabric.outside():
        end = socket.socket(socket.AF_INET, kind)
        end.bind((CLIENT, 0))
        end.settimeout(LONG)
    return end


def test_upload_through_another_hosts_edge(fabric: Fabric) -> None:
    """The pool is routed to host a, the machine is on host b; the daemons of both
    are killed in the middle."""
    content = random.Random(1).randbytes(MEGABYTE)
    wanted = hashlib.sha256()
    killer = threading.Thread(target=lambda: [n.kill_daemon() for n in fabric.nodes.values()])
    with client(fabric, socket.SOCK_STREAM) as end:
        end.connect((fabric.vip, 80))
        end.sendall(f"put {SIZE}\n".encode())
        for number in range(SIZE // MEGABYTE):
            end.sendall(content)
            wanted.update(content)
            if number == 2:
                killer.start()
        answer = end.makefile().readline()
    killer.join()
    for node in fabric.nodes.values():
        node.start_daemon()
    assert answer.split()[0] == wanted.hexdigest()


def test_the_vm_sees_the_client(fabric: Fabric) -> None:
    with client(fabric, socket.SOCK_STREAM) as end:
        end.connect((fabric.vip, 80))
        port = end.getsockname()[1]
        end.sendall(b"seen\n")
        answer = end.makefile().readline()
    machine = fabric.machines["b"]
    assert answer.split() == [CLIENT, str(port), machine["private_ip"], "8080"]


def test_download_through_another_hosts_edge(fabric: Fabric) -> None:
    """Straight back from host b."""
    came = bytearray()
    with client(fabric, socket.SOCK_STREAM) as end:
        end.connect((fabric.vip, 80))
        end.sendall(f"get {SIZE}\n".encode())
        while piece := end.recv(MEGABYTE):
            came += piece
    wanted = "".join(f"{number}\n" for number in range(1, SIZE // 6)).encode()[:SIZE]
    assert bytes(came) == wanted


def test_datagram_through_another_hosts_edge(fabric: Fabric) -> None:
    with client(fabric, socket.SOCK_DGRAM) as end:
        end.sendto(b"datagram", (fabric.vip, 53))
        content, source = end.recvfrom(2048)
        assert source == (fabric.vip, 53)
        assert content.decode().split() == [CLIENT, str(end.getsockname()[1]), "datagram"]


def test_a_datagram_too_long_for_the_mesh(fabric: Fabric) -> None:
    """The edge tells the client (ICMP fragmentation needed), whose kernel then
    sends fragments, and they arrive."""
    size = 1450
    with client(fabric, socket.SOCK_DGRAM) as end:
        end.setsockopt(socket.IPPROTO_IP, 10, 1)  # IP_MTU_DISCOVER, IP_PMTUDISC_WANT
        end.connect((fabric.vip, 53))
        end.send(b"x" * size)  # dropped, and answered
        answer = b""
        end.settimeout(20)
        for _ in range(10):
            try:
                end.send(b"y" * size)
                answer = end.recv(4096)
            except (TimeoutError, OSError):
                continue
            break
    assert answer.decode().split()[-1] == "y" * size


def test_nothing_private_is_on_the_underlay(fabric: Fabric) -> None:
    """What leaves the uplinks is WireGuard, or addressed to the client."""
    private = "ip6 or net 172.16.0.0/12 or net 100.64.0.0/10"
    sniffer = subprocess.Popen(
        f"ip netns exec {fabric.namespace} tcpdump -nli any {private}".split(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert sniffer.stderr is not None
    while "listening" not in sniffer.stderr.readline():
        assert sniffer.poll() is None
    fabric.vms["a"].run(f"ping -6 -c 3 -W 10 {fabric.sixpn('b')}", timeout=LONG)
    sniffer.terminate()
    seen, _ = sniffer.communicate()
    uplinks = {f"up-{site.name}" for site in SITES}
    assert not [line for line in seen.splitlines() if uplinks & set(line.split())]
