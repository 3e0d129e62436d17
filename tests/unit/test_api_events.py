# SPDX-License-Identifier: Apache-2.0
"""The event stream over its socket."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flyebpf.api import events
from flyebpf.api.client import ApiError, Client
from flyebpf.api.components import COMPONENTS
from flyebpf.api.schema import check, ref
from flyebpf.store.base import Change
from tests.fakes_backend import FakeBackend, serving


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[FakeBackend, Client]]:
    with serving(tmp_path) as (backend, path):
        yield backend, Client(path, timeout=10)


def test_changes_arrive_in_order_and_by_their_schema(served: tuple[FakeBackend, Client]) -> None:
    backend, client = served
    start = backend.store.revision()
    stream = client.events()
    assert next(stream) == {"type": "heartbeat", "revision": start}
    for name in ("one", "two", "three"):
        client.post("/v1/orgs", {"name": name})
    orgs = []
    while len(orgs) < 3:
        event = next(stream)
        check(event, ref("Event"), COMPONENTS)
        if event["kind"] == "org":
            orgs.append(event)
    assert [event["id"] for event in orgs] == ["one", "two", "three"]
    revisions = [event["revision"] for event in orgs]
    assert revisions == sorted(revisions)
    stream.close()


def test_a_stream_resumes_after_a_revision(served: tuple[FakeBackend, Client]) -> None:
    backend, client = served
    client.post("/v1/orgs", {"name": "one"})
    middle = backend.store.revision()
    client.post("/v1/orgs", {"name": "two"})
    stream = client.events(middle)
    seen = list(itertools.takewhile(lambda e: e.get("id") != "two", stream))
    assert all(event.get("id") != "one" for event in seen)
    stream.close()


def test_what_hashes_flows_stays_inside(served: tuple[FakeBackend, Client]) -> None:
    _, client = served
    stream = client.events(0)
    for event in stream:
        if event.get("kind") == "cluster":
            assert "seed" not in event["body"]
            assert event["body"]
            break
    stream.close()


@pytest.mark.parametrize("kind", ["key_pair", "self_signed"])
def test_keys_of_certificates_stay_inside(kind: str) -> None:
    """Also what a record that nobody can read may hold of them."""
    body = {"chain": "C", "key": "SECRET", "keys": "SECRET", "unreadable": "SECRET"}
    shown = events.describe(Change(7, kind, "x", body))
    assert shown["body"] == {"chain": "C"}


def test_deletions_have_no_body() -> None:
    shown = events.describe(Change(7, "org", "x", None))
    assert shown == {"type": "delete", "revision": 7, "kind": "org", "id": "x", "body": None}


def test_heartbeats_come_when_nothing_happens(
    served: tuple[FakeBackend, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, client = served
    monkeypatch.setattr(events, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.1)
    stream = client.events()
    beats = [next(stream) for _ in range(3)]
    assert beats == [{"type": "heartbeat", "revision": backend.store.revision()}] * 3
    stream.close()


def test_changes_that_are_gone_are_said_to_be(tmp_path: Path) -> None:
    with serving(tmp_path, changes_kept=2) as (_, path):
        client = Client(path)
        for number in range(20):
            client.post("/v1/orgs", {"name": f"org{number}"})
        with pytest.raises(ApiError) as caught:
            next(client.events(1))
    assert caught.value.http_status == 410
    assert caught.value.code == "gone"


def test_too_many_streams_are_refused(
    served: tuple[FakeBackend, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, client = served
    monkeypatch.setattr(events, "MAX_STREAMS", 2)
    streams = [client.events(), client.events()]
    for stream in streams:
        next(stream)
    with pytest.raises(ApiError) as caught:
        next(client.events())
    assert caught.value.http_status == 503
    for stream in streams:
        stream.close()


def test_streams_end_when_the_server_stops(tmp_path: Path) -> None:
    ended = threading.Event()
    with serving(tmp_path) as (_, path):
        stream = Client(path, timeout=30).events()
        next(stream)

        def follow() -> None:
            for _ in stream:
                pass
            ended.set()

        threading.Thread(target=follow, daemon=True).start()
        started = time.monotonic()
    assert ended.wait(5)
    assert time.monotonic() - started < 4
