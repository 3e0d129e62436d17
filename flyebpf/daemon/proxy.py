# SPDX-License-Identifier: Apache-2.0
"""Keeps Envoy running, and connections going to the one that is there.

A thread waits for Envoy's end. The first thing that a new one gets is its place in
the programs' map of sockets; what it serves, it hears from the control plane.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import select
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flyebpf.api.backend import Problem, ProxyStatus, Severity
from flyebpf.drivers.proxy import ProxyDriver
from flyebpf.drivers.proxy_envoy import Envoy, ask, end, peer
from flyebpf.errors import FlyebpfError
from flyebpf.proxy.appstats import AppStats, Shown
from flyebpf.proxy.chains import all_listeners
from flyebpf.proxy.loads import Loads

log = logging.getLogger(__name__)
LOOK = 1.0  # seconds between looks at an Envoy that runs
READY = 10.0  # seconds that one may take to listen
STEP = 0.02
BACKOFF = (0.0, 0.1, 0.5, 1.0)  # seconds before a start, after so many in a row that failed
RECENT = 600.0  # seconds for which an end is told of
DRAIN = 600.0  # seconds that an older Envoy has at most for its connections
GIVEN_UP = len(BACKOFF)  # starts that failed in a row, after which clients are refused
ACTIVE = ("http.http.downstream_cx_active", "tcp.tcp.downstream_cx_active")

Apps = tuple[dict[str, AppStats], AppStats]
"""Those with metrics of their own, and the others together."""


def uptime(pid: int) -> float:
    """Seconds since a process began; 0 for one that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    began = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # proc(5), field 22
    return max(time.clock_gettime(time.CLOCK_BOOTTIME) - began, 0.0)


