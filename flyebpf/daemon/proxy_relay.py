# SPDX-License-Identifier: Apache-2.0
"""Keeps the relay of ``pg_tls`` running while an app needs it, and its clients coming
to the one that is there."""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Iterator

from flyebpf.api.backend import Problem
from flyebpf.drivers.proxy import ProxyDriver
from flyebpf.drivers.proxy_relay import Relay, drain
from flyebpf.errors import FlyebpfError
from flyebpf.proxy.chains import pg_listeners

log = logging.getLogger(__name__)
LOOK = 1.0  # seconds between looks at one that runs
READY = 10.0  # seconds that one may take to listen
STEP = 0.02
BACKOFF = (0.0, 0.1, 0.5, 1.0)  # seconds before a start, after so many in a row that failed
OWNER = "relay"
FIRST = next(pg_listeners())


class RelayAgent:
    """``problems`` is for any thread."""

    def __init__(self, driver: ProxyDriver) -> None:
        self._driver = driver
        self._relay = Relay(driver.paths, driver.user)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy-relay", daemon=True)
        self._problem = ""
        self._failed = 0
        self._pid = 0
        self.restarts = 0
        """Relays that ended by themselves."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """The relay goes on."""
        self._ended.set()
        self._driver.relay_wanted.set()
        self._thread.join(READY)

    def problems(self) -> Iterator[Problem]:
        if self._problem:
            yield Problem("proxy", self._problem, "Services with pg_tls are not served.")

    def _run(self) -> None:
        begun = False
        while not self._ended.is_set():
            try:
                begun = begun or self._begin()
                if self._driver.relay_wanted.wait(LOOK) and not self._ended.is_set():
                    self._step()
            except (FlyebpfError, OSError) as error:
                self._fail(str(error))
            except Exception as error:  # nobody else starts the relay again
                log.exception("a fault of flyebpf itself: the relay is not looked after")
                self._fail(repr(error))

    def _begin(self) -> bool:
        if not self._relay.find():
            self._driver.sockets.fill(OWNER, (), {})
        return True

    def _step(self) -> None:
        pid = self._relay.find()
        if not pid:
            if self._pid:
                self.restarts += 1
                log.error("the relay of pg_tls, %d, has ended; it is started again", self._pid)
            self._pid = 0
            self._ended.wait(BACKOFF[min(self._failed, len(BACKOFF) - 1)])
            self._relay.start()
        if pid != self._pid or not self._driver.sockets.present(FIRST):
            self._take_up()
        if self._pid:
            self._wait(self._pid)

    def _take_up(self) -> None:
        """Give connections to the sockets of the one that listens."""
        deadline = time.monotonic() + READY
        while time.monotonic() < deadline and not self._ended.is_set():
            pid = self._relay.find()
            found = self._relay.listening(pid) if pid else {}
            if found and self._driver.sockets.fill(OWNER, pg_listeners(), found):
                self._pid, self._failed, self._problem = pid, 0, ""
                log.info("the relay of pg_tls, %d, serves", pid)
                for path in self._relay.older():
                    drain(path)
                return
            self._ended.wait(STEP)
        self._relay.end_child()
        self._fail(f"the relay of pg_tls does not listen: {self._relay.says() or 'no reason'}")

    def _wait(self, pid: int) -> None:
        """Until it ends, or some time has passed."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            deadline = time.monotonic() + LOOK
            while time.monotonic() < deadline and not self._ended.is_set():
                if poll.poll(100):
                    return
        finally:
            os.close(pidfd)

    def _fail(self, text: str) -> None:
        self._failed += 1
        if text != self._problem:
            log.error("%s", text)
        self._problem = text
        self._ended.wait(BACKOFF[min(self._failed, len(BACKOFF) - 1)])
