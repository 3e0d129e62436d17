# SPDX-License-Identifier: Apache-2.0
"""What the metrics say of the proxy."""

from __future__ import annotations

from prometheus_client.metrics_core import Metric

from flyebpf.proxy.appstats import AppStats
from flyebpf.proxymetrics import proxy

SAID = {
    "up": 1,
    "restarts": 2,
    "control_plane_restarts": 0,
    "resources": {"Cluster": 7},
    "envoy": {
        "http.http.downstream_rq_2xx": 40,
        "http.http.downstream_rq_active": 3,
        "tcp.tcp.downstream_cx_total": 5,
    },
    "apps": ({}, AppStats()),
}


def samples(found: list[Metric]) -> dict[str, float]:
    return {
        f"{sample.name} {' '.join(sample.labels.values())}".strip(): sample.value
        for metric in found
        for sample in metric.samples
    }


def test_all_of_it() -> None:
    found = samples(list(proxy(SAID)))
    assert found["flyebpf_proxy_up"] == 1
    assert found["flyebpf_proxy_restarts_total envoy"] == 2
    assert found["flyebpf_proxy_resources Cluster"] == 7
    assert found["flyebpf_proxy_requests_total 2xx"] == 40
    assert found["flyebpf_proxy_requests_total 5xx"] == 0
    assert found["flyebpf_proxy_active_requests"] == 3
    assert found["flyebpf_proxy_connections_total tcp"] == 5


def test_a_host_without_a_proxy_has_none() -> None:
    assert list(proxy(None)) == []


def test_nothing_is_made_up_while_envoy_is_away() -> None:
    found = samples(list(proxy({**SAID, "up": 0, "envoy": {}, "apps": None})))
    assert found["flyebpf_proxy_up"] == 0
    assert not [name for name in found if "requests" in name]
