# SPDX-License-Identifier: Apache-2.0
"""Starts machines because those that run have enough to do, and stops those that nobody
needs.

What is known of their use is what each host's proxy counts. A host tells the others now
and then of machines that had something to do (``Load``), so that each machine's own host
can decide; and, while a machine is being stopped, whether it still has.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from flyebpf.config import DaemonConfig
from flyebpf.daemon.engine import Engine
from flyebpf.daemon.heartbeat import Repeat
from flyebpf.drivers.proxy import ProxyDriver
from flyebpf.model.commands import GOALS
from flyebpf.model.proxyrows import ProxyClusterRow
from flyebpf.model.records import Deployment, Load, Machine, MachineState
from flyebpf.model.state import State, Update
from flyebpf.ops import autostop
from flyebpf.plan.autostop import OFF, Use, surplus
from flyebpf.proxy import wake
from flyebpf.proxy.loads import Load as LoadOf
from flyebpf.proxy.loads import Loads
from flyebpf.proxy.names import at
from flyebpf.store.base import Store

log = logging.getLogger(__name__)
STEP = 0.25  # seconds between looks at loads that change
HOLD = 0.1  # seconds between looks at machines that are being stopped
NEWS = 1.0  # seconds to wait for loads that change
STOPPING = (MachineState.STOPPING, MachineState.SUSPENDING)


@dataclass(frozen=True, slots=True)
class View:
    """``rows``: clusters whose loads are known. ``apps``: those with machines of this
    host that may be stopped, and all their machines. ``others``: what other hosts say
    whose daemons are there. ``unfit``: machines that get no clients, and whose hosts
    could stop them."""

    rows: tuple[ProxyClusterRow, ...]
    apps: Mapping[str, tuple[Deployment, tuple[Machine, ...]]]
    others: tuple[Load, ...]
    unfit: frozenset[str] = frozenset()


def view(engine: Engine, driver: ProxyDriver) -> View:
    """In the main thread."""
    state, here = engine.state, engine.config.host
    present = {here, *state.fleet.presences}
    rows = tuple(row for row in driver.clusters() if row.watched)
    apps = {}
    for app in dict.fromkeys(machine.app for machine in state.machines_on(here)):
        deployment = state.deployments.get(app)
        if deployment and any(service.auto_stop != OFF for service in deployment.services):
            machines = state.machines_of(app)
            apps[app] = deployment, tuple(m for m in machines if not _is_stuck(m, present))
    others = [load for load in state.loads.values() if load.host != here and load.host in present]
    idle = {end.machine for row in rows for end in row.endpoints if end.draining}
    unfit = [state.machines[i] for i in idle if i in state.machines]
    there = frozenset(machine.id for machine in unfit if machine.host in present)
    return View(rows, apps, tuple(others), there)


def _is_stuck(machine: Machine, present: Container[str]) -> bool:
    """Whether it was ordered to start or stop, and nobody is there to do that."""
    return machine.state in GOALS and machine.host not in present


class Scaler:
    """``look``: what there is now; it waits for the main thread. ``more``: has another
    machine of a cluster started. ``led``: as ``Waker.led``. ``packets``: what clients of
    each app that the kernel serves have sent so far."""

    def __init__(
        self,
        config: DaemonConfig,
        store: Store,
        loads: Loads,
        *,
        look: Callable[[], View],
        more: Callable[[str], object],
        led: Callable[[], Mapping[str, frozenset[str]]],
        packets: Callable[[], Mapping[str, int]],
    ) -> None:
        self._host = config.host
        self._every = float(config.machines.autostop)
        self._store = store
        self._loads = loads
        self._look = look
        self._more = more
        self._led = led
        self._packets = packets
        self._lock = threading.Lock()
        self._held: dict[str, tuple[str, ...]] = {}  # by other hosts
        self._stopping: dict[str, Machine] = {}  # of other hosts
        self._since: dict[str, float] = {}  # when this host's were first seen to run
        self._load: Load | None = None  # what is known; None: what the store has
        self._told: Load | None = None  # what the store has; None: unknown
        self._telling = threading.Lock()
        self._last_packets: Mapping[str, int] = {}
        self._first = True
        self._version = 0
        self._alone = config.store == "sqlite"
        able = config.proxy.engine != "none"
        self._threads = [
            Repeat("autostop", self._stop_some),
            Repeat("autostart", self._start_some),
            Repeat("held", self._tell_held),
        ]
        self._threads = self._threads if able else []

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        for thread in self._threads:
            thread.stop()

    # As a follower of the state; in the main thread.

    def loaded(self, state: State) -> None:
        with self._lock:
            self._held = {load.host: load.held for load in state.loads.values()}
            self._stopping.clear()
            if self._load is None:
                self._load = state.loads.get(self._host, Load(self._host))
        for machine in state.machines.values():
            self._learn(machine)

    def changed(self, state: State, updates: Sequence[Update]) -> None:
        for update in updates:
            match update.after or update.before:
                case Machine() as machine:
                    self._learn(machine if update.after else replace(machine, state=_GONE))
                case Load() as load:
                    with self._lock:
                        self._held[load.host] = load.held if update.after else ()

    def _learn(self, machine: Machine) -> None:
        with self._lock:
            if machine.host == self._host:
                if machine.state is MachineState.STARTED:
                    self._since.setdefault(machine.id, time.monotonic())
                else:
                    self._since.pop(machine.id, None)
            elif machine.state in STOPPING:
                self._stopping[machine.id] = machine
            elif self._stopping.pop(machine.id, None) is None:
                return
        for thread in self._threads[2:]:
            thread.soon()

    # What machines have to do.

    def busy(self, machine: Machine) -> bool:
        """Whether any proxy has something for it to do, or this one does not know yet."""
        with self._lock:
            if any(machine.id in held for held in self._held.values()):
                return True
        return self._active(machine)

    def _active(self, machine: Machine) -> bool:
        """Whether this host's proxy has, as far as is known."""
        if self._loads.is_young or self._loads.active(machine.private_ip):
            return True
        if not (held := self._loads.held(machine.app)):
            return False
        led = self._led()
        return any(name not in led or machine.id in led[name] for name in held)

    def _parts(self, row: ProxyClusterRow) -> Iterator[tuple[str, LoadOf]]:
        """What each machine has to do; one may come twice."""
        loads = self._loads.of(row.name) or {}
        for end in row.endpoints:
            if load := loads.get(at(end.address, end.port)):
                yield end.machine, load
        if load := loads.get(wake.REPORTED):
            for machine in self._led().get(row.name, ()):
                yield machine, load

    def _unled(self, row: ProxyClusterRow) -> Iterator[tuple[str, LoadOf]]:
        """The load of clients whom another daemon has led somewhere: any machine may
        have it."""
        load = (self._loads.of(row.name) or {}).get(wake.REPORTED)
        if load and load.active and row.name not in self._led():
            yield from ((end.machine, load) for end in row.endpoints)

    def _uses(self, rows: Sequence[ProxyClusterRow]) -> tuple[dict[str, int], set[str]]:
        """Machines that had something to do lately, and how much they have; and apps of
        which that is not known."""
        found: dict[str, int] = {}
        unknown = {row.app for row in rows if self._loads.of(row.name) is None}
        since = time.monotonic() - self._every
        for row in rows:
            for machine, load in (*self._parts(row), *self._unled(row)):
                if load.active or load.last > since:
                    found[machine] = found.get(machine, 0) + load.active
        return found, unknown

    # The threads.

    def _stop_some(self) -> float:
        if self._first:  # nothing is known of the time before
            self._first = False
            self._last_packets = self._packets()
            return self._every
        now = self._look()
        active, unknown = self._uses(now.rows)
        apps = self._served_by_kernel()
        self._tell(active=active, apps=tuple(sorted(apps)))
        uses = {machine: Use(count) for machine, count in active.items()}
        for other in now.others:
            apps.update(other.apps)
            for machine, count in other.active.items():
                uses[machine] = Use(count + (uses[machine].active if machine in uses else 0))
        for app, (deployment, machines) in now.apps.items():
            if app in unknown or app in apps:
                continue
            for stop in surplus(deployment, machines, uses, now.unfit):
                if self._is_ours(stop.machine):
                    self._order(stop.machine, stop.goal, [one.id for one in stop.running])
        return self._every

    def _is_ours(self, machine: Machine) -> bool:
        """Its host decides, once it has run for a while."""
        since = self._since.get(machine.id)
        return since is not None and time.monotonic() - since >= self._every

    def _order(self, machine: Machine, goal: MachineState, running: Sequence[str]) -> None:
        ordered = autostop.stop(self._store, machine.id, goal, running)
        if ordered is not None:
            log.info("machine %s of app %s is not needed: it is to be %s",
                     machine.id, machine.app, goal)  # fmt: skip

    def _served_by_kernel(self) -> set[str]:
        """Apps whose clients have sent something since the last look."""
        before, self._last_packets = self._last_packets, self._packets()
        return {app for app, count in self._last_packets.items() if count != before.get(app, 0)}

    def _start_some(self) -> float:
        self._version = self._loads.wait(self._version, NEWS)
        for row in self._look().rows:
            if row.wakes and not row.sleeps and self._is_full(row):
                self._more(row.name)
        return STEP

    def _is_full(self, row: ProxyClusterRow) -> bool:
        """Whether all its machines are at the soft limit."""
        if self._loads.of(row.name) is None:
            return False
        active: dict[str, int] = {}
        for machine, load in self._parts(row):
            active[machine] = active.get(machine, 0) + load.active
        usable = [end.machine for end in row.endpoints if not end.draining]
        return all(active.get(machine, 0) >= row.soft for machine in usable)

    def _tell_held(self) -> float:
        """To hosts that want to stop a machine: that it has something to do, and that it
        has not any more."""
        with self._lock:
            machines = list(self._stopping.values())
        held = sorted(machine.id for machine in machines if self._active(machine))
        self._tell(held=tuple(held))
        return HOLD if machines else self._every

    def _tell(
        self,
        *,
        active: dict[str, int] | None = None,
        apps: tuple[str, ...] | None = None,
        held: tuple[str, ...] | None = None,
    ) -> None:
        """What is new of it. Raises FlyebpfError while the store is away."""
        if self._alone:
            return
        with self._telling:  # the threads' one after another: the store keeps the last
            load = self._load or Load(self._host)
            self._load = load = Load(
                load.host,
                load.active if active is None else active,
                load.held if held is None else held,
                load.apps if apps is None else apps,
            )
            if load == self._told:
                return
            self._told = None
            autostop.tell(self._store, load)
            self._told = load


_GONE = MachineState.STOPPED