class ProxyAgent:
    """``problems`` and ``metrics`` are for any thread."""

    def __init__(self, driver: ProxyDriver, metrics_apps: int) -> None:
        """``metrics_apps``: how many have metrics of their own."""
        self._driver = driver
        self._shown = Shown(metrics_apps)
        self._counting = threading.Lock()  # scrapes come at the same time
        self._listeners = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._problem = ""
        self._failed = 0
        self._draining: dict[int, float] = {}
        self.restarts = 0
        """Envoys that ended by themselves."""
        self._last_end = 0.0
        self.pid = 0
        self._digest = ""  # of the Envoy that connections go to
        self.serving = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Envoy goes on."""
        self._ended.set()
        self._driver.changed.set()
        self._thread.join(READY)

    @property
    def loads(self) -> Loads:
        """What machines have to do through this host's proxy."""
        return self._driver.loads

    def problems(self) -> Iterator[Problem]:
        if self._problem:
            yield Problem(
                "proxy",
                self._problem,
                "Services with handlers are not served; see the daemon's log.",
            )
        since = time.monotonic() - self._last_end
        if self.restarts and since < RECENT:
            yield Problem(
                "proxy",
                f"Envoy has ended by itself and was started again ({self.restarts} since the "
                f"daemon's start, the last one {since:.0f} s ago)",
                f"See {self._driver.paths.log}, and the kernel's log for its memory.",
                Severity.WARNING,
            )
        feed = self._driver.feed
        for text in (feed.report.get("refused"), feed.report.get("wrong")) if feed else ():
            if text:
                yield Problem("proxy", f"not applied: {text}", "Correct what it names.")

    def metrics(self) -> dict[str, Any] | None:
        """What there is to count; None where this host has no proxy."""
        envoy, feed = self._driver.envoy, self._driver.feed
        if envoy is None or feed is None:
            return None
        return {
            "up": int(self.serving),
            "restarts": self.restarts,
            "control_plane_restarts": feed.restarts,
            "resources": feed.report.get("resources") or {},
            "envoy": envoy.stats(),
            "apps": self._apps(envoy),
        }

    def _apps(self, envoy: Envoy) -> Apps | None:
        """None while Envoy does not say: that is not that there are none."""
        found = envoy.app_stats()
        if found is None:
            return None
        with self._counting:
            return self._shown.split(found)

    def status(self) -> ProxyStatus | None:
        """How Envoy is; None where this host has no proxy."""
        driver = self._driver
        if driver.envoy is None:
            return None
        return ProxyStatus(
            self.serving,
            self.pid,
            uptime(self.pid) if self.serving else 0.0,
            self.restarts,
            self._listeners,
            driver.count_apps(),
        )

    def reopen_log(self) -> None:
        """Of requests, if there is one. Raises UnavailableError."""
        if self._driver.envoy is not None:
            self._driver.envoy.reopen_log()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._step()
            except FlyebpfError as error:
                self._fail(error.message)
            except OSError as error:
                self._fail(str(error))
            except Exception as error:  # nobody else starts Envoy again
                log.exception("a fault of flyebpf itself: Envoy is not looked after")
                self._fail(repr(error))

    def _step(self) -> None:
        driver = self._driver
        driver.changed.clear()
        envoy = driver.envoy
        self._end_older(envoy)
        if envoy is None:
            self.pid, self.serving, self._problem = 0, False, ""
            driver.sockets.refuse()
            driver.changed.wait(LOOK if self._draining else None)
            return
        if self._failed < GIVEN_UP:
            driver.sockets.wait()
        pid = envoy.find()
        if not pid:
            if envoy.digest == self._digest:
                self._again()
            log.info("starting Envoy %s", envoy.digest)
            pid = envoy.start()
        if pid != self.pid or not driver.sockets.present():
            self._take_up(envoy, pid)
        self._wait(pid)

    def _again(self) -> None:
        """Before a start: wait, if the last ones came to nothing."""
        self.serving = False
        if self.pid:
            self.restarts += 1
            self._last_end = time.monotonic()
            log.error("Envoy %d has ended; it is started again", self.pid)
        self.pid = 0
        self._driver.changed.wait(BACKOFF[min(self._failed, len(BACKOFF) - 1)])

    def _take_up(self, envoy: Envoy, pid: int) -> None:
        """Give connections to this process's sockets."""
        deadline = time.monotonic() + READY
        while time.monotonic() < deadline and Path(f"/proc/{pid}").exists():
            found = envoy.listening(peer(envoy.admin) or pid)
            if found and self._driver.sockets.fill("envoy", all_listeners(), found):
                self.pid, self.serving = peer(envoy.admin) or pid, True
                self._digest = envoy.digest
                self._failed, self._problem, self._listeners = 0, "", len(found)
                log.info("Envoy %d serves", self.pid)
                return
            if self._ended.wait(STEP):
                return
            if self._is_dead(pid):
                break
        self._fail(f"Envoy does not listen: {envoy.says() or 'it says nothing'}")
        end(pid)

    def _is_dead(self, pid: int) -> bool:
        """A child that nobody has waited for is still there by its id."""
        return self._driver.envoy is not None and not self._driver.envoy.alive(pid)

    def _wait(self, pid: int) -> None:
        """Until it ends, another one is wanted, or some time has passed."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            deadline = time.monotonic() + LOOK
            while time.monotonic() < deadline and not self._driver.changed.is_set():
                if poll.poll(100):
                    return
        finally:
            os.close(pidfd)

    def _end_older(self, envoy: Envoy | None) -> None:
        """Envoys of other bootstraps drain, and end after a while."""
        sockets = self._driver.paths.sockets
        mine = envoy.admin if envoy else None
        ready = envoy is None or (self.serving and self._digest == envoy.digest)
        for path in sockets.glob("*.sock") if sockets.is_dir() and ready else ():
            if path in (mine, self._driver.paths.ads):
                continue
            pid = peer(path)
            if not pid:
                path.unlink(missing_ok=True)
            elif pid not in self._draining:
                self._draining[pid] = time.monotonic() + DRAIN
                log.info("Envoy %d drains", pid)
                ask(path, "POST", "/drain_listeners?graceful")
            elif time.monotonic() > self._draining[pid] or _is_idle(path):
                del self._draining[pid]
                end(pid)

    def _fail(self, text: str) -> None:
        self._failed += 1
        if text != self._problem:
            log.error("the proxy: %s", text)
        self._problem = text
        if self._failed >= GIVEN_UP:
            self._driver.sockets.refuse()
        self._ended.wait(BACKOFF[min(self._failed, len(BACKOFF) - 1)])


def _is_idle(admin: Path) -> bool:
    """Whether an Envoy has no connections any more."""
    target = f"/stats?format=json&filter={'|'.join(ACTIVE)}"
    try:
        stats = json.loads(ask(admin, "GET", target)).get("stats", ())
    except (OSError, ValueError, http.client.HTTPException):
        return False  # it may be busy, or gone
    return all(stat.get("value") == 0 for stat in stats)
