# SPDX-License-Identifier: Apache-2.0
"""What the daemon says of itself while its main thread is at work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flyebpf.api.backend import Delivery, Fill, PoolUse
from flyebpf.bpf.loader import Origin
from flyebpf.config import DaemonConfig, PoolsConfig
from flyebpf.daemon import backend as module
from flyebpf.daemon.backend import DaemonBackend
from flyebpf.daemon.mainloop import MainLoop
from flyebpf.drivers.counters import Counters
from flyebpf.errors import KernelError, UnavailableError
from flyebpf.model.records import Address, AddressKind
from flyebpf.model.vault import Vault
from flyebpf.store.base import Put, Transaction
from flyebpf.store.sqlite import SqliteStore
from tests.fakes_backend import FakeProbes
from tests.fakes_maps import fake_maps

STATS = SimpleNamespace(
    dirty=3,
    rows={"SlotRow": 2},
    failures=1,
    drift_repaired=4,
    last_sync_seconds=0.5,
    last_full_seconds=1.5,
)
ADDRESSES = [
    Address("198.51.100.0", "web", AddressKind.V4),
    Address("198.51.100.3", "web", AddressKind.V4),
    Address("198.51.100.4", "web", AddressKind.V4),  # of a pool that was removed
    Address("203.0.113.9", "web", AddressKind.V4),
    Address("2001:db8::1", "web", AddressKind.V6),
]
ENGINE: Any = SimpleNamespace(
    config=DaemonConfig(
        "h1", "ams", ("eth0",), pools=PoolsConfig(("198.51.100.0/30", "203.0.113.0/24"))
    ),
    netlink=SimpleNamespace(uplinks=SimpleNamespace(modes={"eth0": "native"})),
    reconciler=SimpleNamespace(stats=STATS, failures=(), problems=[]),
    planner=SimpleNamespace(problems={}),
    state=SimpleNamespace(
        quarantined={},
        revision=1,
        addresses={a.address: a for a in ADDRESSES},
        vault=Vault(),
    ),
    maps=SimpleNamespace(
        fill=lambda: {"slots": (95, 100)},
        service_id={"web/tcp/80@a": 1, "web/tcp/80@b": 2}.get,
    ),
    delivery_ways=lambda: {"tap0": "xdp", "tap1": "tc", "tap2": "missing", "tap3": "xdp"},
    slow_interfaces=list,
    services={("app", "web"): ("web/tcp/80@a", "web/tcp/80@b")},
    applied_revision=1,
    loaded=True,
)


def no_nft() -> dict[str, tuple[int, int]]:
    raise KernelError("nft is not installed")


@pytest.fixture
def parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[DaemonBackend, MainLoop, SqliteStore]]:
    monkeypatch.setattr(module, "STATUS_PATIENCE", 0.05)
    store = SqliteStore(tmp_path / "s.db", durable=False)
    store.commit(Transaction((), (Put("app", "a", {}),)))
    loop = MainLoop()
    maps = fake_maps()
    for index in (1, 2):
        maps["service_stats"].update(index.to_bytes(4, "little"), b"\1".ljust(8, b"\0") * 10)
    made = DaemonBackend(
        ENGINE,
        store=store,
        counters=Counters(maps, 16),
        generation=SimpleNamespace(hash="abc", origin=Origin.ADOPTED),  # type: ignore[arg-type]
        loop=loop,
        reread=lambda: ["log.level: info → debug"],
        fences=no_nft,
        probes=FakeProbes(),
    )
    yield made, loop, store
    loop.close()
    store.close()


def test_before_the_first_look_it_says_that_it_is_starting(
    parts: tuple[DaemonBackend, MainLoop, SqliteStore],
) -> None:
    status = parts[0].status()
    assert [problem.object for problem in status.problems] == ["daemon"]
    assert (status.programs, status.adopted) == ("abc", True)


def test_an_older_answer_never_claims_to_be_in_sync(
    parts: tuple[DaemonBackend, MainLoop, SqliteStore],
) -> None:
    backend, _, store = parts
    assert backend.look().in_sync
    store.commit(Transaction((), (Put("app", "b", {}),)))
    status = backend.status()
    assert not status.in_sync
    assert status.rows == {"slot": 2}
    assert [problem.object for problem in status.problems] == ["table of machines"]


def test_use_of_pools_tables_and_ways(
    parts: tuple[DaemonBackend, MainLoop, SqliteStore],
) -> None:
    status = parts[0].look()
    assert status.delivery == Delivery(xdp=2, tc=1, missing=1)
    assert status.pools == [PoolUse("198.51.100.0/30", 2, 4), PoolUse("203.0.113.0/24", 1, 256)]
    assert status.fill["machines"] == Fill(95, 100, "dataplane.machines")
    flows = status.fill["flows"]
    assert flows.sampled
    assert flows.size == DaemonConfig("h1", "ams", ("eth0",)).dataplane.flows


def test_a_store_that_cannot_be_read_is_a_problem_not_the_end_of_status(
    parts: tuple[DaemonBackend, MainLoop, SqliteStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, _, store = parts

    def damaged() -> int:
        raise UnavailableError("cannot read the state file: malformed", "restore it from a copy")

    monkeypatch.setattr(store, "revision", damaged)
    status = backend.look()
    assert status.store_revision == ENGINE.state.revision
    problem = status.problems[0]
    assert (problem.object, problem.message) == ("store", "cannot read the state file: malformed")
    assert "restore it from a copy" in problem.remedy


def test_the_main_thread_answers(parts: tuple[DaemonBackend, MainLoop, SqliteStore]) -> None:
    backend, loop, _ = parts
    thread = threading.Thread(target=loop.run, args=(lambda: 5.0,))
    thread.start()
    assert backend.reload() == ["log.level: info → debug"]
    loop.stop()
    thread.join(2)


def test_counters_are_summed_over_the_vips(
    parts: tuple[DaemonBackend, MainLoop, SqliteStore],
) -> None:
    (counters,) = parts[0].services()
    assert (counters.service, counters.in_packets, counters.flows) == ("web/tcp/80", 4, 4)


def test_metrics_go_on_without_nft(parts: tuple[DaemonBackend, MainLoop, SqliteStore]) -> None:
    assert parts[0].fences() == {}
    assert parts[0].reconciling()["drift_repaired"] == 4
