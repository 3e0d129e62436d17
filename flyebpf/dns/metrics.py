# SPDX-License-Identifier: Apache-2.0
"""What the server counts. Plain numbers; whoever shows them names them."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from typing import Any

from flyebpf.dns.wire import Rcode

TYPES = {
    1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 15: "MX", 16: "TXT", 28: "AAAA",
    33: "SRV", 43: "DS", 48: "DNSKEY", 64: "SVCB", 65: "HTTPS", 255: "ANY",
}  # fmt: skip
BUCKETS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds of the latency histogram, seconds; one more bucket is open."""

COUNTS = {
    "malformed": "queries answered with FORMERR or NOTIMP",
    "silent": "messages that are no queries and were not answered",
    "stranger": "queries from or to addresses that nobody may use here",
    "limited": "queries over their machine's rate: by UDP dropped, by TCP delayed",
    "unsent": "answers that the kernel did not take",
    "connections": "TCP connections accepted",
    "connections_refused": "TCP connections over a limit, reset",
    "connections_idle": "TCP connections closed because they said or took nothing",
    "forward_limited": "queries over a limit of forwarding",
    "shared": "queries that waited for another one's answer",
    "cache_hits": "answers from the cache",
    "cache_misses": "questions that the cache could not answer",
    "stale": "answers from the cache after their time, the resolvers being away",
    "scrubbed": "answers of resolvers with records that may not come from outside",
    "spoofed": "datagrams that did not fit the query they came for",
    "upstream_queries": "queries sent to resolvers",
    "upstream_tcp": "of them by TCP",
    "upstream_failures": "queries to resolvers without a usable answer",
    "faults": "faults of the server itself, answered with SERVFAIL",
}


class Metrics:
    """``queries``: (type, rcode, path) to how many; paths are internal, cache,
    stale, forwarded and refused. ``latency``: path to counts by bucket, ``seconds``:
    path to their sum."""

    def __init__(self) -> None:
        self.queries: dict[tuple[int, int, str], int] = defaultdict(int)
        self.latency: dict[str, list[int]] = defaultdict(lambda: [0] * (len(BUCKETS) + 1))
        self.seconds: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = dict.fromkeys(COUNTS, 0)

    def answered(self, type: int, rcode: int, path: str, seconds: float) -> None:
        self.queries[type if type in TYPES else 0, rcode, path] += 1
        self.latency[path][bisect_left(BUCKETS, seconds)] += 1
        self.seconds[path] += seconds

    def count(self, what: str) -> None:
        """One more of what ``COUNTS`` names."""
        self.counts[what] += 1

    def snapshot(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {
            "queries": [
                [TYPES.get(asked, "other"), rcode_name(rcode), path, count]
                for (asked, rcode, path), count in self.queries.items()
            ],
            "latency": {path: list(counts) for path, counts in self.latency.items()},
            "seconds": dict(self.seconds),
            "counts": dict(self.counts),
        }


def rcode_name(rcode: int) -> str:
    try:
        return Rcode(rcode).name
    except ValueError:
        return str(rcode)
