# SPDX-License-Identifier: Apache-2.0
"""Two hosts of one cluster, each with a VM, as guests; the kernel's WireGuard
between them, and etcd, clients and the router on this side::

    clients, etcd ─ router ┬─ up-a ═ eth0 │ host a │ eth1 ═ nic-a ─ vm-a ═ eth0 │ VM a
                           └─ up-b ═ eth0 │ host b │ eth1 ═ nic-b ─ vm-b ═ eth0 │ VM b

The pool is routed to host a. App ``web`` has its machine on host b, app ``db``
on host a; both are on one network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flyebpf.lab.net import inside
from tests.qemu import images, kernels
from tests.qemu.harness import Guest
from tests.qemu.machine import Machine, Nic
from tests.qemu.node import CONFIG, FLY_TOML, Node, tap, tiny_vm
from tests.qemu.region import MULTIQUEUE, QUEUES, ip

CLIENT = "192.0.2.1"
ETCD = "198.51.100.9"
MESH = """
[mesh]
underlay = "wireguard"
endpoint = "{address}"
[etcd]
endpoints = ["http://198.51.100.9:2379"]
"""
PATIENCE = 120.0  # seconds; of guests under TCG
MTU = 1420
"""What the mesh leaves of 1500: 40 bytes of IPv6, 8 of UDP, 32 of WireGuard."""


@dataclass(frozen=True)
class Site:
    """Where a host is: its address, the router's on their link, its block."""

    name: str
    address: str
    router: str
    block: str


SITES = (
    Site("a", "198.51.100.1", "198.51.100.2", "172.16.0.0/20"),
    Site("b", "198.51.100.5", "198.51.100.6", "172.16.16.0/20"),
)


@dataclass
class Fabric:
    """``vms`` and ``machines`` (as the API shows them) by host."""

    namespace: str
    nodes: dict[str, Node]
    vms: dict[str, Guest]
    machines: dict[str, dict[str, Any]]
    vip: str

    def outside(self) -> AbstractContextManager[None]:
        """This thread is where the client is."""
        return inside(self.namespace)

    def sixpn(self, host: str) -> str:
        address: str = self.machines[host]["ip_6pn"]
        return address


@contextmanager
def booted(accel: str) -> Iterator[Fabric]:
    with ExitStack() as stack:
        name = stack.enter_context(network())
        stack.enter_context(etcd(name))
        hosts = {site.name: stack.enter_context(host(site, name, accel)) for site in SITES}
        with ThreadPoolExecutor() as pool:
            nodes = dict(zip(hosts, pool.map(prepared, SITES, hosts.values()), strict=True))
        for node in nodes.values():
            node.start_daemon()
        machines, vip = populate(nodes)
        vms = {}
        for site in SITES:
            machine = machines[site.name]
            parameters = {"sixpn": machine["ip_6pn"], "mtu": str(MTU)}
            vm = tiny_vm(f"vm-{site.name}", machine, f"vm-{site.name}", name, **parameters)
            vms[site.name] = stack.enter_context(Guest(vm, accel))
            for link in (f"vm-{site.name}", f"nic-{site.name}"):
                ip("-n", name, "link", "set", link, "master", f"br-{site.name}", "up")
        yield Fabric(name, nodes, vms, machines, vip)


@contextmanager
def network() -> Iterator[str]:
    """A namespace: the router, with the addresses of a client and of etcd."""
    name = f"flyebpf-mesh-{os.getpid()}"
    ip("netns", "add", name)
    try:
        for key in ("ipv4.ip_forward=1", "ipv6.conf.default.disable_ipv6=1"):
            ip("netns", "exec", name, "sysctl", "-qw", f"net.{key}")
        ip("-n", name, "link", "set", "lo", "up")
        for address in (CLIENT, ETCD):
            ip("-n", name, "address", "add", f"{address}/32", "dev", "lo")
        for site in SITES:
            ip("-n", name, "link", "add", f"br-{site.name}", "type", "bridge")
            ip("-n", name, "link", "set", f"br-{site.name}", "up")
        yield name
    finally:
        ip("netns", "del", name)


@contextmanager
def etcd(namespace: str) -> Iterator[None]:
    """One member: what several do is tested where that is cheap."""
    url = f"http://{ETCD}:2379"
    folder = Path(tempfile.mkdtemp(prefix="flyebpf-etcd-"))
    argv = ["etcd", "--data-dir", folder / "data", "--log-level", "error"]
    argv += ["--listen-client-urls", url, "--advertise-client-urls", url]
    log = (folder / "log").open("wb")
    member = subprocess.Popen(["ip", "netns", "exec", namespace, *argv], stdout=log, stderr=log)
    try:
        yield
    finally:
        member.terminate()
        member.wait()
        log.close()
        shutil.rmtree(folder)


@contextmanager
def host(site: Site, namespace: str, accel: str) -> Iterator[Guest]:
    """The guest, with its uplink."""
    number = 1 + SITES.index(site)
    nics = [
        Nic(f"02:00:00:00:00:{number:02x}", tap(f"up-{site.name}", QUEUES), MULTIQUEUE),
        Nic(f"02:ee:00:00:00:{number:02x}", tap(f"nic-{site.name}")),
    ]
    image = images.build("host-guest", kernels.OLDEST)
    with Guest(Machine(f"host-{site.name}", image, nics, namespace=namespace), accel) as guest:
        uplink = f"up-{site.name}"
        ip("-n", namespace, "address", "add", f"{site.router}/30", "dev", uplink)
        ip("-n", namespace, "link", "set", uplink, "up")
        if site is SITES[0]:
            ip("-n", namespace, "route", "add", "203.0.113.0/24", "via", site.address)
        guest.run(
            "ethtool -L eth0 combined 2\n"
            f"ip address add {site.address}/30 dev eth0 && ip link set eth0 up"
            f" && ip route add default via {site.router}"
        )
        yield guest


def prepared(site: Site, guest: Guest) -> Node:
    config = CONFIG.format(name=site.name, region="ams", store="etcd", block=site.block)
    node = Node(guest, config + MESH.format(address=site.address))
    node.prepare()
    return node


def populate(nodes: dict[str, Node]) -> tuple[dict[str, dict[str, Any]], str]:
    """The apps and their machines; the machines by host, and the VIP of ``web``."""
    a, b = nodes["a"], nodes["b"]
    a.api("post", "/v1/orgs", {"name": "test"})
    for app in ("web", "db"):
        a.api("post", "/v1/apps", {"name": app, "org": "test"})
    vip = a.api("post", "/v1/apps/web/addresses", {"type": "v4"})["address"]
    a.api("post", "/v1/apps/web/deployments", {"config": FLY_TOML})
    machines = {}
    for node, app, site in ((a, "db", SITES[0]), (b, "web", SITES[1])):
        mac = f"02:fe:00:00:00:{1 + SITES.index(site):02x}"
        body = {"interface": "eth1", "mac": mac}
        machines[site.name] = node.api("post", f"/v1/apps/{app}/machines", body)
    for node in nodes.values():
        node.settle()
        handshake(node)
    return machines, vip


def handshake(node: Node) -> None:
    """Wait until the tunnel is there: what is sent before waits in it."""
    deadline = time.monotonic() + PATIENCE
    while not all(host["handshake"] for host in others(node)):
        assert time.monotonic() < deadline, others(node)
        time.sleep(0.5)


def others(node: Node) -> list[dict[str, Any]]:
    """The other hosts as this one's daemon shows them."""
    return [host for host in node.api("get", "/v1/hosts")["items"] if not host["this"]]
