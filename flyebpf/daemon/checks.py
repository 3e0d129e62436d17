# SPDX-License-Identifier: Apache-2.0
"""Publishes what checks of this host's machines have found: a small record for each
machine, written when a result has changed.

What was found before stands until there is a new result, so neither a daemon's end nor
its start takes a machine out of service or back in.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from flyebpf.daemon.mesh_status import text
from flyebpf.drivers.checks import ChecksDriver
from flyebpf.errors import FlyebpfError
from flyebpf.model.health import CheckResult, MachineChecks
from flyebpf.ops import health
from flyebpf.store.base import Store

log = logging.getLogger(__name__)
GATHER = 0.1  # seconds in which results are gathered
LOOK = 30.0  # seconds between looks for results of checks that there are no more
PAUSE = 1.0
"""Seconds to the next look: what flaps is written once in that time, not at each turn."""
BATCH = 50  # machines in a transaction


Published = Mapping[str, MachineChecks]
"""By machine, what the store has of this host's."""


class ChecksAgent:
    """``look``: asks the main thread what is published; None while it cannot say."""

    def __init__(
        self, host: str, store: Store, driver: ChecksDriver, look: Callable[[], Published | None]
    ) -> None:
        self._host = host
        self._store = store
        self._driver = driver
        self._look = look
        self._lock = threading.Lock()
        self._found: dict[str, CheckResult] = {}  # by machine/name
        self._news = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="check-results", daemon=True)
        driver.found = self._take
        driver.changed = self._news.set

    def start(self) -> None:
        self._news.set()  # what an earlier daemon published of checks that are gone
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._news.set()
        self._thread.join()

    def metrics(self) -> dict[str, int]:
        """Checks of this host by result."""
        with self._lock:
            found = [result.passing for result in self._found.values()]
        return {"passing": found.count(True), "critical": found.count(False)}

    def _take(self, results: Mapping[str, str]) -> None:
        now = text(time.time())
        with self._lock:
            for key, why in results.items():
                name = key.partition("/")[2]
                self._found[key] = CheckResult(name, not why, why, now)
        self._news.set()

    def _run(self) -> None:
        while not self._ended.is_set():
            self._news.wait(LOOK)
            if self._ended.wait(GATHER):
                return
            self._news.clear()
            try:
                done = self._publish()
            except FlyebpfError as error:
                log.warning("results of checks are not published: %s", error.message)
                done = False
            except TimeoutError:
                done = False
            except Exception:  # results that come later are to be published, too
                log.exception("a fault of flyebpf itself: results of checks are not published")
                done = False
            if not done:
                self._news.set()
            self._ended.wait(PAUSE)

    def _publish(self) -> bool:
        """Whether the store has it all now."""
        published = self._look()
        if published is None:
            return False
        keys = self._driver.keys()
        with self._lock:
            self._found = {key: result for key, result in self._found.items() if key in keys}
            wanted = merge(published, self._found, keys)
        changed = {
            machine: results
            for machine, results in wanted.items()
            if results != _results(published, machine)
        }
        order = list(changed)
        for at in range(0, len(order), BATCH):
            some = {machine: changed[machine] for machine in order[at : at + BATCH]}
            health.publish(self._store, self._host, some)
        return True


def merge(
    published: Published, found: Mapping[str, CheckResult], keys: frozenset[str]
) -> dict[str, tuple[CheckResult, ...]]:
    """What is to be published of each machine. ``keys``: the checks that there are
    (``machine/name``); what is not known of one yet is as it was."""
    wanted: dict[str, list[CheckResult]] = {machine: [] for machine in published}
    for key in sorted(keys):
        machine, _, name = key.partition("/")
        before = {result.name: result for result in _results(published, machine)}.get(name)
        result = found.get(key, before)
        if result and before and result.passing == before.passing:
            result = before
        if result is not None:
            wanted.setdefault(machine, []).append(result)
    return {machine: tuple(results) for machine, results in wanted.items()}


def _results(published: Published, machine: str) -> tuple[CheckResult, ...]:
    return published[machine].results if machine in published else ()
