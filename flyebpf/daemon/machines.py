# SPDX-License-Identifier: Apache-2.0
"""Carries out what was ordered of this host's machines: runs the operator's commands,
and writes what has come of it.

An order is a machine's state in the store (``flyebpf.ops.power``). For each machine a
thread of its own works until no order is left, so its commands never run at once. An
order that a daemon did not get to the end of is carried out by the next one: commands
are run again, and must take that.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from flyebpf.api.backend import Problem
from flyebpf.config import DaemonConfig
from flyebpf.daemon import machine_commands
from flyebpf.errors import FlyebpfError, UnavailableError
from flyebpf.model import commands, sixpn
from flyebpf.model.commands import GOALS, ORDERS
from flyebpf.model.records import Machine, MachineState
from flyebpf.model.state import State, Update
from flyebpf.ops import power
from flyebpf.ops.transact import find
from flyebpf.store.base import Store

log = logging.getLogger(__name__)
AT_ONCE = 32  # commands that run at the same time
RETRY = 1.0  # seconds until the store is asked again
LOOK = 0.1  # seconds between looks at a machine that drains
NOTICE = 0.6
"""Seconds before a machine that has nothing to do is stopped: until then all proxies
know, and what they gave it before is in their reports."""
SHOWN = 100


@dataclass(frozen=True, slots=True)
class Order:
    """``number`` tells it from an equal one that came before."""

    state: MachineState
    ip_6pn: str
    number: int


class MachineAgent:
    """``loaded`` and ``changed`` are for the main thread. ``busy``: whether a machine
    still has connections."""

    def __init__(self, config: DaemonConfig, store: Store) -> None:
        self._host = config.host
        self._config = config.machines
        self._store = store
        self._lock = threading.Lock()
        self._orders: dict[str, Order] = {}  # by machine, as the state has them
        self._count = 0
        self._working: set[str] = set()
        self._slots = threading.BoundedSemaphore(AT_ONCE)
        self._ended = threading.Event()
        self._errors: dict[str, Machine] = {}
        self.busy: Callable[[Machine], bool] = lambda _: False

    def loaded(self, state: State) -> None:
        with self._lock:
            self._orders.clear()
            self._errors.clear()
        self._take(state, state.machines_on(self._host))

    def changed(self, state: State, updates: Sequence[Update]) -> None:
        found = []
        for update in updates:
            match update.after or update.before:
                case Machine() as machine if update.after is None or machine.host != self._host:
                    self._forget(machine.id)
                case Machine() as machine:
                    found.append(machine)
        self._take(state, found)

    def stop(self) -> None:
        """Commands that run go on."""
        self._ended.set()

    def problems(self) -> Iterator[Problem]:
        for machine in list(self._errors.values())[:SHOWN]:
            verb = "stop" if machine.state.is_live else "start"
            yield Problem(
                f"machine {machine.id}",
                f"{machine.error}",
                f"Correct the cause, then `flyebpf machines {verb} {machine.id}`; what "
                f"[machines] runs is in this host's configuration.",
            )

    def _take(self, state: State, machines: Iterable[Machine]) -> None:
        for machine in machines:
            with self._lock:
                if machine.error:
                    self._errors[machine.id] = machine
                else:
                    self._errors.pop(machine.id, None)
                if machine.state not in GOALS or not self._config.start:
                    self._orders.pop(machine.id, None)
                    continue
                self._count += 1
                order = Order(machine.state, _ip_6pn(state, machine), self._count)
                self._orders[machine.id] = order
                if machine.id in self._working:
                    continue
                self._working.add(machine.id)
            name = f"machine-{machine.id}"
            threading.Thread(target=self._work, args=(machine.id,), name=name, daemon=True).start()

    def _forget(self, ident: str) -> None:
        with self._lock:
            self._orders.pop(ident, None)
            self._errors.pop(ident, None)

    # A machine's thread.

    def _work(self, ident: str) -> None:
        done: Order | None = None
        while True:
            with self._lock:
                if self._orders.get(ident) is done:
                    self._orders.pop(ident, None)
                order = self._orders.get(ident)
                if order is None or self._ended.is_set():
                    self._working.discard(ident)
                    return
            try:
                self._carry_out(ident, order)
                done = order
            except UnavailableError:
                self._ended.wait(RETRY)
            except FlyebpfError as error:
                log.error("machine %s: %s", ident, error.message)
                done = order
            except Exception:
                log.exception("a fault of flyebpf itself: machine %s is not %s", ident, order)
                done = order

    def _carry_out(self, ident: str, order: Order) -> None:
        """Raises FlyebpfError when the store does not take what has come of it."""
        goal = GOALS[order.state]
        if goal is not MachineState.STARTED and not self._drained(ident, order):
            return
        with self._slots:
            machine = find(self._store, Machine, ident)
            if machine.host != self._host or machine.state is not order.state:
                return  # taken back, or carried out
            state, error = self._run(machine, goal, order.ip_6pn)
        while not self._ended.is_set():
            try:
                power.report(self._store, machine, state, error=error)
                return
            except UnavailableError:  # or others have changed the machine all the time
                self._ended.wait(RETRY)

    def _run(self, machine: Machine, goal: MachineState, ip_6pn: str) -> tuple[MachineState, str]:
        """The command; what the machine is then, and what went wrong."""
        given = commands.values(machine, ip_6pn)
        begun = time.monotonic()
        _, verb, word = ORDERS[goal]
        try:
            machine_commands.run(self._config, verb, given)
        except FlyebpfError as error:
            log.error("machine %s of app %s: %s", machine.id, machine.app, error.message)
            return self._after(goal, given), error.message
        took = time.monotonic() - begun
        log.info("machine %s of app %s %s in %.3f s", machine.id, machine.app, word, took)
        return goal, ""

    def _after(self, goal: MachineState, given: dict[str, str]) -> MachineState:
        """What a machine is whose command has failed."""
        was = MachineState.STOPPED if goal is MachineState.STARTED else MachineState.STARTED
        try:
            return machine_commands.look(self._config, given) or was
        except FlyebpfError as error:
            log.error("machine %s: %s", given["id"], error.message)
            return was

    def _drained(self, ident: str, order: Order) -> bool:
        """Wait until nothing needs the machine any more, or it has had its time. False:
        the order was taken back."""
        machine = find(self._store, Machine, ident)
        begun = time.monotonic()
        while (waited := time.monotonic() - begun) < NOTICE or (
            waited < self._config.drain and self.busy(machine)
        ):
            if self._ended.wait(LOOK):
                return False
            with self._lock:
                if self._orders.get(ident) is not order:
                    return False
        return True


def _ip_6pn(state: State, machine: Machine) -> str:
    """Empty where the app's network or the host is not known."""
    network, host = state.network_of(machine.app), state.hosts.get(machine.host)
    if network is None or host is None:
        return ""
    try:
        return sixpn.machine_address(network.number, host.number, machine.number)
    except ValueError:
        return ""
