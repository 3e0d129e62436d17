# SPDX-License-Identifier: Apache-2.0
"""Leases beside the watch, which tells of every change in its own thread."""

from __future__ import annotations

import threading
from typing import Any

from flyebpf.store.etcdkeys import RawChange
from flyebpf.store.etcdlease import Leases


class SlowMembers:
    """What leases need of the members: an answer that takes its time."""

    def __init__(self) -> None:
        self.asked, self.go_on = threading.Event(), threading.Event()

    def read(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert (path, body["TTL"]) == ("/lease/grant", "10")
        self.asked.set()
        assert self.go_on.wait(10)
        return {"ID": "77"}


def test_the_watch_does_not_wait_for_a_lease() -> None:
    members = SlowMembers()
    leases = Leases(members)  # type: ignore[arg-type]
    found: list[str] = []
    asking = threading.Thread(target=lambda: found.append(leases.of(10)))
    asking.start()
    assert members.asked.wait(5)
    change = RawChange(5, "presence", "h1", "{}")
    watch = threading.Thread(target=leases.heard, args=((change,),))
    watch.start()
    watch.join(5)
    waits = watch.is_alive()
    members.go_on.set()
    asking.join(5)
    watch.join(5)
    assert not waits
    assert found == ["77"]
    assert leases.of(10) == "77", "it is known now"
