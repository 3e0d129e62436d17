# SPDX-License-Identifier: Apache-2.0
"""A network namespace with the devices and routes that the programs look up.

=========  ==================================================================
``up0``    uplink, 192.0.2.1/24, default route; its other end is ``wire0``
``up1``    uplink, 198.51.100.1/24; other end ``wire1``
``lan0``   not an uplink, 10.9.0.1/24; other end ``wire2``
``vm1``…   interfaces of machines; the machines' ends are ``guest1``…
=========  ==================================================================
"""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

from flyebpf.lab.net import inside

MACHINES = 4

SETUP = """
link set lo up
link set up0 address 02:00:00:00:00:01
address add 192.0.2.1/24 dev up0
address add 198.51.100.1/24 dev up1
address add 10.9.0.1/24 dev lan0
route add default via 192.0.2.254 dev up0
route add unreachable 192.88.99.0/24
neigh add 192.0.2.10 lladdr 02:00:00:00:00:02 dev up0 nud permanent
neigh add 198.51.100.20 lladdr 02:00:00:00:00:02 dev up1 nud permanent
"""
PAIRS = {
    "up0": "wire0",
    "up1": "wire1",
    "lan0": "wire2",
    **{f"vm{n}": f"guest{n}" for n in range(1, MACHINES + 1)},
}


class Namespace:
    """Made by the constructor, gone after :meth:`close`. ``ifindex``: by name.

    The far ends are in a namespace of their own, ``far``, which answers nothing
    by itself.
    """

    def __init__(self) -> None:
        self.name = f"flyebpf-bpf-{os.getpid()}"
        self.far = f"{self.name}-far"
        for name in (self.name, self.far):
            ip("netns", "add", name)
        with self.entered(self.far):
            quiet(forward=False)
        with self.entered():
            quiet(forward=True)
            for near, far in PAIRS.items():
                ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", self.far)
                ip("link", "set", near, "up")
                ip("-n", self.far, "link", "set", far, "arp", "off", "up")
            for line in SETUP.strip().splitlines():
                ip(*line.split())
            self.ifindex = {name: socket.if_nametoindex(name) for name in PAIRS}

    def entered(self, name: str = "") -> AbstractContextManager[None]:
        """This thread is in the namespace, or in ``name``."""
        return inside(name or self.name)

    def close(self) -> None:
        for name in (self.name, self.far):
            ip("netns", "del", name)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def quiet(*, forward: bool) -> None:
    """Nothing of the kernel's own on the wires while a test listens."""
    Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
    Path("/proc/sys/net/ipv4/ip_forward").write_text(str(int(forward)))
