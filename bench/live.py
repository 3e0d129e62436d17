# SPDX-License-Identifier: Apache-2.0
"""How fast a cluster of hosts follows a change, and what it takes from etcd's ends.

Five hosts of the lab with real daemons, three real members of etcd, all on this
machine. *effective*: from just before the command until every host's pinned maps
hold the change, looked at all the time. *converge*: machines of other hosts
are written to the store in large transactions until there are N; from the last one
until every host has applied it, and from the first. *etcd*: a member is killed every ten
seconds and started again five seconds later, in turn, while flows cross the mesh
and one writer writes.

Run as root: ``.venv/bin/python -m bench.live [effective] [converge] [etcd]
[--json]``.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from bench import rig
from bench.startup import resident
from flyebpf.api.client import Client, path
from flyebpf.bpf.libbpf import Map
from flyebpf.errors import FlyebpfError
from flyebpf.lab import net, vms
from flyebpf.lab.state import Vm
from tests.netns.cluster import Cluster
from tests.netns.rig import App, service

HOSTS = 5
TRIALS = 100
SIZES = (10, 1_000, 10_000, 100_000)
KILLS = 30
KILL_EVERY, DOWN = 10.0, 5.0  # seconds
PATIENCE = 200.0
FIRST_TABLES = 8


@contextmanager
def cluster(name: str, hosts: int = HOSTS) -> Iterator[Cluster]:
    made = Cluster(f"b{os.getpid()}", Path(f"/run/flyebpf-bench-{os.getpid()}-{name}"))
    try:
        made.command("lab", "up", "--empty", "--hosts", str(hosts), timeout=600)
        yield made
    finally:
        made.command("lab", "down")


def progress(text: str) -> None:
    print(f"    {text}", file=sys.stderr, flush=True)


# Effective on every host.


@dataclass
class Eyes:
    """The maps of a host that a change of a service or a machine shows in."""

    folder: Path
    tables: Map = field(init=False)
    services: Map = field(init=False)

    def __post_init__(self) -> None:
        self.tables, self.services = self._open("tables"), self._open("services")

    def _open(self, name: str) -> Map:
        [pin] = self.folder.glob(f"{name}-*")
        return Map.open(pin)

    def look(self) -> tuple[object, ...]:
        tables = [self.tables.lookup(at.to_bytes(4, "little")) for at in range(FIRST_TABLES)]
        return (tables, sorted(self.services.items()))


def until_seen(eyes: Sequence[Eyes], change: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds until ``change`` was answered, and until the last host's maps
    were others than before."""
    before = [eye.look() for eye in eyes]
    answered: list[float] = []

    def run() -> None:
        change()
        answered.append(time.perf_counter())

    begun = time.perf_counter()
    worker = threading.Thread(target=run)
    worker.start()
    waiting = set(range(len(eyes)))
    seen = begun
    while waiting:
        for number in list(waiting):
            if eyes[number].look() != before[number]:
                waiting.discard(number)
                seen = time.perf_counter()
        if time.perf_counter() - begun > PATIENCE:
            raise TimeoutError("a host does not follow")
        time.sleep(0.002)
    worker.join()
    return 1000 * (answered[0] - begun), 1000 * (seen - begun)


def effective() -> None:
    with cluster("effective") as lab:
        app = lab.create_app("bench", service("tcp", 8080, 80))
        for host in ("host1", "host2"):  # of one region, so in every host's table
            lab.make_vm(app, f"b-{host}", host=host)
        lab.settle()
        eyes = [Eyes(lab.where.host(host) / "bpffs" / "maps") for host in lab.hosts]
        rows = [
            row("a machine stopped or started", eyes, stop_and_start(lab)),
            row("a machine added or removed", eyes, add_and_remove(lab, app)),
            row("a service changed", eyes, deploys(lab, app)),
        ]
    columns = ("change", "answered p50", "effective p50", "p99", "longest")
    rig.report(f"a change effective on {HOSTS} hosts, ms, {TRIALS} times", columns, rows)


def row(name: str, eyes: Sequence[Eyes], changes: Iterator[Callable[[], object]]) -> list[object]:
    progress(name)
    answered, seen = [], []
    for _, change in zip(range(TRIALS), changes, strict=False):
        one, other = until_seen(eyes, change)
        answered.append(one)
        seen.append(other)
        time.sleep(0.02)
    p99 = statistics.quantiles(seen, n=100, method="inclusive")[98]
    return [name, statistics.median(answered), statistics.median(seen), p99, max(seen)]


def stop_and_start(lab: Cluster) -> Iterator[Callable[[], object]]:
    api, machine = lab.api("host1"), lab.vm("b-host2").machine
    while True:
        yield lambda: api.post(path("machines", machine, "stop"))
        yield lambda: api.post(path("machines", machine, "start"))


def add_and_remove(lab: Cluster, app: App) -> Iterator[Callable[[], object]]:
    """Of a machine whose interface is there already."""
    host = lab.host("host1")
    vm = Vm("b-new", "host1", app.name, f"{lab.name}-b-new", "vm-b-new", vms.new_mac())
    net.add_namespace(vm.namespace)
    api = lab.api("host1")
    body = {"interface": vm.interface, "mac": vm.mac}
    ids: list[str] = []
    try:
        vms.plug(vm, host)
        while True:
            yield lambda: ids.append(api.post(path("apps", app.name, "machines"), body)["id"])
            yield lambda: api.delete(path("machines", ids.pop()))
    finally:
        net.delete_namespace(vm.namespace)


