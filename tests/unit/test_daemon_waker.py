# SPDX-License-Identifier: Apache-2.0
"""Clusters that are waited for: how many at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flyebpf.daemon.waker import AT_ONCE, AT_ONCE_OF_APP, Waker, Wanted
from flyebpf.proxy import wake
from flyebpf.store.sqlite import SqliteStore
from tests.records import PROXY

FULL = {wake.REFUSED_HEADER: "full"}
NONE = {wake.REFUSED_HEADER: "none"}


class World:
    """A waker that looks when it may."""

    def __init__(self, store: SqliteStore) -> None:
        self.go_on = threading.Event()
        self.answers: dict[str, dict[str, str]] = {}
        self.waker = Waker(PROXY, store, look=self.look, answer=self.answers.__setitem__)

    def look(self, cluster: str) -> Wanted | None:
        self.go_on.wait(30)
        return None

    def threads(self) -> list[threading.Thread]:
        return [one for one in threading.enumerate() if one.name.startswith("wake-")]

    def end(self) -> None:
        self.go_on.set()
        for thread in self.threads():
            thread.join(30)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    store = SqliteStore(tmp_path / "store.db")
    made = World(store)
    yield made
    made.end()
    store.close()


def test_one_app_does_not_take_all_threads(world: World) -> None:
    for number in range(AT_ONCE_OF_APP + 1):
        world.waker.wanted(f"web/{number}:app")
    world.waker.wanted("db/5432:app+tcp")
    assert len(world.threads()) == AT_ONCE_OF_APP + 1
    assert world.answers == {f"web/{AT_ONCE_OF_APP}:app": FULL}
    world.end()
    assert world.answers["web/0:app"] == NONE
    world.waker.wanted(f"web/{AT_ONCE_OF_APP}:app")
    world.end()
    assert world.answers[f"web/{AT_ONCE_OF_APP}:app"] == NONE


def test_many_apps(world: World) -> None:
    for number in range(AT_ONCE + 1):
        world.waker.wanted(f"app{number}/80:app+tcp")
    assert len(world.threads()) == AT_ONCE
    assert world.answers == {f"app{AT_ONCE}/80:app+tcp": {wake.REFUSED_HEADER: wake.CLOSED}}


def test_no_thread(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads what the proxy asks goes on."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        for _ in range(AT_ONCE_OF_APP + 1):
            world.waker.wanted("web/80:app")
    assert world.answers == {"web/80:app": FULL}
    world.waker.wanted("web/80:app")
    world.end()
    assert world.answers == {"web/80:app": NONE}
