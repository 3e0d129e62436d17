# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics of the proxy: of its processes, and what Envoy counts of all
apps together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric

from flyebpf.proxy.appstats import AppStats

CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")
HTTP = "http.http.downstream"
GAUGES = {
    "flyebpf_proxy_active_requests": ("HTTP requests that are being served.", f"{HTTP}_rq_active"),
    "flyebpf_proxy_memory_bytes": ("Memory that Envoy has in use.", "server.memory_allocated"),
}
APP_GAUGES = {
    "active_requests": "Requests that an app's machines have now.",
    "queued_requests": "Requests that wait for a machine now.",
    "active_connections": "Connections to an app's machines now.",
}
REST = "_rest"
"""Stands for all apps without metrics of their own; no app is called so."""
CONNECTIONS = {"http": f"{HTTP}_cx", "tcp": "tcp.tcp.downstream_cx"}


def proxy(found: Mapping[str, Any] | None) -> Iterator[Metric]:
    """``found``: as ``daemon.proxy.ProxyAgent.metrics`` says; None: no proxy here."""
    if found is None:
        return
    yield GaugeMetricFamily("flyebpf_proxy_up", "Whether Envoy serves.", found["up"])
    restarts = CounterMetricFamily(
        "flyebpf_proxy_restarts", "Processes that ended by themselves.", labels=("process",)
    )
    restarts.add_metric(("envoy",), found["restarts"])
    restarts.add_metric(("control_plane",), found["control_plane_restarts"])
    resources = GaugeMetricFamily(
        "flyebpf_proxy_resources", "What Envoy has been told of, by kind.", labels=("kind",)
    )
    for kind, count in found["resources"].items():
        resources.add_metric((kind,), count)
    yield from (restarts, resources)
    checks = GaugeMetricFamily(
        "flyebpf_checks", "Health checks of this host's machines.", labels=("status",)
    )
    for status, count in found.get("checks", {}).items():
        checks.add_metric((status,), count)
    yield checks
    yield from _envoy(found["envoy"])
    if found["apps"] is not None:
        own, rest = found["apps"]
        yield from apps({**own, REST: rest})


def apps(found: Mapping[str, AppStats]) -> Iterator[Metric]:
    """What Envoy counts of apps."""
    requests = CounterMetricFamily(
        "flyebpf_app_requests",
        "Requests to an app's machines that were answered, or could not be.",
        labels=("app", "code"),
    )
    connections = CounterMetricFamily(
        "flyebpf_app_connections", "Connections to an app's machines.", labels=("app",)
    )
    gauges = {
        name: GaugeMetricFamily(f"flyebpf_app_{name}", text, labels=("app",))
        for name, text in APP_GAUGES.items()
    }
    seconds = HistogramMetricFamily(
        "flyebpf_app_request_seconds",
        "How long machines took to answer.",
        labels=("app",),
    )
    for app, stats in found.items():
        for code in CLASSES:
            requests.add_metric((app, code), stats.codes.get(code, 0))
        connections.add_metric((app,), stats.connections)
        for name, value in zip(gauges, (stats.active, stats.queued, stats.connected), strict=True):
            gauges[name].add_metric((app,), value)
        if stats.buckets:
            seconds.add_metric((app,), _buckets(stats), None)
    yield from (requests, connections, *gauges.values(), seconds)


def _buckets(stats: AppStats) -> list[tuple[str, float]]:
    """Envoy tells of no sum."""
    found = [(str(bound / 1000), float(count)) for bound, count in sorted(stats.buckets.items())]
    return [*found, ("+Inf", float(stats.timed))]


def _envoy(stats: Mapping[str, int]) -> Iterator[Metric]:
    """Nothing while it does not answer."""
    if not stats:
        return
    requests = CounterMetricFamily(
        "flyebpf_proxy_requests", "HTTP requests that were answered.", labels=("code",)
    )
    for code in CLASSES:
        requests.add_metric((code,), stats.get(f"{HTTP}_rq_{code}", 0))
    connections = CounterMetricFamily(
        "flyebpf_proxy_connections", "Connections of clients.", labels=("chain",)
    )
    active = GaugeMetricFamily(
        "flyebpf_proxy_active_connections", "Connections of clients now.", labels=("chain",)
    )
    for chain, stat in CONNECTIONS.items():
        connections.add_metric((chain,), stats.get(f"{stat}_total", 0))
        active.add_metric((chain,), stats.get(f"{stat}_active", 0))
    yield from (requests, connections, active)
    for name, (text, stat) in GAUGES.items():
        yield GaugeMetricFamily(name, text, stats.get(stat, 0))
