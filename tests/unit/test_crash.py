# SPDX-License-Identifier: Apache-2.0
"""A daemon that is killed after any single write to a map, while it applies
many changes at once: what it leaves sends no packet to another app's machine,
and the next daemon makes it whole."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flyebpf.api.backend import Severity
from flyebpf.bpf import layout
from flyebpf.daemon.engine import Engine
from flyebpf.daemon.problems import problems
from flyebpf.drivers.link import Link
from flyebpf.drivers.map_ids import VALUE, IdKind, IdTable
from flyebpf.drivers.map_services import SERVICE_KEY
from flyebpf.drivers.slot_value import machine_name
from flyebpf.flytoml import parse
from flyebpf.model.codec import encode
from flyebpf.model.records import Address, AddressKind
from flyebpf.ops import addresses, apps, cluster, deploy, machines, orgs, power
from flyebpf.plan import maglev
from flyebpf.store.base import Change, Entry, Put, Transaction
from flyebpf.store.sqlite import SqliteStore
from tests.fakes_maps import SMALL, FakeMap, fake_maps
from tests.unit.test_engine import CONFIG, Rig

TIGHT = replace(CONFIG, dataplane=replace(SMALL, flows=4096, machines=4))
"""Slots that are freed are given out again at once."""
FLY = """
app = "{app}"
[[services]]
internal_port = {to}
[[services.ports]]
port = 80
[[services]]
internal_port = 9000
protocol = "udp"
[[services.ports]]
start_port = {first}
end_port = 5009
"""
NAMES = {
    IdTable({}, IdKind.SERVICE, "", 0).digest(name): name  # type: ignore[arg-type]
    for name in (
        f"{app}/{ports}@203.0.113.{host}"
        for app in ("web", "api")
        for ports in ("tcp/80", "udp/5000-5009", "udp/5008-5009")
        for host in (1, 2)
    )
}
Content = dict[str, dict[bytes, bytes]]
View = dict[tuple[int, int, int], tuple[str, frozenset[str]]]


class KilledError(Exception):
    """The process is gone; nobody handles this."""


class Mortal(FakeMap):
    """A map whose writers are killed when their writes are used up."""

    writes: Iterator[int] = itertools.repeat(0)

    def update(self, key: bytes, value: bytes) -> None:
        self.count()
        super().update(key, value)

    def delete(self, key: bytes) -> bool:
        self.count()
        return super().delete(key)

    @classmethod
    def count(cls) -> None:
        if next(cls.writes, None) is None:
            raise KilledError


class Past:
    """The store as it was when it was opened; what came since are changes."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        revision, entries = store.snapshot()
        self._then = revision, list(entries)

    def snapshot(self) -> tuple[int, Iterator[Entry]]:
        return self._then[0], iter(self._then[1])

    def revision(self) -> int:
        return self._store.revision()

    def changes(self, since: int) -> list[Change]:
        return self._store.changes(since)


class World:
    """Two apps whose machines, address and services change hands."""

    def __init__(self, folder: Path) -> None:
        self.store = SqliteStore(folder / "s.db", durable=False)
        cluster.ensure(self.store, TIGHT)
        orgs.create(self.store, "acme")
        for app in ("web", "api"):
            apps.create(self.store, app, "acme")
            addresses.allocate_v4(self.store, TIGHT, app)
            self.deploy(app, 8080, 5000)
        self.owner: dict[str, str] = {}
        self.first = [self.add(app, n) for n, app in enumerate(("web", "web", "api"))]
        self.past = Past(self.store)

    def deploy(self, app: str, to: int, first: int) -> None:
        text = FLY.format(app=app, to=to, first=first)
        deploy.deploy(self.store, TIGHT, app, parse(text))

    def add(self, app: str, number: int) -> str:
        mac = f"02:aa:00:00:00:{number:02x}"
        made = machines.add(self.store, TIGHT, app, interface=f"tap{number}", mac=mac)
        self.owner[made.id] = app
        return made.id

    def change(self) -> None:
        """At once: web loses a machine and its address to api, api gets two
        machines, one of them behind the lost one's interface."""
        lost, other, stopped = self.first
        machines.remove(self.store, lost)
        machines.set_cordoned(self.store, other, True)
        power.request(self.store, stopped, "stopped")
        self.add("api", 0)
        self.add("api", 7)
        vip = addresses.list_all(self.store, "web")[0].address
        moved = Address(vip, "api", AddressKind.V4, created="2026-01-01T00:00:00Z")
        self.store.commit(Transaction((), (Put(moved.kind, moved.ident, encode(moved)),)))
        self.deploy("api", 8081, 5008)

    def engine(self, maps: dict[str, FakeMap], store: object = None) -> Engine:
        rig = Rig.__new__(Rig)
        Rig.__init__(rig, store or self.store, maps)  # type: ignore[arg-type]
        rig.links.real |= {f"tap{n}": Link(10 + n, bytes(6), True) for n in range(8)}
        return rig.start(TIGHT)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(maglev, "SMALL", 7)  # each of a table's entries is a write
    made = World(tmp_path)
    yield made
    made.store.close()


