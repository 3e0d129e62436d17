# SPDX-License-Identifier: Apache-2.0
"""The two engines of the store: commits, how soon others hear of them, reading
everything, and what it costs that members of etcd are killed.

``python -m bench.store [--json]``. etcd has three real members on this machine,
whose disk and processors they share. *heard*: from the call of commit until
another client, which waits, has the change.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from bench import rig
from flyebpf.store.base import Put, Store, StoreUnavailableError, Transaction
from flyebpf.store.etcd import EtcdStore
from flyebpf.store.sqlite import SqliteStore
from tests.etcdrig import EtcdCluster, etcd

SIZES = (1, 1_000, 100_000)
BATCH = 1_000
COMMITS = 200
KILLS = int(next((word for word in sys.argv[1:] if word.isdigit()), "6"))
KILL_EVERY = 10.0  # seconds
Open = Callable[[], Store]


def body(number: int) -> dict[str, object]:
    """About what a machine's record is."""
    return {"number": number, "text": "x" * 300}


def fill(store: Store, count: int) -> None:
    for start in range(0, count, BATCH):
        numbers = range(start, min(start + BATCH, count))
        writes = tuple(Put("thing", f"{number:08}", body(number)) for number in numbers)
        store.commit(Transaction(writes=writes))


class Listener:
    """Another client, and when it heard of each value."""

    def __init__(self, store: Store) -> None:
        self.heard: dict[int, float] = {}
        self._store = store
        self._since = store.revision()
        self._done = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._done:
            if not self._store.wait(self._since, 0.2):
                continue
            now = time.perf_counter()
            for change in self._store.changes(self._since):
                self._since = change.revision
                if change.body is not None:
                    self.heard[change.body["number"]] = now

    def end(self) -> None:
        self._done = True
        self._thread.join()


def measure(engine: str, count: int, open_store: Open) -> list[object]:
    with closing(open_store()) as store, closing(open_store()) as other:
        begun = time.perf_counter()
        fill(store, count)
        filled = time.perf_counter() - begun
        begun = time.perf_counter()
        _, entries = store.snapshot()
        assert sum(1 for _ in entries) == count
        read = time.perf_counter() - begun
        listener = Listener(other)
        started: dict[int, float] = {}
        took = []
        for number in range(10_000_000, 10_000_000 + COMMITS):
            started[number] = time.perf_counter()
            put = Put("thing", f"{number % count:08}", body(number))
            store.commit(Transaction(writes=(put,)))
            took.append(1000 * (time.perf_counter() - started[number]))
            time.sleep(0.005)
        time.sleep(1)
        listener.end()
        heard = [1000 * (listener.heard[n] - begun) for n, begun in started.items()]
    return [engine, count, filled, read, *both(took), *both(heard)]


def both(values: list[float]) -> tuple[float, float]:
    """Median and 99th percentile."""
    return statistics.median(values), statistics.quantiles(values, n=100)[98]


@contextmanager
def members(folder: Path) -> Iterator[EtcdCluster]:
    with etcd(folder, 3) as cluster:
        yield cluster


def kills(cluster: EtcdCluster) -> list[object]:
    """A member, the leader every second time, is killed every ten seconds and
    comes back after five, while one client writes all the time."""
    acknowledged: set[int] = set()
    gaps: list[float] = []
    unknown: set[int] = set()
    done = threading.Event()

    def write(store: Store) -> None:
        last = time.perf_counter()
        number = 0
        while not done.is_set():
            number += 1
            try:
                put = Put("load", str(number), {"number": number})
                store.commit(Transaction(writes=(put,)))
            except StoreUnavailableError:
                unknown.add(number)
                continue
            acknowledged.add(number)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    with closing(EtcdStore(cluster.config("/kills/"))) as store:
        writer = threading.Thread(target=write, args=(store,))
        writer.start()
        for kill in range(KILLS):
            leader = cluster.leader()
            followers = [member for member in cluster.members if member is not leader]
            victim = leader if kill % 2 == 0 else followers[kill // 2 % len(followers)]
            time.sleep(KILL_EVERY / 2)
            victim.kill()
            time.sleep(KILL_EVERY / 2)
            cluster.start()
        time.sleep(2)
        done.set()
        writer.join()
        there = {entry.body["number"] for entry in store.list("load")}
    return [KILLS, len(acknowledged), len(acknowledged - there), len(unknown), max(gaps)]


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory(prefix="flyebpf-bench-") as name, members(Path(name)) as three:
        for count in SIZES:
            path = Path(name) / f"{count}.db"
            config = three.config(f"/{count}/")
            rows.append(measure("sqlite", count, lambda path=path: SqliteStore(path)))
            rows.append(measure("etcd", count, lambda config=config: EtcdStore(config)))
        rig.report(
            "store: seconds to fill and read; ms of a commit, and until it is heard",
            ("engine", "records", "fill s", "read s", "commit p50", "p99", "heard p50", "p99"),
            rows,
        )
        rig.report(
            "store: members of etcd killed every 10 s under load",
            ("kills", "acknowledged", "of these lost", "failed", "longest gap s"),
            [kills(three)],
        )


if __name__ == "__main__":
    main()
