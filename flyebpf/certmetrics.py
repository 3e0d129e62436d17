# SPDX-License-Identifier: Apache-2.0
"""Metrics of certificates: few, whatever their number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric


def certificates(ends: Sequence[str]) -> Iterator[Metric]:
    """``ends``: when each of them expires, RFC 3339 in UTC."""
    yield GaugeMetricFamily("flyebpf_certificates", "Certificates of host names.", len(ends))
    # All of one form, so the earliest comes first as text.
    found = next((seconds for text in sorted(ends) if (seconds := _seconds(text))), None)
    if found is not None:
        yield GaugeMetricFamily(
            "flyebpf_certificate_first_end_timestamp_seconds",
            "When the first of them expires; `flyebpf certs list` says which.",
            found,
        )


def _seconds(text: str) -> float | None:
    """Since 1970; None for what is no time."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
