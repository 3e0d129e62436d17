# SPDX-License-Identifier: Apache-2.0
"""Which machines get nothing new because they are full, so that another region's help.

Envoy gives requests to the first priority that has a healthy machine, and the least
loaded of its machines; at the hard limit they wait there. Once all of a priority are
full they are marked as draining, and the next priority gets what is new, as long as
it has room. Where nobody has, nobody is marked: requests wait for the nearest.

Behind a PROXY header every connection is made for one client, and Envoy lets each have
one whatever the limit. There all that are full are marked, and nothing waits.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from flyebpf.proxy.names import at

Json = dict[str, Any]
HEALTHY = "HEALTHY"


class Spill:
    """Clusters with a hard limit, and who of their machines is marked.

    ``endpoints`` is a ClusterLoadAssignment as JSON, as ``resources.endpoints`` makes
    it."""

    def __init__(self) -> None:
        self._limits: dict[str, tuple[int, bool, Json]] = {}
        self._marked: dict[str, frozenset[str]] = {}

    def limit(self, cluster: str, hard: int, endpoints: Json, *, queue: bool) -> None:
        """``queue``: who finds all of them full waits."""
        self._limits[cluster] = hard, queue, endpoints

    def has(self, cluster: str) -> bool:
        return cluster in self._limits

    def plain(self, cluster: str) -> None:
        """Envoy is told of the endpoints without any mark."""
        self._marked.pop(cluster, None)

    def drop(self, cluster: str) -> Json | None:
        """There is no limit any more: the endpoints, if they have to be told again."""
        limit, marked = self._limits.pop(cluster, None), self._marked.pop(cluster, None)
        return limit[-1] if limit and marked else None

    def judge(self, cluster: str, active: Mapping[str, int]) -> Json | None:
        """By what machines have in flight: the endpoints as Envoy is to know them, if
        that has changed."""
        hard, queue, endpoints = self._limits[cluster]
        marked = (full if queue else each_full)(endpoints, active, hard)
        if marked == self._marked.get(cluster, frozenset()):
            return None
        self._marked[cluster] = marked
        return _mark(endpoints, marked)


def full(endpoints: Json, active: Mapping[str, int], hard: int) -> frozenset[str]:
    """Addresses of the machines that are to be marked."""
    found: set[str] = set()
    groups: dict[int, list[str]] = {}
    for group in endpoints["endpoints"]:
        usable = [_at(member) for member in _machines(group) if _usable(member)]
        groups.setdefault(group["priority"], []).extend(usable)
    for _, addresses in sorted(groups.items()):
        if any(active.get(address, 0) < hard for address in addresses):
            return frozenset(found)
        found.update(addresses)
    return frozenset()


def each_full(endpoints: Json, active: Mapping[str, int], hard: int) -> frozenset[str]:
    """Addresses of all machines at the limit."""
    members = (member for group in endpoints["endpoints"] for member in _machines(group))
    return frozenset(_at(member) for member in members if active.get(_at(member), 0) >= hard)


def _machines(group: Json) -> list[Json]:
    """Without what stands for machines that are to be started (``proxy.wake``)."""
    members = group["lb_endpoints"]
    return [m for m in members if "socket_address" in m["endpoint"]["address"]]


def _usable(member: Json) -> bool:
    return bool(member.get("health_status", HEALTHY) == HEALTHY)


def _at(member: Json) -> str:
    address = member["endpoint"]["address"]["socket_address"]
    return at(address["address"], address["port_value"])


def _mark(endpoints: Json, marked: frozenset[str]) -> Json:
    if not marked:
        return endpoints
    changed = copy.deepcopy(endpoints)
    for group in changed["endpoints"]:
        for member in _machines(group):
            if _at(member) in marked:
                member["health_status"] = "DRAINING"
    return changed
