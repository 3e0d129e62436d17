# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest

from flyebpf.flytoml.durations import milliseconds


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("15s", 15_000),
        ("1m", 60_000),
        ("1m30s", 90_000),
        ("1.5s", 1_500),
        ("500ms", 500),
        ("1h", 3_600_000),
        ("250us", 0.25),
        ("15000", 15_000),
        (15_000, 15_000),
        (1_500.5, 1_500.5),
        (0, 0),
        (10**400, 2**53),
    ],
)
def test_durations(value: object, expected: float) -> None:
    assert milliseconds(value) == pytest.approx(expected)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "s",
        "1 s",
        "1x",
        "-1s",
        "1.s",
        "1s2",
        "٣s",
        -1,
        True,
        math.inf,
        math.nan,
        None,
        [],
        "9" * 65,
    ],
)
def test_what_is_no_duration(value: object) -> None:
    assert milliseconds(value) is None
