# SPDX-License-Identifier: Apache-2.0
"""The DNS process: answers a second, how long they take, and what names cost.

``sudo python -m bench.dns [--json]``. The process runs in a namespace as in
production (fed over its socket, without rights); a VM's namespace asks. *most*:
what dnsperf gets with 64 queries under way; *cpu*: the process's own time for
each of those answers, which does not depend on what else runs on the machine.
*p50*, *p99*: of a generator that sends 5,000 queries a second evenly and counts
waiting for its turn as the server's; meanwhile generator and server have real-time
priority, so that the figures are theirs and not those of what else runs.
*reconcile*: a machine that stops or starts, planned and written to real maps
(:mod:`bench.apply`), while nobody asks and while dnsperf asks 5,000 times a second.
``dnsperf`` is Debian's, installed
if it is not there.
"""

from __future__ import annotations

import os
import random
import re
import select
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from bench import apply
from bench.plan import timed
from bench.rig import install, report, require_root
from flyebpf.bpf.libbpf import Map
from flyebpf.bpf.maps import map_specs
from flyebpf.dns import frames, wire, zone
from flyebpf.dns.asker import Asker
from flyebpf.dns.forward import ForwardConfig
from flyebpf.dns.limits import LimitsConfig
from flyebpf.dns.server import ServerConfig
from flyebpf.dns.view import View
from flyebpf.model.codec import encode
from flyebpf.model.records import AnyRecord, App, Host, Network
from flyebpf.model.sixpn import HOST_BIT, machine_address
from flyebpf.store.base import Entry
from tests.dns_rig import machine, question
from tests.netns.dns_net import Client, DnsNet

SIZES = ((1, 1), (1_000, 100_000))  # networks, machines; an app each
SECONDS = 3.0
RATE = 5_000
CHANGES = 500
SERVICES, REPEATS = 1_000, 10
HOSTS = 10
UNLIMITED = LimitsConfig(
    rate=1e7,
    burst=10_000_000,
    forward_rate=1e7,
    forward_burst=10_000_000,
    forward_total_rate=1e7,
    forward_total_burst=10_000_000,
    connection_rate=1e7,
    connection_burst=10_000_000,
    forwarded=100_000,
    forwarded_total=100_000,
)
RESOLVER = "127.0.0.53"
TICKS = os.sysconf("SC_CLK_TCK")


def records(networks: int, machines: int) -> Iterator[AnyRecord]:
    for number in range(HOSTS):
        name = f"h{number}"
        yield Host(name, HOST_BIT | number, f"r{number % 3}x", "172.16.0.0/20")
    for number in range(networks):
        yield Network(f"org{number}", "default", number + 1)
    for number in range(machines):
        yield App(f"app{number}", f"org{number % networks}")
        yield one(number)


def one(number: int) -> Any:
    region = f"r{number % HOSTS % 3}x"
    return machine(number + 16, f"app{number}", "h1", region=region)


def resident(pid: int | str) -> float:
    """MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def view_of(networks: int, machines: int) -> dict[str, Any]:
    """Names in memory: build, one change, one answer; all in this process."""
    found = list(records(networks, machines))
    before, begun = resident("self"), time.perf_counter()
    view = View()
    for record in found:
        view.put(record)
    built = time.perf_counter() - begun
    memory = resident("self") - before
    dice = random.Random(1)
    changes, answers = [], []
    for _ in range(CHANGES):
        number = dice.randrange(machines)
        asker = Asker(number % networks + 1, HOST_BIT, 16)
        message = question(f"app{number}.internal")
        record = one(number)
        begun = time.perf_counter()
        view.put(record)
        changed = time.perf_counter()
        query = wire.parse(message)
        assert isinstance(query, wire.Query)
        answer = zone.answer(view, query, asker)
        assert answer is not None
        assert answer.rdata
        wire.build(query, answer, 1232)
        changes.append(changed - begun)
        answers.append(time.perf_counter() - changed)
    return {
        "networks": networks,
        "machines": machines,
        "build s": built,
        "view MB": memory,
        "change us": statistics.median(changes) * 1e6,
        "answer after it us": statistics.median(answers) * 1e6,
    }


def cpu(pid: int) -> float:
    """Seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def most(client: Client, names: Path, pid: int, *options: str) -> tuple[float, float]:
    """Answers a second under dnsperf, and the server's microseconds for each."""
    before = cpu(pid)
    done = client.run(
        *("dnsperf", "-s", "fdaa::3", "-a", client.address, "-d", str(names)),
        *("-l", str(SECONDS), "-c", "8", "-q", "64", *options),
    )
    used = cpu(pid) - before
    count = int(found_in(r"Queries completed: +(\d+)", done.stdout))
    return count / SECONDS, used / count * 1e6


