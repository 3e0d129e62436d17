# SPDX-License-Identifier: Apache-2.0
"""What is known of machines' loads: reports of Envoys in, what the daemon knows out."""

from __future__ import annotations

import json
import threading
import time

import pytest

from flyebpf.proxy import loads
from flyebpf.proxy.loads import Loads, Tracker

WEB, ONE, TWO = "web/8080:app", "172.16.0.2:8080", "172.16.0.4:8080"


class Pair:
    """Both sides, and the pipe between them."""

    def __init__(self) -> None:
        self.tracker, self.loads = Tracker(), Loads()

    def tell(self) -> bool:
        news = self.tracker.take_news()
        self.loads.take(json.loads(json.dumps(news)))
        return bool(news)

    def active(self, row: str = WEB) -> dict[str, int] | None:
        found = self.loads.of(row)
        return None if found is None else {at: load.active for at, load in found.items()}


@pytest.fixture
def pair() -> Pair:
    made = Pair()
    made.tracker.watch(WEB, [WEB])
    return made


def test_nothing_is_known_before_a_report(pair: Pair) -> None:
    pair.tell()
    assert pair.active() is None
    pair.tracker.report(1, WEB, {})
    pair.tell()
    assert pair.active() == {}


def test_only_what_has_changed_is_told(pair: Pair) -> None:
    pair.tracker.report(1, WEB, {ONE: (3, 3), TWO: (1, 1)})
    assert pair.tell()
    pair.tracker.report(1, WEB, {ONE: (3, 0), TWO: (0, 0)})
    assert list(pair.tracker.take_news()[WEB] or {}) == [TWO]
    pair.tracker.report(1, WEB, {ONE: (3, 0)})
    assert not pair.tell()


def test_time_of_the_last_traffic(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came and went between two reports counts; and going on is told of now and
    then."""
    pair.tracker.report(1, WEB, {ONE: (0, 7)})
    pair.tell()
    known = pair.loads.of(WEB)
    assert known is not None
    assert known[ONE].active == 0
    assert abs(known[ONE].last - time.monotonic()) < 60
    pair.tracker.report(1, WEB, {ONE: (0, 1)})
    assert not pair.tell()
    monkeypatch.setattr(loads, "STEP", 0.0)
    pair.tracker.report(1, WEB, {ONE: (0, 1)})
    assert pair.tell()


def test_a_row_is_several_clusters_and_several_envoys(pair: Pair) -> None:
    pair.tracker.watch("raw", ["raw/a:1", "raw/b:1"])
    pair.tracker.report(1, "raw/a:1", {ONE: (1, 1)})
    pair.tracker.report(1, "raw/b:1", {ONE: (2, 2)})
    pair.tracker.report(2, "raw/a:1", {ONE: (4, 4)})
    pair.tell()
    assert pair.active("raw") == {ONE: 7}
    pair.tracker.drop(1)
    pair.tell()
    assert pair.active("raw") == {ONE: 4}
    pair.tracker.watch("raw", ["raw/b:1"])
    pair.tell()
    assert pair.active("raw") is None


def test_who_ends_is_not_known(pair: Pair) -> None:
    pair.tracker.report(1, WEB, {ONE: (3, 3)})
    pair.tell()
    pair.tracker.drop(1)
    pair.tell()
    assert pair.active() is None
    pair.tracker.report(2, WEB, {})
    pair.tell()
    assert pair.active() == {ONE: 0}
    pair.tracker.unwatch(WEB)
    pair.tell()
    assert pair.active() is None
    pair.tracker.report(2, WEB, {ONE: (1, 1)})
    assert not pair.tell()


def test_machines_without_traffic_are_forgotten(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.tracker.report(1, WEB, {ONE: (1, 1), TWO: (1, 1)})
    pair.tell()
    monkeypatch.setattr(loads, "KEPT", 0.0)
    pair.tracker.report(1, WEB, {ONE: (1, 1), TWO: (0, 0)})
    pair.tell()
    pair.tracker.report(1, WEB, {ONE: (2, 1)})
    pair.tell()
    assert pair.active() == {ONE: 2}


def test_a_machine_of_several_clusters(pair: Pair) -> None:
    address = ONE.partition(":")[0]
    pair.tracker.watch("raw", ["raw"])
    pair.tracker.report(1, WEB, {ONE: (2, 2), TWO: (5, 5)})
    pair.tracker.report(1, "raw", {f"{address}:99": (3, 3)})
    pair.tell()
    assert pair.loads.active(address) == 5
    assert pair.loads.active(address[:-1]) == 0
    pair.tracker.report(1, WEB, {TWO: (5, 0)})
    pair.tell()
    assert pair.loads.active(address) == 3
    pair.tracker.unwatch("raw")
    pair.tell()
    assert pair.loads.active(address) == 0
    pair.loads.forget()
    assert pair.loads.active(TWO.partition(":")[0]) == 0


def test_waiting(pair: Pair) -> None:
    version = pair.loads.version
    assert pair.loads.wait(version, 0.0) == version
    pair.tracker.report(1, WEB, {ONE: (1, 1)})
    threading.Timer(0.05, pair.tell).start()
    assert pair.loads.wait(version, 30.0) != version
    pair.loads.forget()
    assert pair.active() is None
