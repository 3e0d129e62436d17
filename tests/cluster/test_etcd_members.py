# SPDX-License-Identifier: Apache-2.0
"""Three real members of etcd that are killed, stopped and compacted: what was
acknowledged is there, nothing is applied twice, and the watch misses nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flyebpf.errors import FlyebpfError
from flyebpf.model.codec import encode
from flyebpf.model.records import Address, App, Organization
from flyebpf.model.state import State
from flyebpf.ops import addresses, apps, cluster, orgs
from flyebpf.ops.transact import every
from flyebpf.store.base import CompactedError, Put, StoreUnavailableError, Transaction
from flyebpf.store.etcd import EtcdStore
from tests.etcdrig import EtcdCluster, EtcdMember, etcd, free_ports
from tests.stores import config

PATIENCE = 30.0


@pytest.fixture
def members(tmp_path: Path) -> Iterator[EtcdCluster]:
    with etcd(tmp_path, 3) as running:
        yield running


@pytest.fixture
def make_store(members: EtcdCluster) -> Iterator[Callable[[], EtcdStore]]:
    opened: list[EtcdStore] = []

    def make() -> EtcdStore:
        opened.append(EtcdStore(members.config(timeout=5)))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


class Follower:
    """What a daemon does: a state from a snapshot and the changes after it."""

    def __init__(self, store: EtcdStore) -> None:
        self.snapshots = 0
        self.history: list[tuple[str, object]] = []
        self._store = store
        self._load()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _load(self) -> None:
        revision, entries = self._store.snapshot()
        self.records = {(entry.kind, entry.id): entry.body for entry in entries}
        self.revision = revision
        self.snapshots += 1

    def _run(self) -> None:
        while not self._done.is_set():
            try:
                if self._store.wait(self.revision, 0.2):
                    self._take()
            except StoreUnavailableError:
                self._done.wait(0.1)

    def _take(self) -> None:
        try:
            changes = self._store.changes(self.revision)
        except CompactedError:
            self._load()
            return
        for change in changes:
            assert change.revision >= self.revision
            self.revision = change.revision
            self.history.append((change.id, change.body))
            if change.body is None:
                self.records.pop((change.kind, change.id), None)
            else:
                self.records[change.kind, change.id] = change.body

    def end(self, store: EtcdStore) -> None:
        """It must come to what the store holds."""
        _, entries = store.snapshot()
        wanted = {(entry.kind, entry.id): entry.body for entry in entries}
        deadline = time.monotonic() + PATIENCE
        while self.records != wanted and time.monotonic() < deadline:
            time.sleep(0.05)
        self._done.set()
        self._thread.join()
        assert self.records == wanted


class Writer:
    """Commits numbered records, one after the other, and notes what it was told."""

    def __init__(self, store: EtcdStore, name: str) -> None:
        self.acknowledged: list[int] = []
        self.refused: list[int] = []
        self.unknown: list[int] = []
        self.longest = 0.0
        self._store = store
        self._name = name
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        last = time.monotonic()
        number = 0
        while not self._done.is_set():
            number += 1
            put = Put("thing", f"{self._name}/{number:06}", {"number": number})
            try:
                self._store.commit(Transaction(writes=(put,)))
            except StoreUnavailableError as error:
                unknown = "not known" in error.message
                (self.unknown if unknown else self.refused).append(number)
                continue
            self.acknowledged.append(number)
            self.longest = max(self.longest, time.monotonic() - last)
            last = time.monotonic()

    def progress(self, count: int = 20) -> None:
        """Wait for so many more acknowledged writes."""
        wanted = len(self.acknowledged) + count
        deadline = time.monotonic() + PATIENCE
        while len(self.acknowledged) < wanted:
            assert time.monotonic() < deadline, "writes do not go on"
            time.sleep(0.01)

    def end(self) -> None:
        self._done.set()
        self._thread.join()

    def check(self, store: EtcdStore, heard: list[tuple[str, object]]) -> None:
        """All that was acknowledged is there, nothing that was refused; and each
        was made once, as the watch tells."""
        there = {entry.body["number"] for entry in store.list("thing")
                 if entry.id.startswith(f"{self._name}/")}  # fmt: skip
        assert set(self.acknowledged) <= there
        assert not set(self.refused) & there
        assert there <= {*self.acknowledged, *self.unknown}
        ids = [ident for ident, _ in heard if ident.startswith(f"{self._name}/")]
        assert len(ids) == len(set(ids)), "a commit was applied twice"


def kill_and_start(members: EtcdCluster, victim: EtcdMember, writer: Writer) -> None:
    victim.kill()
    writer.progress()
    members.start()


def stop_and_go_on(members: EtcdCluster, victim: EtcdMember, writer: Writer) -> None:
    victim.stop()
    writer.progress()
    victim.go_on()


@pytest.mark.parametrize("how", [kill_and_start, stop_and_go_on], ids=["kill -9", "SIGSTOP"])
@pytest.mark.parametrize("leader", [True, False], ids=["leader", "follower"])
def test_a_member_is_lost(
    members: EtcdCluster,
    make_store: Callable[[], EtcdStore],
    how: Callable[[EtcdCluster, EtcdMember, Writer], None],
    leader: bool,
) -> None:
    """Three times over; the others go on, and the watch with them."""
    reader = make_store()
    follower = Follower(reader)
    writers = [Writer(make_store(), name) for name in "ab"]
    for _ in range(3):
        writers[0].progress(50)
        victim = members.leader()
        if not leader:
            victim = next(one for one in members.members if one is not victim)
        how(members, victim, writers[0])
    for writer in writers:
        writer.progress(50)
        writer.end()
    follower.end(reader)
    assert follower.snapshots == 1, "the watch lost something"
    for writer in writers:
        writer.check(reader, follower.history)
        assert writer.longest < 6.0


def test_all_members_are_away(members: EtcdCluster, make_store: Callable[[], EtcdStore]) -> None:
    """Writes fail within their time and say why; afterwards everything goes on."""
    store = make_store()
    store.commit(Transaction(writes=(Put("thing", "a/1", {"number": 1}),)))
    follower = Follower(store)
    for member in members.members:
        member.kill()
    time.sleep(12)
    begun = time.monotonic()
    with pytest.raises(StoreUnavailableError, match="etcd is away") as caught:
        store.commit(Transaction(writes=(Put("thing", "a/2", {"number": 2}),)))
    assert time.monotonic() - begun < 5.5
    assert all(endpoint in caught.value.message for endpoint in members.endpoints)
    assert "Connection refused" in caught.value.message
    with pytest.raises(StoreUnavailableError, match="etcd is away"):
        store.wait(store.revision(), 1)
    assert store.changes(store.revision()) == [], "what is known stays readable"
    members.start()
    members.wait()
    writer = Writer(store, "b")
    writer.progress()
    writer.end()
    assert store.get("thing", "a/2") is None
    follower.end(store)
    assert follower.snapshots == 1


def test_a_minority_serves_nothing(
    members: EtcdCluster, make_store: Callable[[], EtcdStore]
) -> None:
    """The last member answers, and knows no leader: nothing stale is told."""
    store = make_store()
    revision = store.commit(Transaction(writes=(Put("thing", "a", {}),)))
    for member in members.members[:2]:
        member.kill()
    begun = time.monotonic()
    with pytest.raises(StoreUnavailableError):
        store.commit(Transaction(writes=(Put("thing", "b", {}),)))
    with pytest.raises(StoreUnavailableError):
        store.get("thing", "a")
    assert time.monotonic() - begun < 12
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            store.wait(revision, 0.1)
        except StoreUnavailableError:
            break
        assert time.monotonic() < deadline, "the watch of a member without a leader goes on"


def test_compaction_while_a_client_is_away(
    members: EtcdCluster, make_store: Callable[[], EtcdStore]
) -> None:
    """The members are at other ports for a while, where this client does not find
    them, and come back with their past compacted."""
    store = make_store()
    store.commit(Transaction(writes=(Put("thing", "a/0", {"number": 0}),)))
    follower = Follower(store)
    for member in members.members:
        member.kill()
    hidden = [(member, member.client) for member in members.members]
    moved = etcd_ports(hidden)
    members.start()
    members.wait()
    other = EtcdStore(members.config())
    for number in range(50):
        other.commit(Transaction(writes=(Put("thing", f"a/{number}", {"number": -number}),)))
    members.compact()
    other.close()
    for member in members.members:
        member.kill()
    for member, client in moved:
        member.client = client
    members.start()
    members.wait()
    follower.end(store)
    assert follower.snapshots == 2


def etcd_ports(hidden: list[tuple[EtcdMember, str]]) -> list[tuple[EtcdMember, str]]:
    """Give members other ports for clients, so that only newcomers find them."""
    for (member, _), port in zip(hidden, free_ports(len(hidden)), strict=True):
        member.client = f"http://127.0.0.1:{port}"
    return hidden


def test_addresses_are_given_once_while_members_die(
    members: EtcdCluster, make_store: Callable[[], EtcdStore]
) -> None:
    """Two hosts allocate from one pool. Who was told an address owns it, and
    nobody else was."""
    stores = [make_store(), make_store()]
    cluster.ensure(stores[0], config())
    orgs.create(stores[0], "acme")
    apps.create(stores[0], "web", "acme")
    done = threading.Event()

    def allocate(store: EtcdStore) -> list[str]:
        mine: list[str] = []
        while not done.is_set() and len(mine) < 120:
            try:
                mine.append(addresses.allocate_v4(store, config(), "web").address)
            except FlyebpfError:
                continue
        return mine

    with ThreadPoolExecutor(4) as threads:
        jobs = [threads.submit(allocate, store) for store in stores * 2]
        for _ in range(4):
            victim = members.leader()
            victim.kill()
            time.sleep(1.5)
            members.start()
            time.sleep(1.5)
        done.set()
        got = [address for job in jobs for address in job.result()]
    assert len(got) > 100
    assert len(got) == len(set(got)), "an address was given out twice"
    assert set(got) <= {record.address for record in every(stores[0], Address)}


def test_poison_is_set_aside(members: EtcdCluster, make_store: Callable[[], EtcdStore]) -> None:
    """Whatever is written under our prefix by hand; the rest goes on."""
    store = make_store()
    app = App("web", "acme")
    good = Put(app.kind, app.ident, encode(app))
    store.commit(Transaction(writes=(good,)))
    revision, entries = store.snapshot()
    state = State.load(revision, entries)
    poison = {
        b"app/broken": b'{"name": "broken"',
        b"app/binary": b"\xff\xfe\x00",
        b"app/list": b"[1, 2]",
        b"app/other": good.body["name"].encode(),
        b"app/": b"{}",
        b"app": b"{}",
        b"/": b"{}",
        b"": b"{}",
        b"app/\xff": b'{"name": "x", "org": "y"}',
        b"nonsense/a": b"{}",
    }
    for key, value in poison.items():
        members.put(b"/flyebpf/records/" + key, value)
    org = Organization("acme")
    store.commit(Transaction(writes=(Put(org.kind, org.ident, encode(org)),)))
    deadline = time.monotonic() + PATIENCE
    while org.ident not in state.orgs and time.monotonic() < deadline:
        store.wait(state.revision, 1)
        for change in store.changes(state.revision):
            state.apply(change)
    assert state.apps["web"] == app
    assert len(state.quarantined) == len(poison)
    revision, entries = store.snapshot()
    again = State.load(revision, entries)
    assert again.quarantined.keys() == state.quarantined.keys()
    assert [record.name for record in every(store, App)] == ["web"]
    for key in poison:
        members.delete(b"/flyebpf/records/" + key)
    store.commit(Transaction(writes=(good,)))
    while state.quarantined and time.monotonic() < deadline:
        store.wait(state.revision, 1)
        for change in store.changes(state.revision):
            state.apply(change)
    assert not state.quarantined
