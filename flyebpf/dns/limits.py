# SPDX-License-Identifier: Apache-2.0
"""How much one machine may ask: its flood must not cost others their answers."""

from __future__ import annotations

from dataclasses import dataclass

from flyebpf.dns.asker import Asker

_KEPT = 16_384
EVERYBODY = Asker(0, 0, 0)
_SHARED_COST = 10


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """For each machine (or user's peer): ``rate`` of queries a second in the long
    run and ``burst`` at once; ``forward_rate`` and ``forward_burst`` of those that
    a resolver has to be asked for, which cost twenty times as much; ``forwarded``:
    of them under way, ``pipelined``: on one connection; ``connections`` by TCP,
    new ones at ``connection_rate`` a second and ``connection_burst`` at once.
    For all together: ``connections_total``, ``forwarded_total``, and
    ``forward_total_rate``, beyond which only those get a resolver asked who want
    ``forward_calm_rate`` or less, so that some that ask as much as they may do not
    use up the time of all. ``idle``: seconds that a TCP connection may say nothing,
    or take no answer."""

    rate: float = 1000.0
    burst: int = 2000
    forward_rate: float = 200.0
    forward_burst: int = 500
    forward_total_rate: float = 1000.0
    forward_total_burst: int = 2000
    forward_calm_rate: float = 10.0
    forward_calm_burst: int = 50
    connections: int = 32
    connection_rate: float = 200.0
    connection_burst: int = 400
    connections_total: int = 4096
    pipelined: int = 64
    forwarded: int = 128
    forwarded_total: int = 4096
    idle: float = 10.0


class Rates:
    """Tells queries that are within the rate from those that are not (GCRA):
    one number a machine, the time at which its budget is full again."""

    def __init__(self, rate: float, burst: int) -> None:
        self._cost = 1 / rate
        self._credit = burst / rate
        self._full: dict[Asker, float] = {}

    def delay(self, asker: Asker, now: float) -> float:
        """0: the query is within the rate, and counted; else how many seconds
        until one is. ``now``: monotonic seconds."""
        full = self._full.get(asker, now)
        full = max(full, now)
        over = full - now - self._credit
        if over > 0:
            return over
        if len(self._full) >= _KEPT:
            self._full = {other: time for other, time in self._full.items() if time > now}
        self._full[asker] = full + self._cost
        return 0.0

    def charge(self, asker: Asker, now: float, queries: int) -> None:
        """Count so many more queries: one has turned out to cost as much."""
        if queries:
            full = max(self._full.get(asker, now), now)
            self._full[asker] = full + queries * self._cost


class Shares:
    """Counts things in use, by whom, against a limit each and one for all."""

    def __init__(self, each: int, total: int) -> None:
        self._each = each
        self._total = total
        self._of: dict[Asker, int] = {}
        self.used = 0

    def take(self, asker: Asker) -> bool:
        """Whether there was one left; :meth:`give` it back then."""
        have = self._of.get(asker, 0)
        if have >= self._each or self.used >= self._total:
            return False
        self._of[asker] = have + 1
        self.used += 1
        return True

    def give(self, asker: Asker) -> None:
        self.used -= 1
        left = self._of[asker] - 1
        if left:
            self._of[asker] = left
        else:
            del self._of[asker]


class ForwardRates:
    """Whether a resolver may be asked for somebody now."""

    def __init__(self, limits: LimitsConfig) -> None:
        self._each = Rates(limits.forward_rate, limits.forward_burst)
        self._calm = Rates(limits.forward_calm_rate, limits.forward_calm_burst)
        self._all = Rates(limits.forward_total_rate, limits.forward_total_burst)

    def admit(self, asker: Asker, now: float) -> bool:
        """Counts the question, if it may be asked. ``now``: monotonic seconds."""
        if self._each.delay(asker, now):
            return False
        calm = not self._calm.delay(asker, now)
        return not self._all.delay(EVERYBODY, now) or calm

    def charge(self, asker: Asker, now: float, queries: int) -> None:
        """The question has cost as much as so many more. Little of that is laid to
        all: what one has under way must not make everybody wait."""
        for rates in (self._each, self._calm):
            rates.charge(asker, now, queries)
        self._all.charge(EVERYBODY, now, min(queries, _SHARED_COST))
