# SPDX-License-Identifier: Apache-2.0
"""The watch: a thread that follows the cluster from member to member.

A member that is killed ends its stream; one that is stopped does not, so a
second thread asks it now and then whether it is there. One that has lost its
leader ends its stream by itself. The watch resumes after the last change that
was taken in; where etcd has compacted that away, or the cluster is another
one, whoever follows is told to take a new snapshot.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence

from flyebpf.errors import FlyebpfError
from flyebpf.store.base import Change, CompactedError, Json, StoreUnavailableError
from flyebpf.store.etcdbuffer import Buffer
from flyebpf.store.etcdkeys import Keys, RawChange, encode, end_of
from flyebpf.store.etcdmembers import LostError, Member, Members, described, lines

log = logging.getLogger(__name__)

_CHECK = 1.0  # seconds of silence after which a member is asked whether it is there
_GRACE = 2.0  # seconds without a watch that nobody is told of
_OWN = 0.5  # seconds that a commit of this client may take to come back to it
_LONGEST_PAUSE = 1.0  # seconds between attempts while etcd is away


class Feed:
    """Thread safe. ``heard`` is called with all changes, in its thread."""

    def __init__(
        self,
        members: Members,
        keys: Keys,
        kept: int,
        heard: Callable[[Sequence[RawChange]], object],
    ) -> None:
        self._members = members
        self._keys = keys
        self._heard = heard
        self._state = threading.Condition()
        self._buffer = Buffer(kept)
        self._cluster = ""
        self._next = 0  # the revision that the watch resumes at; 0: at the next one
        self._high = 0  # the highest revision that etcd has told of
        self._snapshot = 0  # the newest revision that a snapshot was taken at
        self._own = 0  # revision of this client's last commit
        self._begun = False
        self._down_since: float | None = time.monotonic()
        self._failures: dict[str, str] = {}
        self._closed = threading.Event()
        self._stream: Stream | None = None
        self._thread = threading.Thread(target=self._run, name="etcd-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Threads in :meth:`wait` get StoreUnavailableError."""
        self._closed.set()
        with self._state:
            self._state.notify_all()
            stream = self._stream
        if stream is not None:
            stream.end()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(self._members.timeout)

    def committed(self, revision: int) -> None:
        """This client has committed ``revision``."""
        with self._state:
            self._own = max(self._own, revision)
            self._high = max(self._high, revision)

    def read_at(self, revision: int) -> None:
        """A snapshot was taken at ``revision``."""
        with self._state:
            self._snapshot = max(self._snapshot, revision)
            self._high = max(self._high, revision)

    def revision(self) -> int:
        """The newest revision that is known to concern records."""
        with self._state:
            self._ready()
            return max(self._buffer.last, self._snapshot)

    def changes(self, since: int, limit: int) -> list[Change]:
        with self._state:
            self._ready()
            if since > max(self._high, self._buffer.last):
                raise CompactedError(
                    f"revision {since} is ahead of etcd, which is at {self._high}: "
                    "it is another cluster than before",
                    "take a new snapshot",
                )
            return self._buffer.after(since, limit)

    def wait(self, since: int, timeout: float) -> bool:
        """True also when :meth:`changes` would ask for a new snapshot."""
        deadline = time.monotonic() + timeout
        with self._state:
            while not self._is_news(since):
                self._check_open()
                now = time.monotonic()
                if self._down_since is not None and now - self._down_since > _GRACE:
                    raise self._away()
                if now >= deadline and self._own <= self._buffer.last:
                    return False
                if now >= deadline + _OWN:
                    return False
                self._state.wait(min(max(deadline - now, 0.01), 0.5))
        return True

    def _is_news(self, since: int) -> bool:
        self._check_open()
        high = max(self._high, self._buffer.last)
        return self._begun and (
            self._buffer.last > since or since < self._buffer.floor or since > high
        )

    def _ready(self) -> None:
        """Until the watch has begun, and this client's own commits are heard of."""
        self._check_open()
        self._state.wait_for(
            lambda: self._begun or self._closed.is_set() or self._all_failed(),
            self._members.timeout,
        )
        self._check_open()
        if not self._begun:
            raise self._away()
        if self._own > self._buffer.last and self._down_since is None:
            self._state.wait_for(
                lambda: self._own <= self._buffer.last or self._closed.is_set(), _OWN
            )
            self._check_open()

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise StoreUnavailableError("the connection to etcd has been closed")

    def _all_failed(self) -> bool:
        return len(self._failures) == len(self._members.all)

    def _away(self) -> StoreUnavailableError:
        why = described(self._failures) or "no answer yet"
        return StoreUnavailableError(
            f"etcd is away: {why}",
            "It is tried again all the time; a majority of its members must be reachable.",
        )

    def _run(self) -> None:
        number = random.randrange(len(self._members.all))
        pause = 0.05
        while not self._closed.is_set():
            member = self._members.all[number]
            begun = time.monotonic()
            try:
                self._follow(member)
            except LostError as error:
                self._lost(member, str(error))
            except FlyebpfError as error:
                self._lost(member, error.message)
            except Exception as error:
                log.exception("the watch of %s failed", member.url)
                self._lost(member, f"sent what cannot be understood: {error}")
            else:
                continue
            number = (number + 1) % len(self._members.all)
            pause = 0.05 if time.monotonic() - begun > _CHECK else min(2 * pause, _LONGEST_PAUSE)
            self._closed.wait(random.uniform(pause / 2, pause))

    def _lost(self, member: Member, why: str) -> None:
        with self._state:
            if self._closed.is_set():
                return
            if self._down_since is None:
                self._down_since = time.monotonic()
                log.warning("the watch of %s ended: it %s", member.url, why)
            self._failures[member.url] = why
            self._state.notify_all()

    def _follow(self, member: Member) -> None:
        """Until the member is lost, or the watch must begin anew."""
        header = member.post("/kv/range", self._probe())["header"]
        self._begin(header)
        create = {
            "key": encode(self._keys.records),
            "range_end": encode(end_of(self._keys.records)),
            "start_revision": str(self._next),
            "progress_notify": True,
            "fragment": True,
        }
        with contextlib.closing(Stream(member, create, self._probe())) as stream:
            with self._state:
                self._stream = stream
            if self._closed.is_set():
                return
            pending: list[RawChange] = []
            for answer in lines(stream.response):
                stream.alive()
                if "error" in answer:
                    raise LostError(f"ended the watch: {answer['error']}", sent=True)
                if not self._take(answer["result"], pending):
                    return

    def _probe(self, *, serializable: bool = False) -> Json:
        """The cheapest request: whether there is a first record."""
        body: Json = {"key": encode(self._keys.records), "keys_only": True}
        return {**body, "serializable": True} if serializable else body

    def _begin(self, header: Json) -> None:
        """Resume, or begin at ``header`` where that is not possible."""
        cluster, revision = str(header["cluster_id"]), int(header.get("revision", 0))
        with self._state:
            known = self._cluster == cluster and revision >= self._next - 1
            if self._next == 0 or not known:
                if self._begun and self._next and not known:
                    log.warning("etcd is another cluster than before, or was restored from a copy")
                    self._high = self._snapshot = self._own = 0
                self._cluster = cluster
                self._next = revision + 1
                self._buffer.reset(revision)
            self._high = max(self._high, revision)

    def _take(self, result: Json, pending: list[RawChange]) -> bool:
        """One answer of the watch; False when it must begin anew. ``pending``:
        of a transaction whose rest is still to come."""
        if result.get("canceled"):
            if "compact_revision" not in result:
                raise LostError(f"ended the watch: {result.get('cancel_reason', '')}", sent=True)
            log.warning("etcd was compacted while it was away: reading everything again")
            with self._state:
                self._next = 0
            return False
        pending += [self._keys.change(event) for event in result.get("events", ())]
        if result.get("fragment"):
            return True
        with self._state:
            if pending:
                self._buffer.add(pending)
                self._next = self._buffer.last + 1
            elif not result.get("created"):  # nothing has happened until then
                self._next = max(self._next, int(result["header"].get("revision", 0)) + 1)
            self._high = max(self._high, self._buffer.last)
            if self._down_since is not None:
                self._down_since = None
                self._failures.clear()
            self._begun = True
            self._state.notify_all()
        if pending:
            self._heard(pending)
            pending.clear()
        return True


class Stream:
    """An open watch, and the thread that ends it when its member is silent."""

    def __init__(self, member: Member, create: Json, probe: Json) -> None:
        self._member = member
        self._probe = {**probe, "serializable": True}
        self._heard = time.monotonic()
        self._done = threading.Event()
        self.response = member.stream("/watch", {"create_request": create})
        self._checker = threading.Thread(target=self._check, name="etcd-check", daemon=True)
        self._checker.start()

    def alive(self) -> None:
        self._heard = time.monotonic()

    def end(self) -> None:
        """From another thread: whoever reads the stream comes to its end."""
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            self.response.raw.shutdown()

    def close(self) -> None:
        self._done.set()
        self.response.close()

    def _check(self) -> None:
        while not self._done.wait(_CHECK):
            if time.monotonic() - self._heard < _CHECK:
                continue
            try:
                self._member.post("/kv/range", self._probe)
            except (LostError, FlyebpfError):
                self.end()
                return
