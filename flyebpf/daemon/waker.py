# SPDX-License-Identifier: Apache-2.0
"""Wakes machines for clients that this host's proxy holds.

For each cluster that somebody waits for, one thread: it finds a machine that runs, or
has one started, on whatever host it is, by an order in the store. When its service
takes connections, the clients are let through to it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from flyebpf.config import DaemonConfig
from flyebpf.daemon.engine import Engine
from flyebpf.daemon.probe import Prober
from flyebpf.errors import FlyebpfError
from flyebpf.model.health import MachineChecks
from flyebpf.model.proxyrows import ProxyClusterRow
from flyebpf.model.records import AnyRecord, Deployment, Machine, MachineState
from flyebpf.model.state import State, Update
from flyebpf.ops import autostart
from flyebpf.plan.autostart import Choice
from flyebpf.plan.proxy import proxy_row
from flyebpf.proxy import wake
from flyebpf.proxy.names import at
from flyebpf.store.base import Store

log = logging.getLogger(__name__)
LOOK = 1.0  # seconds between looks, if nothing has changed
RETRY = 0.2  # seconds until the store is asked again
COMING = (MachineState.STARTING, MachineState.STARTED)
AT_ONCE, AT_ONCE_OF_APP = 500, 8
"""Clusters that are waited for at once, and those of one app: each has a thread."""
PLACES = 1024
"""Apps are told apart by so many versions; some share one."""
FAILED = 10.0  # seconds for which a machine that could not be started is left alone


class RefusedError(Exception):
    """Why a client is not served: a key of ``wake.REFUSALS``."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A cluster that is waited for, and what there was for it at ``revision`` of the
    store. ``coming``: the app's machines that run or are being started, whether they are
    of use or not."""

    revision: int
    row: ProxyClusterRow
    choice: Choice
    coming: frozenset[str]

    def running(self) -> list[Machine]:
        """Without those whose checks fail, say."""
        unfit = {end.machine for end in self.row.endpoints if end.draining}
        return [machine for machine in self.choice.running if machine.id not in unfit]


@dataclass(frozen=True, slots=True)
class Ordered:
    """A machine, and a revision of the store at which it was ordered to start.
    ``from_rest``: see ``autostart.Started``."""

    machine: Machine
    revision: int
    from_rest: bool


class Waker:
    """``look``: a cluster and its machines as they are now; None where it is gone. It
    waits for the main thread. ``answer``: tells the proxy where its clients are to go."""

    def __init__(
        self,
        config: DaemonConfig,
        store: Store,
        *,
        look: Callable[[str], Wanted | None],
        answer: Callable[[str, dict[str, str]], object],
    ) -> None:
        self._hold = float(config.machines.hold)
        self._source = proxy_row(config).source
        self._store = store
        self._look = look
        self._answer = answer
        self._news = threading.Condition()
        self._versions = [0] * PLACES
        self._ended = False
        self._failed: dict[str, float] = {}  # until when
        self._led: dict[str, frozenset[str]] = {}
        self._working: dict[str, int] = {}  # threads by app
        self._lock = threading.Lock()

    # As a follower of the state.

    def loaded(self, state: State) -> None:
        self._tell()

    def changed(self, state: State, updates: Sequence[Update]) -> None:
        machines = [update for update in updates if update.kind == Machine.kind]
        gone = {update.id for update in machines if not _is_kept(update.after)}
        if gone:
            self._unlead(gone)
        if apps := {app for update in updates for app in _apps(state, update)}:
            self._tell({_place(app) for app in apps})

    def _unlead(self, machines: set[str]) -> None:
        with self._news:
            left = {cluster: led - machines for cluster, led in self._led.items()}
            self._led = {cluster: led for cluster, led in left.items() if led}

    def stop(self) -> None:
        self._ended = True
        self._tell()

    def _tell(self, places: Iterable[int] = range(PLACES)) -> None:
        with self._news:
            for place in places:
                self._versions[place] += 1
            self._news.notify_all()

    # What the proxy asks.

    def wanted(self, cluster: str) -> None:
        """Somebody waits for it; from any thread."""
        app = cluster.partition("/")[0]
        with self._lock:
            own = self._working.get(app, 0)
            full = own >= AT_ONCE_OF_APP or sum(self._working.values()) >= AT_ONCE
            if not full:
                self._working[app] = own + 1
        if full:
            self._refuse(cluster, "full")
            return
        name = f"wake-{cluster}"
        thread = threading.Thread(target=self._work, args=(cluster, app), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the host has no room for it
            log.error("%s: %s", cluster, error)
            self._done(app)
            self._refuse(cluster, "full")

    def _done(self, app: str) -> None:
        with self._lock:
            self._working[app] -= 1
            if not self._working[app]:
                del self._working[app]

    def led(self) -> dict[str, frozenset[str]]:
        """The machines that clients of each cluster have been led to. How many of them
        are there is known by cluster alone (``wake.REPORTED``)."""
        with self._news:
            return dict(self._led)

    def more(self, cluster: str) -> None:
        """Those that run have enough to do: have another machine started, if there is
        one, and none is on its way."""
        found = self._ask(cluster)
        if found is not None and not found.choice.starting:
            with contextlib.suppress(RefusedError):
                self._order(found)

    def _work(self, cluster: str, app: str) -> None:
        try:
            self._answer_for(cluster)
        finally:
            self._done(app)

    def _answer_for(self, cluster: str) -> None:
        begun = time.monotonic()
        refused = ""
        try:
            machine, address = self._find(cluster, begun + self._hold)
        except RefusedError as error:
            refused = str(error)
            log.warning("%s: its clients are refused: %s", cluster, wake.REFUSALS[refused])
        except Exception:
            refused = "failed"
            log.exception("a fault of flyebpf itself: %s is not woken", cluster)
        if refused and self._ended:
            return  # Envoy asks again when the next daemon's control plane is there
        if refused:
            self._refuse(cluster, refused)
            return
        with self._news:
            self._led[cluster] = self._led.get(cluster, frozenset()) | {machine}
        took = time.monotonic() - begun
        log.info("%s: clients go to machine %s after %.3f s", cluster, machine, took)
        self._answer(cluster, {wake.MACHINE_HEADER: address})

    def _refuse(self, cluster: str, reason: str) -> None:
        shown = reason if is_http(cluster) else wake.CLOSED
        self._answer(cluster, {wake.REFUSED_HEADER: shown})

    def _find(self, cluster: str, deadline: float) -> tuple[str, str]:
        """A machine whose service takes connections, and its address and port. Raises
        RefusedError."""
        ordered: Ordered | None = None
        while time.monotonic() < deadline and not self._ended:
            is_news = self._news_of(cluster)
            found = self._ask(cluster)
            if found is None:
                self._wait(is_news, min(deadline, time.monotonic() + RETRY))
                continue
            running = [m for m in found.running() if m.id not in self._failed]
            if not running:
                ordered = self._go_on(found, ordered)
                if ordered is not None and ordered.from_rest:
                    running = [ordered.machine]
            if running:
                machine = self._listening(running, found.row.port, is_news, deadline)
                if machine is not None:
                    return machine.id, at(machine.private_ip, found.row.port)
            else:
                self._wait(is_news, min(deadline, time.monotonic() + LOOK))
        raise RefusedError("late")

    def _ask(self, cluster: str) -> Wanted | None:
        """None: not now. Raises RefusedError where nobody serves it any more."""
        now = time.monotonic()
        with self._news:
            self._failed = {ident: until for ident, until in self._failed.items() if until > now}
        try:
            found = self._look(cluster)
        except TimeoutError:
            return None
        if found is None:
            raise RefusedError("none")
        return found

    def _go_on(self, found: Wanted, ordered: Ordered | None) -> Ordered | None:
        """What is to be waited for, where nothing runs: what was ordered, or something
        else if that is known and has come to nothing. Raises RefusedError."""
        if ordered is not None and found.revision >= ordered.revision:
            ident = ordered.machine.id
            if ident not in found.coming:
                with self._news:
                    self._failed[ident] = time.monotonic() + FAILED
                ordered = None
        if ordered is None and not found.choice.starting:
            ordered = self._order(found)
        return ordered

    def _order(self, found: Wanted) -> Ordered | None:
        """Have a machine started. None: ask again. Raises RefusedError where there is
        none."""
        row = found.row
        candidates = found.choice.candidates if row.wakes else ()
        wanted = [machine.id for machine in candidates if machine.id not in self._failed]
        if not wanted:
            raise RefusedError("failed" if candidates else "none")
        known = found.coming.union(list(self._failed))
        try:
            started = autostart.wake(self._store, service_of(row), wanted, known=known)
            revision = self._store.revision()
        except FlyebpfError as error:
            log.warning("%s: %s", row.name, error.message)
            time.sleep(RETRY)
            return None
        if started is None:  # nothing is as it was: the state will say so
            return None
        log.info("%s: machine %s is %s", row.name, started.machine.id, started.machine.state)
        return Ordered(started.machine, revision, started.from_rest)

    def _news_of(self, cluster: str) -> Callable[[], bool]:
        """Whether something about its app has changed since this call, or all ends."""
        place = _place(cluster.partition("/")[0])
        version = self._versions[place]
        return lambda: self._versions[place] != version or self._ended

    def _wait(self, is_news: Callable[[], bool], deadline: float) -> None:
        with self._news:
            self._news.wait_for(is_news, max(deadline - time.monotonic(), 0))

    def _listening(
        self,
        machines: Sequence[Machine],
        port: int,
        is_news: Callable[[], bool],
        deadline: float,
    ) -> Machine | None:
        """The first of the machines that takes a connection; None when something has
        changed before."""
        addresses = {(machine.private_ip, port): machine for machine in machines}
        prober = Prober(list(addresses), self._source)
        taken = prober.run(deadline, is_news)
        return None if taken is None else addresses[taken]


def view(engine: Engine, row: ProxyClusterRow) -> Wanted:
    """What there is for a cluster; in the main thread. A machine that runs and is to get
    nothing new, as its checks fail, is none that clients are led to."""
    state = engine.state
    served = {endpoint.machine for endpoint in row.endpoints if not endpoint.draining}
    choice = engine.planner.choice(state, row.app, row.groups)
    running = tuple(machine for machine in choice.running if machine.id in served)
    return Wanted(
        state.revision,
        row,
        replace(choice, running=running),
        frozenset(m.id for m in state.machines_of(row.app) if m.state in COMING),
    )


def _apps(state: State, update: Update) -> Iterator[str]:
    """Those whose machines are others now, or of other use."""
    for record in (update.before, update.after):
        match record:
            case Machine(app=app) | Deployment(app=app):
                yield app
            case MachineChecks(machine=ident) if ident in state.machines:
                yield state.machines[ident].app


def _place(app: str) -> int:
    return hash(app) % PLACES


def _is_kept(machine: AnyRecord | None) -> bool:
    """Whether connections to it go on."""
    return isinstance(machine, Machine) and machine.state is not MachineState.STOPPED


def is_http(cluster: str) -> bool:
    """Whether the clients of a cluster speak HTTP."""
    _, _, rest = cluster.partition(":")
    return "tcp" not in rest.split("+")


def service_of(row: ProxyClusterRow) -> str:
    return f"{row.app}/{','.join(row.groups)}"
