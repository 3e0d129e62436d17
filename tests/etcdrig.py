# SPDX-License-Identifier: Apache-2.0
"""Real etcd clusters on loopback, whose members can be killed and stopped."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flyebpf.config import EtcdConfig

PATIENCE = 30.0  # seconds


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody uses now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@dataclass
class EtcdMember:
    """One process, which may be started and ended any number of times."""

    name: str
    folder: Path
    client: str
    peer: str
    flags: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    stopped: bool = False

    def start(self, peers: str) -> None:
        assert self.process is None
        binary = shutil.which("etcd")
        assert binary, "etcd is missing: apt install etcd-server"
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [binary, "--name", self.name, "--data-dir", str(self.folder / self.name),
                 "--listen-client-urls", self.client, "--advertise-client-urls", self.client,
                 "--listen-peer-urls", self.peer, "--initial-advertise-peer-urls", self.peer,
                 "--initial-cluster", peers, "--logger", "zap", "--log-level", "error",
                 *self.flags],
                stdout=log,
                stderr=log,
            )  # fmt: skip

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE)
            self.process = None
            self.stopped = False

    def stop(self) -> None:
        """It answers nothing any more, and its connections stay."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        self.stopped = True

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
        self.stopped = False


@dataclass
class EtcdCluster:
    members: list[EtcdMember] = field(default_factory=list)

    @property
    def peers(self) -> str:
        return ",".join(f"{one.name}={one.peer}" for one in self.members)

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(one.client for one in self.members)

    def config(self, prefix: str = "/flyebpf/", timeout: int = 5) -> EtcdConfig:
        return EtcdConfig(self.endpoints, prefix=prefix, timeout=timeout)

    def start(self) -> None:
        """All that do not run."""
        for one in self.members:
            if one.process is None:
                one.start(self.peers)
            elif one.stopped:
                one.go_on()

    def wait(self) -> None:
        """Until every member answers, so that all agree on a leader."""
        deadline = time.monotonic() + PATIENCE
        for one in self.members:
            while True:
                try:
                    answer(one, "/v3/kv/range", {"key": "AA=="})
                    break
                except OSError:
                    assert time.monotonic() < deadline, f"{one.name} does not start"
                    time.sleep(0.05)

    def leader(self) -> EtcdMember:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for one in self.members:
                if one.process is None or one.stopped:
                    continue
                try:
                    status = answer(one, "/v3/maintenance/status", {})
                except OSError:
                    continue
                if status.get("leader") == status["header"]["member_id"]:
                    return one
            time.sleep(0.05)
        raise TimeoutError("there is no leader")

    def revision(self) -> int:
        return int(answer(self.leader(), "/v3/kv/range", {"key": "AA=="})["header"]["revision"])

    def compact(self) -> None:
        """Forget everything but the present."""
        answer(self.leader(), "/v3/kv/compaction", {"revision": str(self.revision())})

    def put(self, key: bytes, value: bytes) -> None:
        """Write past everything that is tested."""
        body = {"key": b64encode(key).decode(), "value": b64encode(value).decode()}
        answer(self.leader(), "/v3/kv/put", body)

    def delete(self, key: bytes) -> None:
        answer(self.leader(), "/v3/kv/deleterange", {"key": b64encode(key).decode()})

    def end(self) -> None:
        for one in self.members:
            one.kill()


def answer(member: EtcdMember, path: str, body: object) -> dict[str, Any]:
    """Straight from a member, past everything that is tested. Raises OSError."""
    request = urllib.request.Request(
        member.client + path,
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=3) as response:
            found: dict[str, Any] = json.load(response)
            return found
    except urllib.error.HTTPError as error:
        with error:
            raise OSError(error.read().decode()) from error


@contextmanager
def etcd(folder: Path, members: int = 1, *, flags: tuple[str, ...] = ()) -> Iterator[EtcdCluster]:
    """A cluster that runs. ``flags`` for every member."""
    ports = free_ports(2 * members)
    cluster = EtcdCluster(
        [
            EtcdMember(
                f"m{number}",
                folder,
                f"http://127.0.0.1:{ports[2 * number]}",
                f"http://127.0.0.1:{ports[2 * number + 1]}",
                flags,
            )
            for number in range(members)
        ]
    )
    try:
        cluster.start()
        cluster.wait()
        yield cluster
    finally:
        cluster.end()
