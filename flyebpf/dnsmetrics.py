# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics of the DNS process, as it tells them on its socket
(``flyebpf.dns.metrics`` names them)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric

from flyebpf.dns.metrics import BUCKETS

KERNEL = ("AAAA", "NOERROR", "kernel")
"""All that the programs at machines' interfaces answer: type, rcode, path."""


def dns(found: Mapping[str, Any] | None, in_kernel: int) -> Iterator[Metric]:
    """``found``: None while the process is not there. ``in_kernel``: queries that
    the programs have answered."""
    yield GaugeMetricFamily(
        "flyebpf_dns_up", "Whether the DNS process answers the daemon.", int(found is not None)
    )
    queries = CounterMetricFamily(
        "flyebpf_dns_queries",
        "Queries that were answered. path: kernel, or of the DNS process: internal, cache,"
        " stale, forwarded, refused.",
        labels=("type", "rcode", "path"),
    )
    queries.add_metric(KERNEL, in_kernel)
    for kind, rcode, path, count in found["queries"] if found else ():
        queries.add_metric((kind, rcode, path), count)
    yield queries
    if found is None:
        return
    events = CounterMetricFamily(
        "flyebpf_dns_events", "What else the DNS process counts.", labels=("what",)
    )
    for what, count in found["counts"].items():
        events.add_metric((what,), count)
    yield from (events, seconds(found))
    yield from gauges(found)


def seconds(found: Mapping[str, Any]) -> Metric:
    """How long answers took, by path."""
    histogram = HistogramMetricFamily(
        "flyebpf_dns_seconds", "From a query to its answer.", labels=("path",)
    )
    bounds = [*map(str, BUCKETS), "+Inf"]
    for path, counts in found["latency"].items():
        buckets = list(zip(bounds, accumulate(counts), strict=True))
        histogram.add_metric((path,), buckets, found["seconds"][path])
    return histogram


def gauges(found: Mapping[str, Any]) -> Iterator[Metric]:
    yield GaugeMetricFamily("flyebpf_dns_connections", "TCP connections now.", found["connections"])
    yield GaugeMetricFamily(
        "flyebpf_dns_cache_bytes", "Cached answers of resolvers.", found["cache"]["bytes"]
    )
    records = GaugeMetricFamily(
        "flyebpf_dns_records", "Records that names are made of, by kind.", labels=("kind",)
    )
    for kind, count in found["names"].items():
        records.add_metric((kind,), count)
    yield records
    failures = GaugeMetricFamily(
        "flyebpf_dns_upstream_failures",
        "Queries to a resolver that failed since its last answer.",
        labels=("upstream",),
    )
    for upstream, _, count in found["upstreams"]:
        failures.add_metric((upstream,), count)
    yield failures
