# SPDX-License-Identifier: Apache-2.0
"""Threads that do something again and again, and outlive failures of the store."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from flyebpf.errors import FlyebpfError
from flyebpf.model.codec import encode
from flyebpf.model.records import Presence
from flyebpf.store.base import Put, Store, StoreUnavailableError, Transaction

log = logging.getLogger(__name__)

PRESENCE_EVERY = 3.0  # seconds
RETRY = 1.0  # seconds after a failure
ALONE_EVERY = 60.0  # between looks at a store that no other host reads
PRESENCE_LIFE = 10
"""Seconds after which the others take a host for absent that does not renew its
presence. A restart of the daemon is shorter.

etcd keeps leases while it has no leader: a new one gives each its whole time again.
Only one that was stopped, and goes on believing that it leads, may revoke leases
that have been renewed meanwhile (etcd issue 15247). The
host then says again at once that it is there."""


class Repeat:
    """Calls ``work`` in a thread of its own; it returns the seconds until it is
    to be called again. ``error``: why it failed the last time, or "". ``fault``:
    the same where it will not go by itself, and nobody else says it."""

    def __init__(self, name: str, work: Callable[[], float], *, retry: float = RETRY) -> None:
        self._work = work
        self._retry = retry
        self._wake = threading.Event()
        self._stopping = False
        self._away = False
        self.error = ""
        self.fault: FlyebpfError | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def soon(self) -> None:
        """Do not wait any longer; from any thread."""
        self._wake.set()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(3.0)

    def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            wait = self._once()
            if not self._stopping:
                self._wake.wait(wait)

    def _once(self) -> float:
        fault = None
        try:
            wait = self._work()
        except StoreUnavailableError as error:
            self._say_away(error.message)
        except FlyebpfError as error:
            fault = error
            self._say(error.message)
        except TimeoutError:
            self._say("the daemon's main thread is busy")
        except OSError as error:
            self._say(str(error))
        except Exception as error:  # the thread must not end: the host would count as gone
            text = f"{self._thread.name} failed: {error!r}"
            fault = FlyebpfError(text, "The daemon's log has the details; restart it.")
            if self.error != text:
                log.exception("a fault of flyebpf itself: %s", text)
            self.error = text
        else:
            if self._away:
                log.info("%s: the store answers again", self._thread.name)
            self._away, self.error, self.fault = False, "", None
            return wait
        self.fault = fault
        return self._retry

    def _say(self, error: str) -> None:
        """Each error once, however often it comes back."""
        if error != self.error and not self._stopping:
            log.warning("%s: %s", self._thread.name, error)
        self.error = error

    def _say_away(self, error: str) -> None:
        """Once, for as long as it lasts: its words change from member to member."""
        if not self._away:
            self._say(error)
        self._away, self.error = True, error


def renew_presence(store: Store, host: str, *, forgets: bool) -> float:
    """Tell the others that this host's daemon is there. Where the store ``forgets``
    nothing, it is said once."""
    record = Presence(host)
    if not forgets and store.get(record.kind, host) is not None:
        return ALONE_EVERY
    put = Put(record.kind, host, encode(record), ttl=PRESENCE_LIFE)
    store.commit(Transaction((), (put,)))
    return PRESENCE_EVERY
