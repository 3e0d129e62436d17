# SPDX-License-Identifier: Apache-2.0
"""Durations as fly.toml writes them: ``"15s"``, ``"1m30s"``, ``15000``."""

from __future__ import annotations

import math
import re

_UNITS = {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4, "h": 36e5}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s|m|h)")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")
_BARE = re.compile(r"[0-9]+")
_LONGEST = 64  # characters
_LARGEST = 1 << 53  # an integer above may not fit a float


def milliseconds(value: object) -> float | None:
    """A duration in milliseconds, which bare numbers are already; None if the
    value is none."""
    if isinstance(value, str):
        return _from_text(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not 0 <= value < math.inf:
        return None
    return float(min(value, _LARGEST))


def _from_text(text: str) -> float | None:
    if len(text) > _LONGEST:
        return None
    if _BARE.fullmatch(text):
        return float(text)
    if not _WHOLE.fullmatch(text):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
