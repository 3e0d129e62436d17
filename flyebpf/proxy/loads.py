# SPDX-License-Identifier: Apache-2.0
"""What machines have to do through this host's proxy, as the daemon knows it.

Envoy counts, and reports ten times a second (less often of thousands of clusters);
the control plane's process tells the daemon what has changed. Only clusters whose row
is ``watched`` are counted for.

What counts is what a machine is at work on: a request from the moment it is given to
a connection of the machine's until it is answered, a TCP connection as long as it is
open. What waits for a machine at its hard limit is not with the machine yet. Other
hosts' proxies count for themselves.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from flyebpf.proxy.wake import REPORTED

STEP = 5.0
"""``Load.last`` may lag behind by so many seconds while traffic goes on."""
YOUNG = 5.0
"""Seconds until a control plane that has begun has told what there is."""
KEPT = 7200.0
"""Seconds for which a machine without traffic is still known to have had some."""


class Load(NamedTuple):
    """``active``: requests or connections in flight. ``last``: when it last had any,
    seconds of CLOCK_MONOTONIC; the same clock in all processes of a host."""

    active: int
    last: float


class Loads:
    """By cluster (``ProxyClusterRow.name``) and machine's address (``address:port`` of
    its ``ProxyEndpoint``). For any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._of: dict[str, dict[str, Load]] = {}
        self._at: dict[str, int] = {}  # in flight, by address without port
        self._holding: set[str] = set()  # clusters with clients that were held
        self._version = 0
        self._begun = -math.inf

    def of(self, cluster: str) -> Mapping[str, Load] | None:
        """Machines that have had anything to do since the cluster is watched; the
        others had nothing. None: not known, as the cluster is not watched, or Envoy
        or the control plane have only just begun (Envoy may take five seconds to find
        another control plane). Who acts on it waits then."""
        with self._changed:
            found = self._of.get(cluster)
            return None if found is None else dict(found)

    def active(self, address: str) -> int:
        """What a machine at this address has in flight, of all clusters."""
        with self._changed:
            return self._at.get(address, 0)

    def held(self, app: str) -> list[str]:
        """Clusters of an app with clients that a machine was started for."""
        start = f"{app}/"
        with self._changed:
            return [cluster for cluster in self._holding if cluster.startswith(start)]

    @property
    def is_young(self) -> bool:
        """Whether the control plane has begun just now: what is not known may be there."""
        return time.monotonic() - self._begun < YOUNG

    @property
    def version(self) -> int:
        """Another one after each change."""
        return self._version

    def wait(self, version: int, timeout: float) -> int:
        """Until there is a version other than this one, or ``timeout`` seconds: the
        version that there is."""
        with self._changed:
            self._changed.wait_for(lambda: self._version != version, timeout)
            return self._version

    # What the control plane says.

    def take(self, changes: Mapping[str, Mapping[str, Sequence[float]] | None]) -> None:
        """``{cluster: {address: [active, last], …}}``, of what has changed; None for a
        cluster that is not known any more."""
        with self._changed:
            for cluster, machines in changes.items():
                self._count(self._of.get(cluster, {}), -1)
                self._holding.discard(cluster)
                if machines is None:
                    self._of.pop(cluster, None)
                    continue
                old = time.monotonic() - KEPT
                known = self._of.get(cluster, {})
                known = {at: load for at, load in known.items() if load.active or load.last > old}
                for address, (active, last) in machines.items():
                    known[address] = Load(int(active), last)
                self._of[cluster] = known
                self._count(known, 1)
                if REPORTED in known and known[REPORTED].active:
                    self._holding.add(cluster)
            self._version += 1
            self._changed.notify_all()

    def _count(self, machines: Mapping[str, Load], sign: int) -> None:
        for at, load in machines.items():
            if load.active:
                address = at.rpartition(":")[0]
                self._at[address] = self._at.get(address, 0) + sign * load.active
                if not self._at[address]:
                    del self._at[address]

    def forget(self) -> None:
        """There is no control plane now."""
        with self._changed:
            self._begun = time.monotonic()
            self._of.clear()
            self._at.clear()
            self._holding.clear()
            self._version += 1
            self._changed.notify_all()


