# SPDX-License-Identifier: Apache-2.0
"""What the reconciler says about itself in ``status`` and metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stats:
    """``rows``: desired ones by kind. ``dirty``: not known to be applied, the
    failed ones included. ``drift_repaired``: rows that somebody else had
    changed. ``last_sync_seconds``: of the last pass."""

    rows: dict[str, int]
    dirty: int
    failures: int
    drift_repaired: int
    last_sync_seconds: float
    last_full_seconds: float
    complete: bool
