# SPDX-License-Identifier: Apache-2.0
"""Planning and reconciling against drivers in memory: all of it, and one change.

``python -m bench.plan [--json]``. Every app has one address, one service
and its share of the machines. *cold*: plan and apply to an empty kernel;
*warm*: a new daemon plans and finds everything there. *change*: from the
store's change to the applied rows, the median of stopping and starting
machines, and of deploying another internal port. Times in ms; memory in MB is that
of the whole process, the kernel in memory and the stored JSON included.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from bench.rig import report
from flyebpf import collector
from flyebpf.config import DaemonConfig, PoolsConfig
from flyebpf.model.codec import encode
from flyebpf.model.records import AnyRecord, App, MachineState
from flyebpf.model.state import State
from flyebpf.plan import Planner
from flyebpf.reconcile.reconciler import Reconciler
from flyebpf.store.base import Entry
from tests.fakes import FakeDriver
from tests.records import CLUSTER, CONFIG, NETWORK, address, deployment, machine, put, service
from tests.records import HERE as THIS_HOST

SIZES = ((1, 1), (1_000, 1_000), (100_000, 100_000), (1, 1_000))
CHANGES = 200
HERE = replace(CONFIG, pools=PoolsConfig(anycast_v4=("203.0.0.0/12",)))


def dotted(base: int, offset: int) -> str:
    return ".".join(str(byte) for byte in (base + offset).to_bytes(4, "big"))


def records(apps: int, machines: int) -> Iterator[AnyRecord]:
    yield from (CLUSTER, NETWORK, THIS_HOST)
    for number in range(apps):
        name = f"app{number}"
        yield App(name, "acme")
        yield address(dotted(0xCB000000, number), app=name)
        yield deployment(service(80), app=name)
    for number in range(machines):
        private, services = (dotted(0xAC100000, 2 * number + i) for i in (0, 1))
        app = f"app{number % apps}"
        yield replace(machine(0), id=f"{number:014x}", app=app, interface=f"tap{number}",
                      private_ip=private, services_ip=services, number=16 + number)  # fmt: skip


class Daemon:
    """State, plan and reconciler over a kernel that outlives them."""

    def __init__(
        self, entries: list[Entry], kernel: FakeDriver, config: DaemonConfig = HERE
    ) -> None:
        self.state = State.load(1, entries)
        self.planner = Planner(config)
        self.reconciler = Reconciler([kernel])

    def plan(self) -> None:
        with collector.paused():
            for owner in self.planner.all_owners(self.state):
                self.reconciler.set_desired(owner, self.planner.rows(self.state, owner))
        self.reconciler.mark_complete()

    def change(self, record: AnyRecord) -> None:
        update = self.state.apply(put(self.state, record))
        for owner in self.planner.owners(update, self.state):
            self.reconciler.set_desired(owner, self.planner.rows(self.state, owner))
        self.reconciler.sync_dirty()


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000


def machine_change_ms(daemon: Daemon) -> float:
    """Half of the changes stop a machine, half start it again."""
    machines = list(daemon.state.machines.values())[:: max(len(daemon.state.machines) // 100, 1)]
    stopped = [replace(m, state=MachineState.STOPPED) for m in machines]
    pairs = list(chain.from_iterable(zip(stopped, machines, strict=True)))
    todo = (pairs * CHANGES)[:CHANGES]
    return statistics.median(timed(lambda m=m: daemon.change(m)) for m in todo)


def deploy_change_ms(daemon: Daemon) -> float:
    apps = list(daemon.state.apps)[-100:]
    ports = range(8081, 8083 if len(apps) == 1 else 8082)
    todo = [deployment(service(80, to=port), app=app) for port in ports for app in apps]
    return statistics.median(timed(lambda d=d: daemon.change(d)) for d in todo)


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def measure(apps: int, machines: int) -> tuple[float, ...]:
    made = records(apps, machines)
    entries = [Entry(r.kind, r.ident, encode(r), 1) for r in made]
    kernel = FakeDriver()
    kernel.watch = False
    load = timed(lambda: State.load(1, entries))
    first = Daemon(entries, kernel)
    cold = timed(first.plan) + timed(first.reconciler.sync_full)
    del first
    gc.collect()
    second = Daemon(entries, kernel)
    plan = timed(second.plan)
    warm = plan + timed(second.reconciler.sync_full)
    changes = machine_change_ms(second), deploy_change_ms(second)
    return (len(entries), *(round(t, 2) for t in (load, plan, cold, warm)),
            *(round(t, 3) for t in changes), round(resident_mb()))  # fmt: skip


COLUMNS = (
    "apps",
    "machines",
    "records",
    "load ms",
    "plan ms",
    "cold ms",
    "warm ms",
    "machine change ms",
    "deploy change ms",
    "resident MB",
)


def main() -> None:
    rows = [(*size, *measure(*size)) for size in SIZES]
    report("Planning and reconciling, drivers in memory", COLUMNS, rows)


if __name__ == "__main__":
    main()
