# SPDX-License-Identifier: Apache-2.0
"""A host with a DNS process and VMs in namespaces of their own, without the
data plane: their addresses are taken as verified."""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from flyebpf.dns import frames
from flyebpf.lab.net import inside
from flyebpf.model.records import AnyRecord
from tests.dns_rig import WORLD, Reply, reply

ROOT = Path(__file__).parents[2]
SERVER = "fdaa::3"


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


@dataclass
class Client:
    """A VM: a namespace with one address."""

    namespace: str
    address: str
    sockets: list[socket.socket] = field(default_factory=list)

    def udp(self, source: str = "", server: str = SERVER) -> socket.socket:
        return self._connected(socket.SOCK_DGRAM, source, server)

    def tcp(self, source: str = "", server: str = SERVER) -> socket.socket:
        return self._connected(socket.SOCK_STREAM, source, server)

    def _connected(self, kind: int, source: str, server: str) -> socket.socket:
        with inside(self.namespace):
            sock = socket.socket(socket.AF_INET6, kind)
        self.sockets.append(sock)
        sock.settimeout(5)
        sock.bind((source or self.address, 0))
        sock.connect((server, 53))
        return sock

    @contextmanager
    def another_address(self, address: str) -> Iterator[None]:
        """One more, with its prefix length."""
        where = ("-n", self.namespace, "addr")
        run("ip", *where, "add", address, "dev", "eth0", "nodad")
        try:
            yield
        finally:
            run("ip", *where, "del", address, "dev", "eth0")

    def ask(self, message: bytes, *, server: str = SERVER) -> Reply:
        sock = self.udp(server=server)
        sock.send(message)
        return reply(sock.recv(65535))

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["ip", "netns", "exec", self.namespace, *command],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def start(self, *command: str) -> subprocess.Popen[str]:
        """A command that goes on; its output can be read from it."""
        pipe = subprocess.PIPE
        argv = ["ip", "netns", "exec", self.namespace, *command]
        return subprocess.Popen(argv, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def is_silent(sock: socket.socket, seconds: float = 0.3) -> bool:
    return not select.select([sock], [], [], seconds)[0]


def framed(message: bytes) -> bytes:
    """As TCP carries it."""
    return struct.pack("!H", len(message)) + message


def read_framed(sock: socket.socket) -> bytes:
    def exactly(size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = sock.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    return exactly(struct.unpack("!H", exactly(2))[0])


class DnsNet:
    """``clients`` by name. Everything goes away with :meth:`close`."""

    def __init__(self, directory: Path, clients: dict[str, str]) -> None:
        self.host = f"dns{os.getpid()}h"
        self.directory = directory
        self.clients: dict[str, Client] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._files: list[Path] = []
        self._namespace(self.host)
        for address in (SERVER, "fdaa:0:1::3", "fdaa:0:3::3"):
            # Local without being on an interface: there is one for each network.
            run("ip", "-n", self.host, "route", "add", "local", address, "dev", "lo")
        run("ip", "netns", "exec", self.host, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
        for number, (name, address) in enumerate(clients.items()):
            self._client(name, number, address)

    def _namespace(self, name: str) -> None:
        run("ip", "netns", "add", name)
        run("ip", "-n", name, "link", "set", "lo", "up")

    def _client(self, name: str, number: int, address: str) -> None:
        namespace = f"dns{os.getpid()}c{number}"
        self._namespace(namespace)
        port = f"vm{number}"
        run("ip", "-n", self.host, "link", "add", port, "type", "veth",
            "peer", "name", "eth0", "netns", namespace)  # fmt: skip
        run("ip", "-n", self.host, "addr", "add", "fe80::1/64", "dev", port, "nodad")
        run("ip", "-n", self.host, "link", "set", port, "up")
        run("ip", "-n", self.host, "route", "add", f"{address[:-1]}0/112", "dev", port)
        run("ip", "-n", namespace, "addr", "add", f"{address}/112", "dev", "eth0", "nodad")
        run("ip", "-n", namespace, "link", "set", "eth0", "up")
        run("ip", "-n", namespace, "route", "add", "default", "via", "fe80::1", "dev", "eth0")
        resolv = Path("/etc/netns") / namespace / "resolv.conf"
        resolv.parent.mkdir(parents=True)
        resolv.write_text(f"nameserver {SERVER}\noptions timeout:2 attempts:2\n")
        self._files.append(resolv)
        self.clients[name] = Client(namespace, address)

    def spawn(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        """``python -m MODULE`` on the host."""
        command = ["ip", "netns", "exec", self.host, sys.executable, "-m", module, *arguments]
        log = (self.directory / f"{module}.log").open("ab")
        child = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        log.close()
        self._processes.append(child)
        return child

    def serve(
        self, config: frames.ProcessConfig, records: Iterable[AnyRecord] = WORLD
    ) -> subprocess.Popen[bytes]:
        """The DNS process, fed."""
        child = self.spawn("flyebpf.dns.process", config.to_json())
        connection = self.control(config)
        connection.call("begin")
        rows = list(frames.records(records))
        for at in range(0, len(rows), frames.BATCH):
            connection.call("records", records=rows[at : at + frames.BATCH])
        connection.call("commit", revision=1)
        connection.close()
        return child

    def control(self, config: frames.ProcessConfig) -> frames.Connection:
        """To the process, once it is there."""
        for _ in range(200):
            try:
                return frames.Connection(config.socket)
            except frames.UnavailableError:
                time.sleep(0.05)
        raise AssertionError(self.log("flyebpf.dns.process"))

    def log(self, module: str = "flyebpf.dns.process") -> str:
        return (self.directory / f"{module}.log").read_text()

    def end(self, child: subprocess.Popen[bytes]) -> None:
        child.terminate()
        child.wait(10)
        self._processes.remove(child)

    def close(self) -> None:
        for child in list(self._processes):
            self.end(child)
        names: Sequence[str] = [client.namespace for client in self.clients.values()]
        for client in self.clients.values():
            for sock in client.sockets:
                sock.close()
        for name in (*names, self.host):
            run("ip", "netns", "del", name)
        for path in self._files:
            path.unlink()
            path.parent.rmdir()
