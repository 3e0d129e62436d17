# SPDX-License-Identifier: Apache-2.0
"""One message in, one message out, whatever the transport."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable
from typing import Protocol

from flyebpf.dns import wire, zone
from flyebpf.dns.asker import Asker
from flyebpf.dns.metrics import Metrics
from flyebpf.dns.view import View
from flyebpf.dns.wire import IN, Query, Rcode, Type

log = logging.getLogger(__name__)
Reply = bytes | Awaitable[bytes] | None


class Elsewhere(Protocol):
    """Who answers names that are not ours (``forward.Forwarder``)."""

    def lookup(self, query: Query, asker: Asker, limit: int) -> bytes | Awaitable[bytes]:
        """The answer of at most ``limit`` bytes, now or later. Counts it."""


class Responder:
    """``view`` may be replaced by another one at any time between two calls."""

    def __init__(self, view: View, elsewhere: Elsewhere | None, metrics: Metrics) -> None:
        self.view = view
        self.metrics = metrics
        self._elsewhere = elsewhere

    def take(self, data: bytes, asker: Asker, tcp: bool) -> Reply:
        """The answer to a message: now, or later, or (None) never. Never raises."""
        begun = time.perf_counter()
        query = wire.parse(data)
        if query is None:
            self.metrics.count("silent")
            return None
        if isinstance(query, bytes):
            self.metrics.count("malformed")
            return query
        try:
            return self._answer(query, asker, wire.room(query, tcp), begun)
        except Exception:
            log.exception("a fault of the DNS server itself")
            self.metrics.count("faults")
            return wire.failure(query, Rcode.SERVFAIL)

    def _answer(
        self, query: Query, asker: Asker, limit: int, begun: float
    ) -> bytes | Awaitable[bytes]:
        refusal = _refusal(query)
        if refusal:
            self._count(query, refusal, "refused", begun)
            return wire.failure(query, refusal)
        found = zone.answer(self.view, query, asker)
        if found is not None:
            message = wire.build(query, found, limit)
            self._count(query, found.rcode, "internal", begun)
            return message
        if self._elsewhere is None:
            self._count(query, Rcode.REFUSED, "refused", begun)
            return wire.failure(query, Rcode.REFUSED)
        return self._elsewhere.lookup(query, asker, limit)

    def _count(self, query: Query, rcode: int, path: str, begun: float) -> None:
        self.metrics.answered(query.type, rcode, path, time.perf_counter() - begun)


def _refusal(query: Query) -> int:
    """Why a well-formed query gets no answer; 0: it does get one. Transfers and
    other questions about questions are for servers among themselves."""
    if query.version > 0:
        return Rcode.BADVERS
    if query.klass != IN or (query.type >= 128 and query.type < Type.ANY):
        return Rcode.REFUSED
    return Rcode.FORMERR if query.type == Type.OPT else 0