class Tracker:
    """The control plane's side: what Envoys have reported, and what of it the daemon
    has not been told. ``cluster`` is Envoy's; one of ours (``row``) may be several."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[str, ...]] = {}
        self._row_of: dict[str, str] = {}
        self._active: dict[int, dict[str, dict[str, int]]] = {}  # by stream and cluster
        self._last: dict[str, dict[str, float]] = {}
        self._told: dict[str, dict[str, tuple[int, float]]] = {}
        self._news: dict[str, None] = {}
        self._moved: dict[str, None] = {}

    @property
    def clusters(self) -> list[str]:
        """Of Envoy's, that are watched."""
        return list(self._row_of)

    def watch(self, row: str, clusters: Sequence[str]) -> None:
        before = self._rows.get(row, ())
        self._rows[row] = tuple(clusters)
        for cluster in set(before) - set(clusters):
            self._forget(cluster)
        self._row_of.update(dict.fromkeys(clusters, row))
        self._news[row] = None

    def unwatch(self, row: str) -> None:
        for cluster in self._rows.pop(row, ()):
            self._forget(cluster)
        self._last.pop(row, None)
        self._news[row] = None

    def _forget(self, cluster: str) -> None:
        self._row_of.pop(cluster, None)
        for found in self._active.values():
            found.pop(cluster, None)

    def report(self, stream: int, cluster: str, machines: Mapping[str, tuple[int, int]]) -> None:
        """Of a stream: by address, how many are active and how many have begun since
        its last report; machines without either may be missing."""
        row = self._row_of.get(cluster)
        if row is None:
            return
        found = self._active.setdefault(stream, {})
        before = found.get(cluster)
        found[cluster] = {address: active for address, (active, _) in machines.items() if active}
        if before is None or before or machines:
            now = time.monotonic()
            last = self._last.setdefault(row, {})
            last.update(dict.fromkeys([*(before or ()), *machines], now))
            self._news[row] = self._moved[row] = None

    def drop(self, stream: int) -> None:
        """It has ended: so have its connections."""
        for cluster in self._active.pop(stream, {}):
            row = self._row_of[cluster]
            self._news[row] = self._moved[row] = None

    def active(self, row: str) -> dict[str, int] | None:
        """By address; None before any report."""
        reports = [
            found[cluster]
            for cluster in self._rows.get(row, ())
            for found in self._active.values()
            if cluster in found
        ]
        if not reports:
            return None
        total: dict[str, int] = {}
        for report in reports:
            for address, active in report.items():
                total[address] = total.get(address, 0) + active
        return total

    def take_moved(self) -> list[str]:
        """Rows of which there were reports."""
        moved, self._moved = self._moved, {}
        return list(moved)

    def take_news(self) -> dict[str, dict[str, tuple[int, float]] | None]:
        """What the daemon has to be told, as :meth:`Loads.take` wants it."""
        news, self._news = self._news, {}
        changes: dict[str, dict[str, tuple[int, float]] | None] = {}
        for row in news:
            active = self.active(row)
            if active is None:
                if self._told.pop(row, None) is not None:
                    changes[row] = None
                continue
            first = row not in self._told
            told = self._told.setdefault(row, {})
            new = {
                address: (active.get(address, 0), last)
                for address, last in self._last.get(row, {}).items()
                if _differs(told.get(address), active.get(address, 0), last)
            }
            told.update(new)
            self._prune(row)
            if new or first:
                changes[row] = new
        return changes

    def _prune(self, row: str) -> None:
        """The daemon forgets them too, at the next news."""
        old = time.monotonic() - KEPT
        told = self._told[row]
        for address in [at for at, (active, last) in told.items() if not active and last < old]:
            del told[address]
            self._last[row].pop(address, None)


def _differs(told: tuple[int, float] | None, active: int, last: float) -> bool:
    return told is None or told[0] != active or last - told[1] >= STEP
