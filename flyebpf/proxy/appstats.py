# SPDX-License-Identifier: Apache-2.0
"""What Envoy counts of each app.

All clusters of an app count under one name, and Envoy makes a counter when there is
something to count (``deferred_stat_options``): an app without traffic has none, in
Envoy's memory as in the metrics. Read as text from ``/stats``: a line a counter,
histograms as ``B<milliseconds>(<since the last flush>,<in all>)``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
PREFIX = "app/"
_KEPT = r"rq_[1-5]xx|rq_active|rq_pending_active|rq_time|cx_total|cx_active"
PATTERN = rf"^cluster\.{PREFIX}[a-z0-9-]+\.upstream_({_KEPT})$"
TARGET = "/stats?histogram_buckets=cumulative&filter=^cluster%5C.app/"
"""What to ask Envoy's admin interface for."""
BUCKETS = (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000)
"""Milliseconds."""
LONGEST = 86_400_000
"""Milliseconds, below which all are: Envoy says nothing of what is above its buckets."""
CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")
_LINE = re.compile(rf"cluster\.{PREFIX}([a-z0-9-]+)\.upstream_(\w+): (.+)")
_BUCKET = re.compile(r"B([0-9.e+]+)\([0-9]+,([0-9]+)\)")


def name_of(app: str) -> str:
    """What an app's clusters count under; no cluster of another kind is called so."""
    return f"{PREFIX}{app}"


def settings() -> tuple[Json, Json]:
    """Of Envoy's ``stats_config``: a pattern of what to keep, and buckets."""
    buckets = {
        "match": {"prefix": f"cluster.{PREFIX}"},
        "buckets": [float(bucket) for bucket in (*BUCKETS, LONGEST)],
    }
    return {"safe_regex": {"regex": PATTERN}}, buckets


@dataclass(slots=True)
class AppStats:
    """``codes``: answers by class. ``active``, ``queued``: requests now.
    ``connections``: to machines, in all; ``connected``: now. ``buckets``: requests that
    took so many milliseconds or less; ``timed``: all that were."""

    codes: dict[str, int] = field(default_factory=dict)
    active: int = 0
    queued: int = 0
    connections: int = 0
    connected: int = 0
    buckets: dict[int, int] = field(default_factory=dict)
    timed: int = 0


def parse(text: str) -> dict[str, AppStats]:
    """By app, in the order of names."""
    found: dict[str, AppStats] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is not None:
            app, stat, value = match.groups()
            _take(found.setdefault(app, AppStats()), stat, value)
    return found


def _take(of: AppStats, stat: str, value: str) -> None:
    match stat:
        case "rq_active":
            of.active = int(value)
        case "rq_pending_active":
            of.queued = int(value)
        case "cx_total":
            of.connections = int(value)
        case "cx_active":
            of.connected = int(value)
        case "rq_time":
            _take_times(of, value)
        case _ if stat.startswith("rq_") and stat[3:] in CLASSES:
            of.codes[stat[3:]] = int(value)


def _take_times(of: AppStats, value: str) -> None:
    """Without any there is no bucket."""
    found = {round(float(bound)): int(count) for bound, count in _BUCKET.findall(value)}
    of.timed = found.pop(LONGEST, 0)
    of.buckets = found


Counted = dict[str, int]


class Shown:
    """Which apps have series of their own: those that had traffic first, ``most`` of
    them. The others are one. Not for several threads.

    Counters of that one only grow: what an app has more than the last time is added,
    so that neither an app that goes nor an Envoy that begins anew makes it less.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._own: dict[str, None] = {}
        self._last: dict[str, Counted] = {}
        self._rest: Counted = {}

    def split(self, found: Mapping[str, AppStats]) -> tuple[dict[str, AppStats], AppStats]:
        """Apps with their own, and all others."""
        for app in [app for app in self._own if app not in found]:
            del self._own[app]
        for app in found:
            if len(self._own) < self._most and app not in self._last:
                self._own.setdefault(app)
        own = {app: found[app] for app in self._own}
        others = {app: stats for app, stats in found.items() if app not in own}
        return own, self._together(others)

    def _together(self, others: Mapping[str, AppStats]) -> AppStats:
        for app, stats in others.items():
            now, before = _counted(stats), self._last.get(app, {})
            for name, value in now.items():
                grown = value - before.get(name, 0)
                self._rest[name] = self._rest.get(name, 0) + (grown if grown >= 0 else value)
            self._last[app] = now
        for app in [app for app in self._last if app not in others]:
            del self._last[app]
        rest = AppStats(
            active=sum(stats.active for stats in others.values()),
            queued=sum(stats.queued for stats in others.values()),
            connected=sum(stats.connected for stats in others.values()),
            connections=self._rest.get("connections", 0),
            timed=self._rest.get("timed", 0),
        )
        for name, value in self._rest.items():
            if name in CLASSES:
                rest.codes[name] = value
            elif name.isdigit():
                rest.buckets[int(name)] = value
        return rest


def _counted(stats: AppStats) -> Counted:
    buckets = {str(bound): count for bound, count in stats.buckets.items()}
    return {
        **stats.codes,
        **buckets,
        "connections": stats.connections,
        "timed": stats.timed,
    }
