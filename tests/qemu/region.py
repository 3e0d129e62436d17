# SPDX-License-Identifier: Apache-2.0
"""A host with the real daemon and a real VM, as guests; clients on this side::

    clients ─ uplink ═ eth0 │ host guest │ eth1 ═ host-vm ─ bridge ─ vm ═ eth0 │ tiny VM

``═`` are taps with checksum and segmentation offloads; all of them are in one
network namespace, with 100 clients' addresses.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from flyebpf.lab.net import inside
from tests.qemu import images, kernels
from tests.qemu.harness import Guest
from tests.qemu.machine import NATIVE, Machine, Nic
from tests.qemu.node import CONFIG, FLY_TOML, Node, tap, tiny_vm

CLIENTS = [f"192.0.2.{number}" for number in range(1, 101)]
VM_MAC = "02:fe:00:00:00:01"
HOST, ROUTER = "198.51.100.1", "198.51.100.2"
QUEUES = 4
"""Of the uplink: virtio-net wants one more for each CPU for native XDP."""
MULTIQUEUE = f"mq=on,vectors={2 * QUEUES + 2},{NATIVE}"


@dataclass
class Region:
    """``vip``: of the app whose machine ``vm`` is."""

    host: Guest
    node: Node
    vm: Guest
    namespace: str
    vip: str
    services_ip: str

    def outside(self) -> AbstractContextManager[None]:
        """This thread is where the clients are."""
        return inside(self.namespace)

    def connect(self, port: int, client: str) -> socket.socket:
        with self.outside():
            return socket.create_connection(
                (self.vip, port), timeout=60, source_address=(client, 0)
            )

    def datagrams(self, client: str) -> socket.socket:
        with self.outside():
            end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            end.bind((client, 0))
        return end

    def kill_daemon(self) -> None:
        self.node.kill_daemon()

    def start_daemon(self) -> None:
        self.node.start_daemon()


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@contextmanager
def network() -> Iterator[str]:
    """A namespace with the clients' addresses; its name."""
    name = f"flyebpf-qemu-{os.getpid()}"
    ip("netns", "add", name)
    try:
        ip("netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
        ip("netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
        ip("-n", name, "link", "set", "lo", "up")
        for client in CLIENTS:
            ip("-n", name, "address", "add", f"{client}/32", "dev", "lo")
        ip("-n", name, "link", "add", "bridge", "type", "bridge")
        ip("-n", name, "link", "set", "bridge", "up")
        yield name
    finally:
        ip("netns", "del", name)


@contextmanager
def booted(accel: str) -> Iterator[Region]:
    """The daemon runs, its app has the VM, and the VM serves."""
    kernel = kernels.OLDEST
    with network() as name:
        nics = [
            Nic("02:00:00:00:00:01", tap("uplink", QUEUES), MULTIQUEUE),
            Nic("02:ee:00:00:00:01", tap("host-vm")),
        ]
        image = images.build("host-guest", kernel)
        with Guest(Machine("region", image, nics, namespace=name), accel) as host:
            for link in ("uplink", "host-vm"):
                ip("-n", name, "link", "set", link, "up")
            ip("-n", name, "link", "set", "host-vm", "master", "bridge")
            ip("-n", name, "address", "add", f"{ROUTER}/30", "dev", "uplink")
            ip("-n", name, "route", "add", "203.0.113.0/24", "via", HOST)
            node = create(host)
            vip = node.api("post", "/v1/apps/web/addresses", {"type": "v4"})["address"]
            body = {"interface": "eth1", "mac": VM_MAC}
            machine = node.api("post", "/v1/apps/web/machines", body)
            node.api("post", "/v1/apps/web/deployments", {"config": FLY_TOML})
            node.settle()
            with Guest(tiny_vm("vm", machine, "vm", name), accel) as vm:
                ip("-n", name, "link", "set", "vm", "master", "bridge", "up")
                yield Region(host, node, vm, name, vip, machine["services_ip"])


def create(host: Guest) -> Node:
    """The host's uplink, its daemon and the app."""
    host.run(
        "sysctl -qw net.ipv6.conf.all.disable_ipv6=1; ethtool -L eth0 combined 2\n"
        f"ip address add {HOST}/30 dev eth0 && ip link set eth0 up"
        f" && ip route add default via {ROUTER}"
    )
    node = Node(
        host, CONFIG.format(name="guest", region="ams", store="sqlite", block="172.16.0.0/20")
    )
    node.prepare()
    node.start_daemon()
    node.api("post", "/v1/orgs", {"name": "test"})
    node.api("post", "/v1/apps", {"name": "web", "org": "test"})
    return node
