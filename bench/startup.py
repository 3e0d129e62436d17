# SPDX-License-Identifier: Apache-2.0
"""How a daemon starts: compiling, adopting, cold and warm, and its memory.

A real daemon in a network namespace of its own, with a store of N records (a
third of them apps, each with an address and a deployment). *compile*: bcc
compiles all programs and they are loaded; *load*: the same with the code of that
compilation, as after a boot. *cold*: empty maps, until READY=1. *warm*: what
the next daemon needs until READY=1 with nothing changed, and then until it has
compared everything. Memory is the daemon's resident set, MB.

Run as root: ``.venv/bin/python -m bench.startup [--json]``.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import rig
from flyebpf.api.client import Client
from flyebpf.bpf import loader
from flyebpf.configfile import load
from flyebpf.model.codec import encode
from flyebpf.model.records import Address, AddressKind, App, Deployment, Port, Service
from flyebpf.ops import cluster, orgs
from flyebpf.store.base import Put, Transaction
from flyebpf.store.sqlite import SqliteStore

SIZES = (3, 1_000, 100_000)
PATIENCE = 300.0  # seconds
CONFIG = """
host = "bench"
region = "bench"
uplinks = ["uplink"]
state_dir = "{folder}/state"
bpffs = "{folder}/bpffs"
cache_dir = "{folder}/cache"
[pools]
anycast_v4 = ["203.0.0.0/16"]
[api]
socket = "{folder}/api.sock"
[metrics]
listen = ""
"""


@contextmanager
def site() -> Iterator[tuple[str, Path]]:
    """A namespace with an uplink, and a folder for everything."""
    name = f"bench-start-{os.getpid()}"
    folder = Path(tempfile.mkdtemp(prefix="flyebpf-bench-"))
    run = subprocess.run
    try:
        run(["ip", "netns", "add", name], check=True)
        run(["ip", "-n", name, "link", "add", "uplink", "type", "veth", "peer", "name", "far"],
            check=True)  # fmt: skip
        for device in ("uplink", "far"):
            run(["ip", "-n", name, "link", "set", device, "up"], check=True)
        yield name, folder
    finally:
        run(["ip", "netns", "del", name], check=False)
        run(["umount", f"{folder}/bpffs"], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(folder)


def fill(folder: Path, records: int) -> None:
    """A store with that many records."""
    config = load(str(folder / "flyebpf.toml"))
    store = SqliteStore(folder / "state" / "state.db")
    cluster.ensure(store, config)
    orgs.create(store, "bench")
    puts = []
    service = Service("tcp", 8080, (Port(80, 80),), ("app",))
    for number in range(records // 3):
        name = f"app{number}"
        address = f"203.0.{number >> 8}.{number & 255}"
        for record in (
            App(name, "bench"),
            Address(address, name, AddressKind.V4),
            Deployment(name, (service,)),
        ):
            puts.append(Put(record.kind, record.ident, encode(record)))
    store.commit(Transaction((), tuple(puts)))
    store.close()


@dataclass
class Started:
    """Seconds until READY=1, and until applied and compared; MB resident."""

    ready: float
    settled: float
    memory: float


def start(name: str, folder: Path) -> Started:
    """Start a daemon, wait until it has settled, end it."""
    path = str(folder / "notify")
    Path(path).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(path)
        notify.settimeout(PATIENCE)
        begun = time.monotonic()
        daemon = subprocess.Popen(
            ["ip", "netns", "exec", name, sys.executable, "-m", "flyebpf", "daemon",
             "--config", str(folder / "flyebpf.toml")],
            env={**os.environ, "NOTIFY_SOCKET": path},
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            while b"READY=1" not in notify.recv(4096):
                pass
            ready = time.monotonic() - begun
            settle(folder)
            return Started(ready, time.monotonic() - begun, resident(daemon.pid))
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(PATIENCE)


def settle(folder: Path) -> None:
    client = Client(str(folder / "api.sock"))
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        status = client.get("/v1/status")
        if status["applied_revision"] == status["store_revision"] and status["rows"].get("vip"):
            return
        time.sleep(0.05)
    raise TimeoutError("the daemon did not settle")


def resident(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def measure(records: int) -> list[object]:
    with site() as (name, folder):
        (folder / "flyebpf.toml").write_text(CONFIG.format(folder=folder))
        (folder / "state").mkdir(mode=0o700)
        fill(folder, records)
        config = load(str(folder / "flyebpf.toml"))
        generation = loader.ensure(config)
        compiled = generation.seconds
        generation.close()
        shutil.rmtree(folder / "bpffs" / "programs")
        generation = loader.ensure(config)
        loaded = generation.seconds
        generation.close()
        cold, warm = start(name, folder), start(name, folder)
        return [records, compiled, loaded, cold.ready, warm.ready, warm.settled, warm.memory]


def main() -> None:
    rig.require_root()
    rig.report(
        "daemon start, seconds; resident memory, MB",
        ("records", "compile", "load", "cold, ready", "warm, ready", "warm, compared", "memory"),
        [measure(records) for records in SIZES],
    )


if __name__ == "__main__":
    main()