@contextmanager
def precedence(*pids: int) -> Iterator[None]:
    """Real-time priority for processes."""
    for pid in pids:
        os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(1))
    try:
        yield
    finally:
        for pid in pids:
            os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))


def waits(client: Client, messages: list[bytes]) -> tuple[float, float, int]:
    """Median and 99th percentile, ms, and losses, at RATE."""
    sock = client.udp()
    sock.setblocking(False)
    due: dict[int, float] = {}
    times: list[float] = []
    begun, total = time.perf_counter(), int(RATE * SECONDS)
    for number in range(total):
        at = begun + number / RATE
        while (now := time.perf_counter()) < at or len(due) > 60_000:
            if select.select([sock], [], [], max(at - now, 0))[0]:
                collect(sock, due, times)
        message = messages[number % len(messages)]
        due[number & 0xFFFF] = at
        sock.send((number & 0xFFFF).to_bytes(2, "big") + message[2:])
    while due and select.select([sock], [], [], 0.5)[0]:
        collect(sock, due, times)
    times.sort()
    return times[len(times) // 2] * 1e3, times[len(times) * 99 // 100] * 1e3, len(due)


def collect(sock: Any, due: dict[int, float], times: list[float]) -> None:
    try:
        while True:
            answer = sock.recv(4096)
            times.append(time.perf_counter() - due.pop(int.from_bytes(answer[:2], "big")))
    except BlockingIOError:
        pass


def load(connection: frames.Connection, networks: int, machines: int) -> float:
    """Seconds to feed it all."""
    rows = list(frames.records(records(networks, machines)))
    begun = time.perf_counter()
    connection.call("begin")
    for at in range(0, len(rows), frames.BATCH):
        connection.call("records", records=rows[at : at + frames.BATCH])
    connection.call("commit", revision=1)
    return time.perf_counter() - begun


def change(connection: frames.Connection, machines: int) -> float:
    """Median ms from a change in the daemon to its being in effect."""
    times = []
    for number in range(CHANGES):
        row = next(iter(frames.records([one(number % machines)])))
        begun = time.perf_counter()
        connection.call("records", records=[row], revision=number)
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1e3


def queries(networks: int, machines: int) -> dict[str, tuple[list[tuple[str, str]], list[str]]]:
    """Cases: questions of a machine of network 1, and dnsperf's options."""
    mine = [f"app{number}" for number in range(0, machines, networks)]
    found = {
        "AAAA": ([(f"{app}.internal", "AAAA") for app in mine], []),
        "AAAA with EDNS": ([(f"{app}.internal", "AAAA") for app in mine], ["-e"]),
        "TXT": ([(f"vms.{app}.internal", "TXT") for app in mine], []),
        "nearest": ([(f"top2.nearest.of.{app}.internal", "AAAA") for app in mine], []),
        "no such name": ([("nobody.internal", "AAAA")], []),
        "AAAA by TCP": ([(f"{app}.internal", "AAAA") for app in mine], ["-m", "tcp"]),
    }
    if machines == 1:
        found["from the cache"] = ([("www.example", "A")], [])
        found["forwarded"] = ([(f"n{n}.example", "A") for n in range(60_000)], [])
    return found


def served(
    net: DnsNet, networks: int, machines: int
) -> tuple[dict[str, Any], list[Any], list[list[object]]]:
    """What feeding costs, a row for each case, and what is reconciled beside it."""
    path = str(net.directory / f"dns{machines}.sock")
    config = frames.ProcessConfig(
        path, ("::",), server=ServerConfig(ForwardConfig((RESOLVER,)), UNLIMITED)
    )
    child = net.spawn("flyebpf.dns.process", config.to_json())
    connection = net.control(config)
    fed = load(connection, networks, machines)
    feeding = {
        "networks": networks,
        "machines": machines,
        "fed s": fed,
        "change ms": change(connection, machines),
        "process MB": resident(child.pid),
    }
    client = net.clients["vm"]
    rows = []
    for case, (asked, options) in queries(networks, machines).items():
        names = net.directory / "names"
        names.write_text("".join(f"{name} {kind}\n" for name, kind in asked))
        rate, used = most(client, names, child.pid, *options)
        p50, p99, lost = (0.0, 0.0, 0)
        if "-m" not in options and case != "forwarded":
            messages = [question(name, kind) for name, kind in asked]
            with precedence(0, child.pid):
                p50, p99, lost = waits(client, messages)
        rows.append((f"{case}, {machines:,} names", rate, used, 1e6 / used, p50, p99, lost))
    names.write_text("app0.internal AAAA\n")
    beside = reconciling(client, names) if machines == 1 else []
    connection.close()
    net.end(child)
    return feeding, rows, beside


def reconciling(client: Client, names: Path) -> list[list[object]]:
    """ms from a change of a machine to the maps, without and beside queries."""
    maps = {spec.name: Map.create(spec) for spec in map_specs(apply.CONFIG.dataplane)}
    found = apply.records(SERVICES, SERVICES)
    daemon = apply.Daemon([Entry(r.kind, r.ident, encode(r), 1) for r in found], maps)
    daemon.full()
    command = ["dnsperf", "-s", "fdaa::3", "-a", client.address, "-d", str(names)]
    rows: list[list[object]] = []
    for rate in (0, RATE):
        shown = "0"
        load = client.start(*command, "-l", "60", "-Q", str(rate)) if rate else None
        time.sleep(0.5)
        times = []
        for record in chain.from_iterable(apply.restarts(daemon) for _ in range(REPEATS)):
            time.sleep(0.0005)
            times.append(timed(partial(daemon.change, record)))
        if load is not None:
            load.send_signal(signal.SIGINT)
            output = load.communicate(timeout=20)[0]
            shown = found_in(r"Queries per second: +([\d.]+)", output)
        p99 = statistics.quantiles(times, n=100, method="inclusive")[98]
        rows.append([shown, statistics.median(times), p99, max(times)])
    for opened in maps.values():
        opened.close()
    return rows


def found_in(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match is not None, text
    return match[1]


def main() -> None:
    require_root()
    install("dnsperf")
    views = [view_of(*size) for size in SIZES]
    feedings: list[dict[str, Any]] = []
    rows: list[Any] = []
    beside: list[list[object]] = []
    with tempfile.TemporaryDirectory(prefix="flyebpf-bench-") as folder:
        net = DnsNet(Path(folder), {"vm": machine_address(1, HOST_BIT | 1, 16)})
        try:
            net.spawn("tests.dns_resolver", RESOLVER, "53")
            for size in SIZES:
                feeding, found, reconciled = served(net, *size)
                feedings.append(feeding)
                rows += found
                beside += reconciled
        finally:
            net.close()
    report("names in memory", list(views[0]), [list(view.values()) for view in views])
    report("fed to the process", list(feedings[0]), [list(f.values()) for f in feedings])
    columns = ["case", "most/s", "cpu us", "per core/s", "p50 ms", "p99 ms", "lost"]
    report("answers", columns, rows)
    report("reconcile, ms", ["queries/s beside it", "median", "p99", "longest"], beside)


if __name__ == "__main__":
    try:
        main()
    except subprocess.SubprocessError as error:
        raise SystemExit(str(error)) from error
