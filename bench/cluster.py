# SPDX-License-Identifier: Apache-2.0
"""One host's plan of a whole cluster, drivers in memory: all of it, and one change.

``python -m bench.cluster [--json]``. Every host has up to 100 machines; every
app has ten, on different hosts in five regions, one address and one service.
The planner is that of the first host. *load*: records to state; *plan*: state to
rows; *apply*: rows to an empty kernel in memory; *change*: the median from the
store's change to the applied rows, of stopping and starting a machine of another
host, of draining a host and back, of its daemon going and coming, of a
measurement that changes no order, and of what a host says of itself. Times in ms
of the processor; memory is what the process has grown by since before the
records, per machine of the cluster, with the kernel in memory. Each size has a
process of its own.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

from bench.plan import HERE, Daemon, dotted, resident_mb
from bench.rig import report
from flyebpf.model.codec import encode
from flyebpf.model.records import (
    AnyRecord,
    App,
    Host,
    HostStatus,
    Latency,
    Machine,
    MachineState,
    Presence,
)
from flyebpf.model.state import State
from flyebpf.plan import Planner
from flyebpf.reconcile.reconciler import Reconciler
from flyebpf.store.base import Entry
from tests.fakes import FakeDriver
from tests.records import (
    CLUSTER,
    MESH,
    NETWORK,
    address,
    delete,
    deployment,
    host,
    machine,
    service,
)

SIZES = (10, 1_000, 100_000)
PER_HOST, PER_APP = 100, 10
REGIONS = ("ams", "fra", "lhr", "nrt", "syd")
CHANGES = 100
CONFIG = replace(HERE, host="h1", mesh=MESH.mesh)


def a_host(number: int) -> Host:
    return host(
        number,
        REGIONS[number % len(REGIONS)] if number > 1 else "ams",
        block=f"{dotted(0xAC100000, 256 * number)}/24",
        endpoint=dotted(0x0A000000, number),
    )


def a_machine(number: int, hosts: int) -> Machine:
    """Machines of one app follow each other, on hosts that follow each other."""
    at, place = number % hosts + 1, number // hosts
    private, services = (dotted(0xAC100000, 256 * at + 2 * place + 2 + i) for i in (0, 1))
    app = f"app{number // PER_APP}"
    values = {"id": f"{number:014x}", "host": f"h{at}", "interface": f"tap{place}"}
    return replace(machine(0), app=app, private_ip=private, services_ip=services,
                   number=16 + number, **values)  # fmt: skip


def records(hosts: int, machines: int) -> Iterator[AnyRecord]:
    yield from (CLUSTER, NETWORK)
    far = {region: 1000 * place for place, region in enumerate(REGIONS)}
    for number in range(1, hosts + 1):
        made = a_host(number)
        yield from (made, Presence(made.name), Latency(made.name, made.region, far))
    for number in range(machines // PER_APP):
        name = f"app{number}"
        yield App(name, "acme")
        yield address(dotted(0xCB000000, number), app=name)
        yield deployment(service(80), app=name)
    for number in range(machines):
        yield a_machine(number, hosts)


class Cluster(Daemon):
    """The first host's daemon; the records are not kept."""

    def __init__(self, hosts: int, machines: int, kernel: FakeDriver) -> None:
        made = records(hosts, machines)
        self.state = State.load(1, (Entry(r.kind, r.ident, encode(r), 1) for r in made))
        self.planner = Planner(CONFIG)
        self.reconciler = Reconciler([kernel])

    def remove(self, record: AnyRecord) -> None:
        update = self.state.apply(delete(self.state, record))
        for owner in self.planner.owners(update, self.state):
            self.reconciler.set_desired(owner, self.planner.rows(self.state, owner))
        self.reconciler.sync_dirty()


def timed(work: Callable[[], object]) -> float:
    """ms of the processor's time: nothing here waits, and others' work is not
    counted."""
    start = time.process_time()
    work()
    return (time.process_time() - start) * 1000


def median_ms(steps: Callable[[int], tuple[Callable[[], object], ...]]) -> float:
    """``steps``: what to do in the turn of this number, each step timed."""
    times = [timed(step) for turn in range(CHANGES) for step in steps(turn)]
    return round(statistics.median(times), 3)


def changes_ms(daemon: Cluster, hosts: int, machines: int) -> tuple[float, ...]:
    def of_machine(turn: int) -> tuple[Callable[[], object], ...]:
        one = a_machine((turn * 7919 + 1) % machines, hosts)
        stopped = replace(one, state=MachineState.STOPPED)
        return (lambda: daemon.change(stopped), lambda: daemon.change(one))

    def of_host(turn: int) -> tuple[Callable[[], object], ...]:
        one = a_host(turn % max(hosts - 1, 1) + min(hosts, 2))
        drained = replace(one, drained=True)
        return (lambda: daemon.change(drained), lambda: daemon.change(one))

    def of_presence(turn: int) -> tuple[Callable[[], object], ...]:
        one = Presence(a_host(turn % max(hosts - 1, 1) + min(hosts, 2)).name)
        return (lambda: daemon.remove(one), lambda: daemon.change(one))

    def of_latency(turn: int) -> tuple[Callable[[], object], ...]:
        far = {region: 1000 * n + turn % 9 for n, region in enumerate(REGIONS)}
        return (lambda: daemon.change(Latency("h1", "ams", far)),)

    def of_status(turn: int) -> tuple[Callable[[], object], ...]:
        return (lambda: daemon.change(HostStatus("h1", f"2026-01-01T00:00:{turn:02}Z")),)

    return tuple(median_ms(of) for of in (of_machine, of_host, of_presence, of_latency, of_status))


def measure(machines: int) -> tuple[object, ...]:
    hosts = max(machines // PER_HOST, 2)
    kernel = FakeDriver()
    kernel.watch = False
    gc.collect()
    before = resident_mb()
    started = time.process_time()
    daemon = Cluster(hosts, machines, kernel)
    load = (time.process_time() - started) * 1000
    gc.collect()
    loaded = resident_mb()
    plan = timed(daemon.plan)
    apply = timed(daemon.reconciler.sync_full)
    gc.collect()
    gc.freeze()  # as in the daemon, full collections leave the state alone
    grown = resident_mb()
    assert not daemon.planner.problems, next(iter(daemon.planner.problems.items()))
    per_machine = [round((mb - before) * 1e6 / machines) for mb in (loaded, grown)]
    return (hosts, machines, sum(len(rows) for rows in kernel.rows.values()),
            *(round(t) for t in (load, plan, apply)), *changes_ms(daemon, hosts, machines),
            *per_machine, round(grown))  # fmt: skip


COLUMNS = (
    "hosts",
    "machines",
    "rows",
    "load ms",
    "plan ms",
    "apply ms",
    "machine ms",
    "drain ms",
    "presence ms",
    "latency ms",
    "status ms",
    "state B",
    "all B",
    "resident MB",
)


def main() -> None:
    rows = []
    for size in SIZES:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            rows.append(pool.submit(measure, size).result())
    report("One host's plan of a cluster, drivers in memory", COLUMNS, rows)


if __name__ == "__main__":
    main()
