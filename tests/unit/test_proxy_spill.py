# SPDX-License-Identifier: Apache-2.0
"""Which machines are full, and who gets what is new then."""

from __future__ import annotations

from typing import Any

import pytest

from flyebpf.model.proxyrows import ProxyClusterRow, ProxyEndpoint
from flyebpf.proxy.resources import endpoints
from flyebpf.proxy.spill import Spill, full

HARD = 2
NEAR, TOO, FAR, GONE = (
    ProxyEndpoint("m1", "172.16.0.2", 80, "ams"),
    ProxyEndpoint("m2", "172.16.0.4", 80, "ams"),
    ProxyEndpoint("m3", "172.17.0.2", 80, "fra", 1),
    ProxyEndpoint("m4", "172.16.0.6", 80, "ams", draining=True),
)


def assignment(*members: ProxyEndpoint) -> dict[str, Any]:
    return endpoints(ProxyClusterRow("web", "web", members, http=True), "web").body


CASES: list[tuple[str, tuple[ProxyEndpoint, ...], dict[str, int], set[str]]] = [
    ("nobody is at work", (NEAR, TOO, FAR), {}, set()),
    ("one has room", (NEAR, TOO, FAR), {"172.16.0.2:80": 2}, set()),
    (
        "all of the region are full",
        (NEAR, TOO, FAR),
        {"172.16.0.2:80": 2, "172.16.0.4:80": 3},
        {"172.16.0.2:80", "172.16.0.4:80"},
    ),
    ("everybody is full", (NEAR, FAR), {"172.16.0.2:80": 2, "172.17.0.2:80": 2}, set()),
    ("there is no other region", (NEAR,), {"172.16.0.2:80": 2}, set()),
    (
        "who gets nothing new has no room either",
        (NEAR, GONE, FAR),
        {"172.16.0.2:80": 2},
        {"172.16.0.2:80"},
    ),
    ("nobody at all", (), {}, set()),
]


@pytest.mark.parametrize(
    ("members", "active", "wanted"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_who_is_marked(
    members: tuple[ProxyEndpoint, ...], active: dict[str, int], wanted: set[str]
) -> None:
    assert full(assignment(*members), active, HARD) == wanted


def draining(body: dict[str, Any]) -> list[str]:
    return [
        member["endpoint"]["address"]["socket_address"]["address"]
        for group in body["endpoints"]
        for member in group["lb_endpoints"]
        if member.get("health_status") == "DRAINING"
    ]


def test_only_what_changes_is_told() -> None:
    spill, plain = Spill(), assignment(NEAR, FAR)
    spill.limit("web", HARD, plain, queue=True)
    assert spill.judge("web", {}) is None
    told = spill.judge("web", {"172.16.0.2:80": 2})
    assert told is not None
    assert draining(told) == ["172.16.0.2"]
    assert draining(plain) == []
    assert spill.judge("web", {"172.16.0.2:80": 2}) is None
    spill.plain("web")  # the plan has told Envoy of them anew
    assert spill.judge("web", {"172.16.0.2:80": 2}) == told
    assert spill.judge("web", {"172.16.0.2:80": 1}) == plain


def test_what_stands_for_machines_is_none() -> None:
    """The endpoint at which clients wait for one to be started."""
    row = ProxyClusterRow("web", "web", (NEAR, FAR), http=True, wakes=True)
    body = endpoints(row, "web", 2).body
    spill = Spill()
    for queue in (True, False):
        spill.limit("web", HARD, body, queue=queue)
        told = spill.judge("web", {"172.16.0.2:80": 2})
        assert told is not None
        assert len(told["endpoints"]) == 3
        assert told["endpoints"][2] == body["endpoints"][2]
        spill.judge("web", {})


def test_without_a_limit_the_marks_go() -> None:
    spill, plain = Spill(), assignment(NEAR, FAR)
    spill.limit("web", HARD, plain, queue=True)
    assert spill.drop("web") is None
    spill.limit("web", HARD, plain, queue=True)
    spill.judge("web", {"172.16.0.2:80": 2})
    assert spill.drop("web") == plain
    assert not spill.has("web")


def test_what_cannot_wait_finds_nobody() -> None:
    """Behind PROXY headers."""
    spill = Spill()
    spill.limit("web", HARD, assignment(NEAR, TOO), queue=False)
    told = spill.judge("web", {"172.16.0.2:80": 2})
    assert told is not None
    assert draining(told) == ["172.16.0.2"]
    told = spill.judge("web", {"172.16.0.2:80": 2, "172.16.0.4:80": 2})
    assert told is not None
    assert draining(told) == ["172.16.0.2", "172.16.0.4"]