def mortal_maps(content: Content | None = None) -> dict[str, FakeMap]:
    maps = fake_maps(TIGHT.dataplane)
    found: dict[str, FakeMap] = {name: Mortal(of.spec) for name, of in maps.items()}
    for name, data in (content or {}).items():
        found[name].data = dict(data)
    return found


def content(maps: dict[str, FakeMap]) -> Content:
    return {name: dict(of.data) for name, of in maps.items()}


def view(maps: dict[str, FakeMap]) -> View:
    """Where packets go: (VIP's index, protocol, port) to the service that they
    are counted under and the machines that they reach."""
    names = service_names(maps)
    found: View = {}
    for raw, value in maps["services"].data.items():
        vip, port, proto = SERVICE_KEY.unpack(raw)
        if any(maps["vips"].lookup(vip.to_bytes(4, "little")) or b""):
            entry = layout.Service.from_buffer_copy(value)
            reached = frozenset(backends(maps, entry.table))
            found[vip, proto, int.from_bytes(port, "big")] = (names[entry.id], reached)
    return found


def service_names(maps: dict[str, FakeMap]) -> dict[int, str]:
    """The names that services of this world have, by id."""
    index = {raw: VALUE.unpack(value)[0] for raw, value in maps["ids"].data.items()}
    return {index[digest]: name for digest, name in NAMES.items() if digest in index}


def backends(maps: dict[str, FakeMap], table: int) -> Iterator[str]:
    """The machines that a table leads to and that are delivered to."""
    run = layout.Table.from_buffer_copy(maps["tables"].lookup(table.to_bytes(4, "little")) or b"")
    for entry in range(run.start, run.start + run.size):
        slot = maps["maglev"].lookup(entry.to_bytes(4, "little")) or b""
        value = layout.Slot.from_buffer_copy(maps["slots"].lookup(slot) or b"")
        if value.flags & layout.SLOT_LIVE:
            yield machine_name(value.machine_id)


def check(world: World, maps: dict[str, FakeMap]) -> None:
    """No app's address leads to another app's machine."""
    for at, (service, reached) in view(maps).items():
        app = service.partition("/")[0]
        assert {world.owner[machine] for machine in reached} <= {app}, (at, service)


def finish(engine: Engine) -> None:
    """Pass after pass, as the main loop does it: what failed for want of a slot
    that is freed later in the same pass is tried again."""
    for _ in range(5):
        again = engine.sync_full()
        bad = [p for p in problems(engine) if p.severity is Severity.ERROR]
        if not again and not bad:
            return
    assert bad == []


@pytest.mark.parametrize("how", ["a daemon that runs", "a daemon that starts"])
def test_killed_after_any_write(world: World, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = mortal_maps()
    before = world.engine(maps, world.past)
    before.load()
    finish(before)
    start = content(maps)
    check(world, maps)
    world.change()
    ideal = mortal_maps()
    clean = world.engine(ideal)
    clean.load()
    finish(clean)
    survived = 0
    for writes in itertools.count():
        maps = mortal_maps(start)
        engine = world.engine(maps, world.past if how == "a daemon that runs" else None)
        engine.load()
        if how == "a daemon that runs":
            engine.sync_full()
        monkeypatch.setattr(Mortal, "writes", iter(range(writes)))
        try:
            engine.catch_up()
            finish(engine)
        except KilledError:
            survived += 1
        else:
            break
        finally:
            monkeypatch.setattr(Mortal, "writes", itertools.repeat(0))
        check(world, maps)
        successor = world.engine(maps)
        successor.load()
        finish(successor)
        assert view(maps) == view(ideal), f"killed after {writes} writes"
    assert survived > 30
    assert view(maps) == view(ideal)
