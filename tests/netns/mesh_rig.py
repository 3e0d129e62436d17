# SPDX-License-Identifier: Apache-2.0
"""Hosts with a mesh driver each, in network namespaces on one network."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from flyebpf.bpf.program import Program
from flyebpf.drivers.mesh import MeshDriver
from flyebpf.drivers.wireguard_keys import Keys
from flyebpf.lab.net import inside
from flyebpf.model.rows import MeshPeerRow, MeshRow, Row
from flyebpf.model.sixpn import HOST_BIT, host_address, host_prefix
from tests.netns.driver_rig import TC, program, sh

PORT = 51820
MTU = 1420


def stand_ins() -> dict[str, Program]:
    """Programs that let everything through, which the mesh's own do not."""
    return {name: program(TC, name) for name in ("mesh_tc", "mesh6_tc", "peer_tc")}


def eventually(what: Callable[[], object], patience: float = 5.0) -> None:
    """Wait until it is true."""
    deadline = time.monotonic() + patience
    while not what():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


@dataclass
class Host:
    """``number``: 1, 2, …; its address on the underlay ends with it."""

    prefix: str
    number: int
    folder: Path
    programs: dict[str, Program]
    created: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name = f"{self.prefix}{self.number}"
        self.underlay = f"192.0.2.{self.number}"
        self.address = host_address(HOST_BIT | self.number)
        self.keys = Keys(self.folder)
        self.start()

    def start(self) -> None:
        """A daemon without memory."""
        with inside(self.name):
            self.driver = MeshDriver(
                self.folder, self.programs, created=self.created.append, peers_port=PORT + 2
            )

    def restart(self) -> None:
        self.driver.close()
        self.start()

    def mesh(self, generation: int = 0, *, sending: bool = True) -> MeshRow:
        port = PORT + generation % 2
        device = f"fly{generation % 2}"
        own = (f"{self.address}/128",)
        return MeshRow(device, "wireguard", generation, port, own, MTU, sending)

    def peer(self, other: Host, generation: int = 0) -> MeshPeerRow:
        """The row of another host here."""
        return MeshPeerRow(
            f"fly{generation % 2}",
            other.name,
            other.keys.public(generation),
            f"{other.underlay}:{PORT + generation % 2}",
            (host_prefix(HOST_BIT | other.number), f"172.16.{16 * other.number}.0/20"),
        )

    def apply(self, *rows: Row) -> None:
        for row in rows:
            with inside(self.name):
                assert self.driver.apply(type(row), [row], []) == []

    def delete(self, row: Row) -> None:
        with inside(self.name):
            assert self.driver.apply(type(row), [], [row.key]) == []

    def read(self, kind: type[Row]) -> dict[object, object]:
        with inside(self.name):
            return dict(self.driver.read(kind))

    def in_place(self, row: Row) -> bool:
        with inside(self.name):
            return self.driver.read(type(row)).get(row.key) == self.driver.fingerprint(row)

    def sh(self, command: str) -> str:
        return sh(f"ip netns exec {self.name} sh -c '{command}'")

    def pings(self, other: Host, count: int = 3) -> bool:
        command = f"ping -q -c {count} -i 0.1 -W 2 -I {self.address} {other.address}"
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, *command.split()], capture_output=True, check=False
        )
        return done.returncode == 0

    def process(self, device: str = "fly0") -> int:
        """Of wireguard-go; 0 when there is none."""
        for text in sh(f"ip netns pids {self.name}").split():
            try:
                command = Path(f"/proc/{text}/cmdline").read_bytes().split(b"\0")
            except FileNotFoundError:
                continue
            if command[0].endswith(b"wireguard-go") and device.encode() in command:
                return int(text)
        return 0


class Fabric:
    """Hosts on a bridge, in a namespace of its own."""

    def __init__(self, prefix: str, folder: Path) -> None:
        self.prefix = prefix
        self._folder = folder
        self._programs = stand_ins()
        self._bridge = f"{prefix}0"
        self.hosts: list[Host] = []
        sh(f"ip netns add {self._bridge}; ip -n {self._bridge} link add br0 type bridge")
        sh(f"ip -n {self._bridge} link set br0 up")

    def add(self) -> Host:
        number = len(self.hosts) + 1
        name = f"{self.prefix}{number}"
        sh(f"ip netns add {name} && ip -n {name} link set lo up")
        sh(f"ip -n {name} link add eth0 type veth peer name p{number} netns {self._bridge}")
        sh(f"ip -n {self._bridge} link set p{number} master br0 up")
        sh(f"ip -n {name} address add 192.0.2.{number}/24 dev eth0")
        sh(f"ip -n {name} link set eth0 up")
        folder = self._folder / name
        folder.mkdir()
        host = Host(self.prefix, number, folder, self._programs)
        self.hosts.append(host)
        return host

    def close(self) -> None:
        for host in self.hosts:
            host.driver.close()
            for text in sh(f"ip netns pids {host.name}").split():
                os.kill(int(text), signal.SIGKILL)
            sh(f"ip netns delete {host.name}")
        sh(f"ip netns delete {self._bridge}")
