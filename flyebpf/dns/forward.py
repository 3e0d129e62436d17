# SPDX-License-Identifier: Apache-2.0
"""Names of the world: from the cache, or from the resolvers that are configured.

Nobody waits for a resolver that is slow or away while another one is not: the
healthiest is asked first, the next one as soon as it takes longer than it did
before, and the first usable answer counts. When none comes, an older answer is
better than none (RFC 8767).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import NamedTuple

import dns.exception
import dns.message

from flyebpf.dns import scrub, wire
from flyebpf.dns.asker import Asker
from flyebpf.dns.cache import Cache, Entry, Key
from flyebpf.dns.limits import ForwardRates, LimitsConfig, Shares
from flyebpf.dns.metrics import Metrics
from flyebpf.dns.upstream import FailedError, Upstream
from flyebpf.dns.wire import CD, Query, Rcode

log = logging.getLogger(__name__)
ROUNDS = 2
"""How often each resolver is asked for one question at most."""
_FAILED_MAX = 10_000
_QUICK_RECORDS = 50
_RECORDS_A_QUERY = 5
_BYTES_A_QUERY = 1024
"""Records and bytes of an answer that cost as much as one more query: who asks may
also be who owns the name, and not take what it asked for."""


@dataclass(frozen=True, slots=True)
class ForwardConfig:
    """``upstreams``: as ``upstream.parse_address`` reads them. ``cache_bytes``:
    of all cached answers together. Seconds: ``deadline`` of one question;
    ``stale_after``: wait before an older answer is given; ``stale_for``: how old
    it may be; ``failure_ttl``: how long nobody is asked again after a failure.
    ``explore``: part of the questions that another resolver than the best gets
    first, which may have become better."""

    upstreams: tuple[str, ...] = ()
    cache_bytes: int = 32 << 20
    deadline: float = 4.5
    stale_after: float = 1.5
    stale_for: float = 86_400.0
    failure_ttl: float = 5.0
    explore: float = 0.02


class _Asked(NamedTuple):
    """A query with what is needed to answer it. ``begun``: monotonic seconds."""

    query: Query
    asker: Asker
    key: Key
    limit: int
    begun: float


class Forwarder:
    """Needs a running event loop for what it does not know."""

    def __init__(self, config: ForwardConfig, limits: LimitsConfig, metrics: Metrics) -> None:
        """Raises InvalidError for an upstream that is no address."""
        self.config = config
        self.metrics = metrics
        self.upstreams = [Upstream(text, metrics) for text in config.upstreams]
        self.cache = Cache(config.cache_bytes, config.stale_for)
        self._rates = ForwardRates(limits)
        self._shares = Shares(limits.forwarded, limits.forwarded_total)
        self._flying: dict[Key, asyncio.Task[Entry | None]] = {}
        self._failed: dict[Key, float] = {}

    def lookup(self, query: Query, asker: Asker, limit: int) -> bytes | Awaitable[bytes]:
        """The answer, at once if it is known. Never fails."""
        begun = time.monotonic()
        key = Key(query.name, query.type, query.do, bool(query.flags & CD))
        asked = _Asked(query, asker, key, limit, begun)
        entry = self.cache.get(key, begun)
        if entry is not None and begun < entry.expires:
            self.metrics.count("cache_hits")
            return self._give(asked, entry, "cache")
        self.metrics.count("cache_misses")
        if not self.upstreams or self._failed.get(key, 0.0) > begun:
            return self._give(asked, entry, "stale")
        return self._wait(asked, entry)

    def stop(self) -> None:
        """Ask nobody any more. Those who wait get SERVFAIL."""
        for task in self._flying.values():
            task.cancel()

    def _give(self, asked: _Asked, entry: Entry | None, path: str) -> bytes:
        now = time.monotonic()
        if entry is None:
            self._count(asked, Rcode.SERVFAIL, "forwarded", now)
            return wire.failure(asked.query, Rcode.SERVFAIL)
        if path == "stale":
            self.metrics.count("stale")
        self._count(asked, entry.rcode, path, now)
        return entry.answer(asked.query, asked.limit, now)

    def _count(self, asked: _Asked, rcode: int, path: str, now: float) -> None:
        self.metrics.answered(asked.query.type, rcode, path, now - asked.begun)

    async def _wait(self, asked: _Asked, old: Entry | None) -> bytes:
        if not (self._rates.admit(asked.asker, asked.begun) and self._shares.take(asked.asker)):
            self.metrics.count("forward_limited")
            return self._give(asked, old, "stale")
        try:
            task = self._fly(asked.key)
            patience = self.config.stale_after if old is not None else None
            await asyncio.wait((task,), timeout=patience)
            new = task.result() if task.done() and not task.cancelled() else None
        finally:
            self._shares.give(asked.asker)
        if new is None:
            return self._give(asked, old, "stale")
        cost = len(new.ttls) // _RECORDS_A_QUERY + len(new.message) // _BYTES_A_QUERY
        self._rates.charge(asked.asker, time.monotonic(), cost)
        # Its time may be over already: TTL 0 is for those who waited.
        fresh = new._replace(expires=max(new.expires, time.monotonic() + 1))
        return self._give(asked, fresh, "forwarded")

    def _fly(self, key: Key) -> asyncio.Task[Entry | None]:
        """The question on its way; one for all who ask the same."""
        task = self._flying.get(key)
        if task is not None:
            self.metrics.count("shared")
            return task
        task = self._flying[key] = asyncio.get_running_loop().create_task(self._resolve(key))
        task.add_done_callback(lambda _: self._flying.pop(key, None))
        return task

    async def _resolve(self, key: Key) -> Entry | None:
        """Ask, and keep what comes. None: nobody has a usable answer."""
        try:
            async with asyncio.timeout(self.config.deadline):
                answer = await self._ask_all(key)
            found = await self._clean(answer, key.do)
        except (FailedError, TimeoutError, dns.exception.DNSException) as error:
            log.debug("no answer: %s", error)
            self._note_failure(key)
            return None
        except Exception:
            log.exception("a fault of the DNS forwarder itself")
            self.metrics.count("faults")
            self._note_failure(key)
            return None
        if found.scrubbed:
            self.metrics.count("scrubbed")
        now = time.monotonic()
        entry = Entry(found.message, found.rcode, found.ttls, now, now + found.ttl)
        if found.ttl:
            self.cache.put(key, entry)
        return entry

    async def _clean(self, answer: dns.message.Message, do: bool) -> scrub.Clean:
        if sum(map(len, (*answer.answer, *answer.authority))) < _QUICK_RECORDS:
            return scrub.clean(answer, do)
        return await asyncio.to_thread(scrub.clean, answer, do)

    def _note_failure(self, key: Key) -> None:
        """In the order in which they end, so that each is looked at twice at most."""
        now = time.monotonic()
        for other, until in list(itertools.islice(self._failed.items(), 2)):
            if until <= now or len(self._failed) >= _FAILED_MAX:
                del self._failed[other]
        self._failed.pop(key, None)
        self._failed[key] = now + self.config.failure_ttl

    async def _ask_all(self, key: Key) -> dns.message.Message:
        """Raises FailedError with the last reason."""
        asked: set[asyncio.Task[dns.message.Message]] = set()
        reason = FailedError("no resolver")
        loop = asyncio.get_running_loop()
        try:
            for upstream in self._order() * ROUNDS:
                asked.add(loop.create_task(upstream.ask(key)))
                patience = upstream.patience
                done, asked = await asyncio.wait(
                    asked, timeout=patience, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    if (error := task.exception()) is None:
                        return task.result()
                    reason = _as_failure(error)
            while asked:
                done, asked = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if (error := task.exception()) is None:
                        return task.result()
                    reason = _as_failure(error)
            raise reason
        finally:
            for task in asked:
                task.cancel()

    def _order(self) -> list[Upstream]:
        """The healthiest first; now and then another one."""
        now = asyncio.get_running_loop().time()
        order = sorted(self.upstreams, key=lambda upstream: (upstream.is_down(now), upstream.srtt))
        if len(order) > 1 and random.random() < self.config.explore:
            order.insert(0, order.pop(random.randrange(1, len(order))))
        return order


def _as_failure(error: BaseException) -> FailedError:
    """A resolver's failure; anything else is a fault of ours, and is raised."""
    if isinstance(error, FailedError):
        return error
    raise error
