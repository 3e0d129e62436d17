# SPDX-License-Identifier: Apache-2.0
"""The daemon's one thread that changes things, and how others reach it.

All applying happens in the main thread, one thing after another. Signals, the
store's watcher, link events and other threads' calls only wake it.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from flyebpf.errors import FlyebpfError
from flyebpf.store.base import Store

log = logging.getLogger(__name__)
T = TypeVar("T")


class MainLoop:
    """Runs what it is given in the thread that calls :meth:`run`."""

    def __init__(self) -> None:
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ, self._drain)
        self.stopping = False

    def call(self, work: Callable[[], T], timeout: float) -> T:
        """Have the main thread do ``work``; its result. From other threads.

        Raises TimeoutError when the main thread is busy for longer than
        ``timeout`` seconds, or ends; then ``work`` is not done, unless it has
        begun.
        """
        if self.stopping:
            raise TimeoutError
        future: Future[T] = Future()
        self._calls.append((work, future))
        self.wake()
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            raise
        except CancelledError:
            raise TimeoutError from None

    def soon(self, work: Callable[[], object]) -> None:
        """Have the main thread do ``work``; from any thread or signal handler."""
        self._calls.append((work, Future()))
        self.wake()

    def wake(self) -> None:
        os.eventfd_write(self._wake, 1)

    def watch(self, fd: int, work: Callable[[], object]) -> None:
        """Do ``work`` whenever ``fd`` can be read."""
        self._selector.register(fd, selectors.EVENT_READ, work)

    def stop(self) -> None:
        self.stopping = True
        self.wake()

    def run(self, step: Callable[[], float]) -> None:
        """Until stopped: wait, do what woke it, then ``step``, which returns
        for how many seconds to wait at most."""
        timeout = step()
        while not self.stopping:
            for key, _ in self._selector.select(max(timeout, 0.0)):
                key.data()
            self._run_calls()
            if not self.stopping:
                timeout = step()
        while self._calls:
            self._calls.popleft()[1].cancel()

    def _drain(self) -> None:
        os.eventfd_read(self._wake)

    def _run_calls(self) -> None:
        while self._calls:
            work, future = self._calls.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except Exception as error:  # noqa: BLE001 (it belongs to the caller)
                future.set_exception(error)
                log.debug("a call failed: %s", error)

    def close(self) -> None:
        self._selector.close()
        os.close(self._wake)


def on_signals(handlers: dict[signal.Signals, Callable[[], object]]) -> None:
    """Call these at signals, in the main thread."""
    for number, handler in handlers.items():
        signal.signal(number, lambda *_, handler=handler: handler())


def restore_signals(numbers: Iterable[signal.Signals]) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)


class StoreWatcher:
    """A thread that waits in the store, and wakes the main loop for changes."""

    def __init__(
        self, store: Store, revision: Callable[[], int], wake: Callable[[], object]
    ) -> None:
        """``revision``: what the main thread has seen of the store so far."""
        self._store = store
        self._revision = revision
        self._wake = wake
        self._seen = threading.Event()
        self._stopping = False
        self.error = ""
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def taken(self) -> None:
        """The main thread has taken in what there was."""
        self._seen.set()

    def stop(self) -> None:
        self._stopping = True
        self._seen.set()
        self._thread.join(3.0)

    def _run(self) -> None:
        while not self._stopping:
            try:
                changed = self._store.wait(self._revision(), 1.0)
                self.error = ""
            except FlyebpfError as error:
                if not self._stopping:
                    if error.message != self.error:  # once, for as long as it lasts
                        log.error("the store cannot be watched: %s", error.message)
                    self.error = error.message
                    time.sleep(1.0)
                continue
            if changed and not self._stopping:
                self._seen.clear()
                self._wake()
                self._seen.wait(5.0)
