# SPDX-License-Identifier: Apache-2.0
"""A network namespace with the devices and routes that the programs look up.

=========  ==================================================================
``up0``    uplink, 192.0.2.1/24, default route; its other end is ``wire0``
``up1``    uplink, 198.51.100.1/24; other end ``wire1``
``lan0``   not an uplink, 10.9.0.1/24
``vm1``…   interfaces of machines; the machines' ends are ``guest1``…
=========  ==================================================================
"""

from __future__ import annotations

import ctypes as ct
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNET = 0x40000000
MACHINES = 4

SETUP = """
link set lo up
link add up0 type veth peer name wire0
link add up1 type veth peer name wire1
link add lan0 type veth peer name wire2
link set up0 address 02:00:00:00:00:01
link set wire0 address 02:00:00:00:00:02
address add 192.0.2.1/24 dev up0
address add 198.51.100.1/24 dev up1
address add 10.9.0.1/24 dev lan0
"""
ROUTES = """
route add default via 192.0.2.254 dev up0
route add unreachable 192.88.99.0/24
neigh add 192.0.2.10 lladdr 02:00:00:00:00:02 dev up0 nud permanent
"""


class Namespace:
    """Made by the constructor, gone after :meth:`close`. ``ifindex``: by name."""

    def __init__(self) -> None:
        self.name = f"flyebpf-bpf-{os.getpid()}"
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        devices = ["up0", "wire0", "up1", "wire1", "lan0", "wire2"]
        lines = [SETUP]
        for number in range(1, MACHINES + 1):
            lines.append(f"link add vm{number} type veth peer name guest{number}")
            lines.append(f"link set vm{number} address 02:fd:00:00:00:{number:02x}")
            lines.append(f"link set guest{number} address 02:fe:00:00:00:{number:02x}")
            devices += [f"vm{number}", f"guest{number}"]
        lines += [f"link set {device} up" for device in devices]
        with self.entered():
            # Nothing of the kernel's own on the wires while a test listens.
            Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            self._ip("\n".join(lines))
            self._ip(ROUTES)
            self.ifindex = {name: socket.if_nametoindex(name) for name in devices}

    def _ip(self, commands: str) -> None:
        subprocess.run(["ip", "-batch", "-"], input=commands, text=True, check=True)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is in the namespace."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        inside = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            set_namespace(inside)
            yield
        finally:
            set_namespace(home)
            os.close(home)
            os.close(inside)

    def close(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=True)


def set_namespace(fd: int) -> None:
    libc = ct.CDLL(None, use_errno=True)
    if libc.setns(fd, CLONE_NEWNET):
        raise OSError(ct.get_errno(), "setns")
