# SPDX-License-Identifier: Apache-2.0
"""64,000 allocations at once: no address has two owners, none is lost."""

from __future__ import annotations

import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flyebpf.config import DaemonConfig
from flyebpf.errors import ExhaustedError
from flyebpf.model.records import Address, Machine, PrivateAddress
from flyebpf.ops import addresses, machines
from flyebpf.ops.transact import every
from flyebpf.store.base import Store
from flyebpf.store.sqlite import SqliteStore
from tests.stores import config, region

LARGE = config(pool="198.18.0.0/16")
COUNT = 64_000


def allocate(store: Store, settings: DaemonConfig, app: str, count: int) -> list[str]:
    return [addresses.allocate_v4(store, settings, app).address for _ in range(count)]


def allocate_in_process(path: Path, app: str, count: int) -> list[str]:
    store = SqliteStore(path, durable=False)
    try:
        return allocate(store, LARGE, app, count)
    finally:
        store.close()


def test_64000_allocations_by_processes_and_threads(tmp_path: Path) -> None:
    """Two processes for 16,000 each; then four threads share the rest."""
    with region(tmp_path) as store:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(2, context) as workers:
            jobs = [
                workers.submit(allocate_in_process, store.path, app, COUNT // 4)
                for app in ("web", "db")
            ]
            got = [job.result() for job in jobs]
        with ThreadPoolExecutor(4) as threads:
            more = [
                threads.submit(allocate, store, LARGE, app, COUNT // 8)
                for app in ("web", "db", "web", "db")
            ]
            got += [job.result() for job in more]
        given_out = [address for part in got for address in part]
        assert len(given_out) == len(set(given_out)) == COUNT
        assert {entry.id for entry in store.list(Address.kind)} == set(given_out)


def test_machines_added_by_threads_share_nothing(tmp_path: Path) -> None:
    with region(tmp_path) as store:

        def add(worker: int) -> list[Machine]:
            return [
                machines.add(
                    store,
                    config(),
                    "web",
                    interface=f"tap{worker}-{number}",
                    mac="02:00:00:00:00:01",
                )
                for number in range(50)
            ]

        with ThreadPoolExecutor(4) as threads:
            made = [machine for part in threads.map(add, range(4)) for machine in part]
        used = [address for m in made for address in (m.private_ip, m.services_ip)]
        assert len(set(used)) == len(used) == 400
        assert len({m.number for m in made}) == 200
        assert {record.address for record in every(store, PrivateAddress)} == set(used)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(plan=st.lists(st.lists(st.booleans(), max_size=12), min_size=2, max_size=4))
def test_threads_that_allocate_and_release(tmp_path: Path, plan: list[list[bool]]) -> None:
    """Each thread allocates (True) or releases its oldest (False) in a pool that
    is too small for all; an address is never with two of them."""
    small = config(pool="203.0.113.0/29")
    owners: dict[str, int] = {}
    lock = threading.Lock()

    def work(store: Store, worker: int) -> list[str]:
        mine: list[str] = []
        for allocating in plan[worker]:
            if allocating:
                try:
                    address = addresses.allocate_v4(store, small, "web").address
                except ExhaustedError:
                    continue
                with lock:
                    assert owners.setdefault(address, worker) == worker
                mine.append(address)
            elif mine:
                address = mine.pop(0)
                with lock:
                    del owners[address]
                addresses.release(store, "web", [address])
        return mine

    (tmp_path / "state.db").unlink(missing_ok=True)
    with region(tmp_path) as store:
        with ThreadPoolExecutor(len(plan)) as threads:
            kept = list(threads.map(work, [store] * len(plan), range(len(plan))))
        held = [address for part in kept for address in part]
        assert sorted(held) == sorted(a.address for a in addresses.list_all(store, "web"))
