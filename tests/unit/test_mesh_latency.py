# SPDX-License-Identifier: Apache-2.0
"""Round-trip times: what is kept, and what is published."""

from __future__ import annotations

import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyebpf.daemon.mesh_latency import (
    ENOUGH,
    HEADER,
    LOST,
    PAYLOAD,
    REPLY,
    REQUEST,
    SAMPLES,
    WAIT,
    Echo,
    Times,
    by_region,
    read_reply,
    worth_telling,
)


def test_a_host_has_a_time_after_enough_answers() -> None:
    times = Times()
    for number in range(ENOUGH):
        assert times.medians() == {}
        times.add(["a"], {"a": 0.001 * (number + 1)})
    assert times.medians() == {"a": 0.002}


def test_one_late_answer_does_not_count() -> None:
    times = Times()
    for seconds in (0.010, 0.011, 5.0, 0.010, 0.012):
        times.add(["a"], {"a": seconds})
    assert times.medians() == {"a": 0.011}


def test_only_the_last_samples_count() -> None:
    times = Times()
    for _ in range(20):
        times.add(["a"], {"a": 1.0})
    for _ in range(SAMPLES):
        times.add(["a"], {"a": 2.0})
    assert times.medians() == {"a": 2.0}


def test_a_host_that_does_not_answer_is_forgotten_after_a_while() -> None:
    times = Times()
    for _ in range(SAMPLES):
        times.add(["a", "b"], {"a": 1.0, "b": 1.0})
    for _ in range(LOST - 1):
        times.add(["a", "b"], {"b": 1.0})
        assert "a" in times.medians()
    times.add(["a", "b"], {"b": 1.0})
    assert times.medians() == {"b": 1.0}
    times.add(["b"], {"b": 1.0})
    times.add([], {})
    assert times.medians() == {}, "a host that is gone"


def test_a_region_is_as_far_as_the_median_of_its_hosts() -> None:
    regions = {"a": "ams", "b": "ams", "c": "ams", "d": "fra", "gone": "iad"}
    times = {"a": 0.001, "b": 0.002, "c": 0.9, "d": 0.0000001, "stranger": 1.0}
    assert by_region(times, regions) == {"ams": 2000, "fra": 1}


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({}, {}, False),
        ({}, {"ams": 5}, True),
        ({"ams": 5}, {}, True),
        ({"ams": 1000}, {"ams": 1199}, False),
        ({"ams": 1000}, {"ams": 1200}, True),
        ({"ams": 1000}, {"ams": 801}, False),
        ({"ams": 1000}, {"ams": 800}, True),
        ({"ams": 1000, "fra": 9000}, {"ams": 1000, "fra": 9000}, False),
    ],
)
def test_only_a_change_by_a_fifth_is_told(
    before: dict[str, int], now: dict[str, int], told: bool
) -> None:
    assert worth_telling(before, now) is told


MARK = b"12345678"


def reply(kind: int = REPLY, mark: bytes = MARK, number: int = 77) -> bytes:
    return HEADER.pack(kind, 0, 0, 0, 0) + PAYLOAD.pack(mark, number)


def test_only_answers_to_ours_are_read() -> None:
    assert read_reply(reply(), MARK) == 77
    assert read_reply(reply(kind=REQUEST), MARK) == -1
    assert read_reply(reply(mark=b"87654321"), MARK) == -1
    assert read_reply(reply() + b"x", MARK) == -1


@given(st.binary(max_size=64))
def test_anything_may_arrive(data: bytes) -> None:
    assert read_reply(data, MARK) == -1


@pytest.mark.root
def test_echoes_really_come_back() -> None:
    with Echo("::1") as echo:
        begun = time.monotonic()
        answers = echo.round({"here": "::1"})
        assert time.monotonic() - begun < WAIT, "it does not wait for nothing"
        assert 0 < answers["here"] < 1
        assert echo.round({"nobody": "100::1"}) == {}


@pytest.mark.root
def test_a_source_that_this_host_does_not_have_is_an_error() -> None:
    with pytest.raises(OSError, match="assign"):
        Echo("fdaa:8000:1::1")
    assert socket.has_ipv6
