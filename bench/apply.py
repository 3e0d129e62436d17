# SPDX-License-Identifier: Apache-2.0
"""Planning and applying over real BPF maps: everything, and one change.

``python -m bench.apply [--json]``, as root. Apps with one address and one
service each, and as many machines; interfaces and links are made up, the maps
are the kernel's. *full sync*: a daemon plans and fills empty maps. *compare*:
the next one plans, reads them all back and finds nothing to do. The changes
are medians from the store's change to the written maps: a machine stops or
starts (its slot, its app's table), a deploy moves a service to another internal
port, an app with its address, service and machine comes. Times in ms.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from bench import rig
from bench.plan import HERE, dotted, records, timed
from flyebpf import collector
from flyebpf.bpf.libbpf import Map
from flyebpf.bpf.maps import map_specs
from flyebpf.config import DataplaneConfig
from flyebpf.drivers.bpf_maps import MapsDriver
from flyebpf.drivers.link import Link
from flyebpf.model.codec import encode
from flyebpf.model.records import AnyRecord, App, Machine, MachineState
from flyebpf.model.roworder import ROW_ORDER
from flyebpf.model.rows import Row, TableRow
from flyebpf.model.state import State
from flyebpf.plan import Planner, maglev
from flyebpf.reconcile.reconciler import Reconciler
from flyebpf.store.base import Entry
from tests.fakes import FakeDriver
from tests.records import address, deployment, put, service

SIZES = (1, 1_000, 100_000)
CHANGES = 200
CONFIG = replace(HERE, dataplane=DataplaneConfig(flows=4096, pool_addresses=1 << 20))
Maps = dict[str, Map]


class Daemon:
    """State, plan and reconciler over maps that outlive them."""

    def __init__(self, entries: list[Entry], maps: Maps) -> None:
        self.state = State.load(1, entries)
        self.planner = Planner(CONFIG)
        self.maps = MapsDriver(
            maps,
            CONFIG.dataplane,
            link_of=link_of,
            build_table=partial(maglev.build, seed=1),
            table_size=maglev.table_size,
        )
        rest: list[type[Row]] = [kind for kind in ROW_ORDER if kind not in self.maps.kinds]
        others = FakeDriver(rest)
        others.watch = False
        self.reconciler = Reconciler([self.maps, others])

    def full(self) -> None:
        with collector.paused():
            for owner in self.planner.all_owners(self.state):
                self._plan(owner)
            self.reconciler.mark_complete()
            self.reconciler.sync_full()

    def change(self, *changed: AnyRecord) -> None:
        for record in changed:
            update = self.state.apply(put(self.state, record))
            for owner in self.planner.owners(update, self.state):
                self._plan(owner)
        self.reconciler.sync_dirty()

    def _plan(self, owner: tuple[str, ...]) -> None:
        rows = self.planner.rows(self.state, owner)
        self.maps.learn([row for row in rows if isinstance(row, TableRow)])
        self.reconciler.set_desired(owner, rows)


def link_of(name: str) -> Link:
    """An interface for every name."""
    number = int(name.removeprefix("tap")) + 10 if name.startswith("tap") else 2
    return Link(number, bytes(6), True)


def restarts(daemon: Daemon) -> Iterator[Machine]:
    """A machine stops, the same one starts again, then the next one."""
    machines = list(daemon.state.machines.values())
    step = max(len(machines) // CHANGES, 1)
    for place in range(CHANGES):
        machine = machines[place * step % len(machines)]
        yield replace(machine, state=MachineState.STOPPED)
        yield machine


def additions(first: int) -> Iterator[tuple[AnyRecord, ...]]:
    for number in range(first, first + CHANGES):
        name = f"app{number}"
        machine = next(r for r in records(1, 1) if isinstance(r, Machine))
        private, services = (dotted(0xAC100000, 2 * number + i) for i in (0, 1))
        yield (
            App(name, "acme"),
            address(dotted(0xCB000000, number), app=name),
            deployment(service(80), app=name),
            replace(machine, id=f"{number:014x}", app=name, interface=f"tap{number}",
                    private_ip=private, services_ip=services, number=number),
        )  # fmt: skip


def median(changes: Iterator[Callable[[], object]]) -> float:
    return statistics.median(timed(change) for change in changes)


def measure(size: int) -> list[object]:
    maps = {spec.name: Map.create(spec) for spec in map_specs(CONFIG.dataplane)}
    try:
        entries = [Entry(r.kind, r.ident, encode(r), 1) for r in records(size, size)]
        full = timed(Daemon(entries, maps).full)
        daemon = Daemon(entries, maps)
        compare = timed(daemon.full)
        check(daemon, size)
        machine = median(partial(daemon.change, record) for record in restarts(daemon))
        apps = list(daemon.state.apps)[-CHANGES:]
        moves = (deployment(service(80, to=9000 + n), app=apps[n % len(apps)])
                 for n in range(CHANGES))  # fmt: skip
        deploy = median(partial(daemon.change, record) for record in moves)
        added = median(partial(daemon.change, *made) for made in additions(size))
        check(daemon, size + CHANGES)
        return [size, len(entries), full, compare, machine, deploy, added]
    finally:
        for opened in maps.values():
            opened.close()


def check(daemon: Daemon, services: int) -> None:
    """The numbers are of work that was done."""
    stats = daemon.reconciler.stats
    if stats.dirty or daemon.maps.fill()["service_states"][0] != services:
        raise RuntimeError(f"not all was applied: {daemon.reconciler.failures[:3]}")


COLUMNS = ("services", "records", "full sync", "compare", "machine", "deploy", "new app")


def main() -> None:
    rig.require_root()
    rig.report(
        "planning and applying over real BPF maps, ms", COLUMNS, [measure(size) for size in SIZES]
    )


if __name__ == "__main__":
    main()