def deploys(lab: Cluster, app: App) -> Iterator[Callable[[], object]]:
    api = lab.api("host1")
    where = path("apps", app.name, "deployments")

    def deploy(*ports: int) -> Callable[[], object]:
        config = f'app = "{app.name}"\n' + service("tcp", 8080, *ports)
        return lambda: api.post(where, {"config": config})

    while True:
        yield deploy(80, 81)
        yield deploy(80)


# Convergence.


def converge() -> None:
    """One cluster that grows: each time what is missing to the next size."""
    rows = []
    with cluster("converge") as lab:
        enlarge(lab)
        lab.settle()
        empty = memory(lab)
        for before, size in pairwise((0, *SIZES)):
            progress(f"{size} machines")
            rows.append(converged(lab, before, size, empty))
    columns = ("machines", "written in", "from the last", "from the first", "daemon MB", "KB each")
    rig.report(f"{HOSTS} hosts converge, seconds", columns, rows)


def converged(lab: Cluster, before: int, size: int, empty: float) -> list[object]:
    endpoints = json.dumps([f"http://{m.address}:2379" for m in lab.lab.members.values()])
    fill = [sys.executable, "-m", "bench.live_fill", endpoints, str(before), str(size)]
    begun = time.monotonic()
    done = subprocess.run(
        lab.argv("host1", fill), env=lab.environment, capture_output=True, text=True, check=True
    )
    written = time.monotonic()
    for name in lab.hosts:
        wait_applied(lab.api(name), int(done.stdout))
    ended = time.monotonic()
    full = memory(lab)
    each = 1024 * (full - empty) / size if size >= 1_000 else float("nan")
    return [size, written - begun, ended - written, ended - begun, full, each]


def enlarge(lab: Cluster) -> None:
    """Room for the largest number, and then all daemons anew."""
    for name in lab.hosts:
        lab.daemon("stop", name)
        config = lab.where.host(name) / "flyebpf.toml"
        text = config.read_text().replace("machines = 4096", "machines = 131072")
        config.write_text(text)
    lab.command("lab", "up", timeout=600)


def wait_applied(api: Client, revision: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        status = api.get("/v1/status")
        if int(status["applied_revision"]) >= revision and not status["pending"]:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"not applied within {PATIENCE:g} s: {status['problems'][:3]}")
        time.sleep(0.05)


def memory(lab: Cluster) -> float:
    """The largest daemon's resident set, MB."""
    daemons = [host.daemon for host in lab.lab.hosts.values()]
    return max(resident(daemon.pid) for daemon in daemons if daemon is not None)


# Members of etcd that end.


@dataclass
class Writer:
    """Writes through one host's API as fast as it is answered, and keeps what
    was acknowledged. A write that failed is tried again with the next value."""

    api: Client
    machine: str
    acknowledged: int = 0
    failed: int = 0
    longest: float = 0.0
    ended: bool = False

    def run(self) -> None:
        value, last = 0, time.monotonic()
        while not self.ended:
            value += 1
            try:
                body = {"set": {"count": str(value)}}
                self.api.patch(path("machines", self.machine, "metadata"), body)
            except FlyebpfError:
                self.failed += 1
                continue
            now = time.monotonic()
            self.longest, last = max(self.longest, now - last), now
            self.acknowledged = value


def kill_members() -> None:
    with cluster("etcd", 3) as lab:
        app = lab.create_app("bench", service("udp", 5000, 7777))
        lab.add_echo(app, "b-echo", host="host2")
        private = lab.create_app("private", vip=False)
        vm = lab.add_vm(private, "b-private", host="host1")
        lab.edge(app.vip, "host1")
        writer = Writer(lab.api("host3"), vm.machine)
        thread = threading.Thread(target=writer.run)
        load = lab.begin("client1", "udp_stream", app.vip, 7777, 3600, 500)
        thread.start()
        members = list(lab.lab.members)
        for turn in range(KILLS):
            begun = time.monotonic()
            with lab.without_etcd(members[turn % len(members)]):
                time.sleep(DOWN)
            time.sleep(max(0.0, KILL_EVERY - (time.monotonic() - begun)))
            progress(f"{turn + 1} of {KILLS}: {writer.acknowledged} writes")
        writer.ended = True
        thread.join()
        packets = load.finish()
        machine = lab.api("host1").get(path("machines", vm.machine))
        kept = int(machine["metadata"]["count"])
    found = {
        "packets": packets["sent"],
        "packets lost": packets["lost"],
        "writes": writer.acknowledged - writer.failed,
        "writes lost": max(0, writer.acknowledged - kept),
        "refused": writer.failed,
        "longest gap, s": writer.longest,
    }
    rig.report(f"a member of etcd killed {KILLS} times", list(found), [list(found.values())])


def main() -> None:
    rig.require_root()
    chosen = [word for word in sys.argv[1:] if not word.startswith("-")]
    parts = {"effective": effective, "converge": converge, "etcd": kill_members}
    for name, part in parts.items():
        if not chosen or name in chosen:
            part()


if __name__ == "__main__":
    main()
