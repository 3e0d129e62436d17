# SPDX-License-Identifier: Apache-2.0
"""From store to maps, with real planner, reconciler and maps driver over maps
in memory; interfaces are made up."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from flyebpf.api.backend import Severity
from flyebpf.config import DaemonConfig, PoolsConfig
from flyebpf.daemon.engine import Engine
from flyebpf.daemon.problems import problems
from flyebpf.drivers.bpf_maps import Image, MapsDriver
from flyebpf.drivers.link import Link
from flyebpf.errors import KernelError
from flyebpf.flytoml import parse
from flyebpf.model.codec import encode
from flyebpf.model.records import HostStatus, JoinToken, Presence
from flyebpf.model.rows import HostPortRow, InterfaceRow, NatRow, Row, UplinkRow
from flyebpf.ops import addresses, apps, cluster, deploy, machines, orgs
from flyebpf.ops.transact import transact
from flyebpf.plan import maglev
from flyebpf.reconcile.base import Failure
from flyebpf.store.base import Delete, Put, Transaction
from flyebpf.store.sqlite import SqliteStore
from tests.fakes_maps import SMALL, FakeMap, fake_maps, slots_by_ifindex

CONFIG = DaemonConfig(
    "h1",
    "ams",
    ("eth0",),
    pools=PoolsConfig(anycast_v4=("203.0.113.0/24",)),
    dataplane=replace(SMALL, flows=4096),
)
FLY = 'app = "web"\n[[services]]\ninternal_port = 8080\n[[services.ports]]\nport = 80\n'


class Links:
    """See :class:`flyebpf.drivers.link_table.LinkTable`."""

    def __init__(self) -> None:
        self.real = {"eth0": Link(2, bytes(6), True)}
        self.known: dict[str, Link | None] = {}

    def get(self, name: str) -> Link | None:
        return self.known.setdefault(name, self.real.get(name))

    def peek(self, name: str) -> Link | None:
        return self.known.get(name)

    def forget(self, name: str | None = None) -> None:
        for known in [name] if name else list(self.known):
            self.known.pop(known, None)

    def refresh(self, names: set[str]) -> set[str]:
        before = {name: self.known.pop(name, None) for name in names}
        return {name for name, link in before.items() if self.get(name) != link}


class Rest:
    """A driver that remembers what was applied, for all other kinds."""

    name = "rest"
    kinds: tuple[type[Row], ...] = (InterfaceRow, UplinkRow, NatRow, HostPortRow)

    def __init__(self) -> None:
        self.rows: dict[type[Row], dict[Hashable, Row]] = {kind: {} for kind in self.kinds}
        self.uplinks = SimpleNamespace(modes={"eth0": "native"})
        self.held: list[bool] = []
        self.puts: list[Row] = []

    def hold(self, on: bool) -> None:
        self.held.append(on)

    def read(self, kind: type[Row]) -> dict[Hashable, object]:
        return dict(self.rows[kind])

    def fingerprint(self, row: Row) -> object:
        return row

    def apply(
        self, kind: type[Row], puts: Sequence[Row], deletes: Sequence[Hashable]
    ) -> list[Failure]:
        self.puts += puts
        self.rows[kind].update((row.key, row) for row in puts)
        for key in deletes:
            self.rows[kind].pop(key, None)
        return []


class Rig:
    def __init__(self, store: SqliteStore, maps: dict[str, FakeMap] | None = None) -> None:
        self.store = store
        self.links = Links()
        self.maps = maps or fake_maps()
        self.rest = Rest()
        self.engine = self.start()

    def start(self, config: DaemonConfig = CONFIG) -> Engine:
        driver = MapsDriver(
            self.maps,
            config.dataplane,
            link_of=self.links.get,
            build_table=partial(maglev.build, seed=1),
            table_size=maglev.table_size,
        )
        return Engine(
            config,
            self.store,
            maps=driver,
            netlink=self.rest,  # type: ignore[arg-type]
            others=[],
            links=self.links,  # type: ignore[arg-type]
            programs="p1",
        )

    def machine(self, interface: str) -> str:
        mac = "02:aa:00:00:00:01"
        return machines.add(self.store, CONFIG, "web", interface=interface, mac=mac).id

    def backends(self) -> set[int]:
        """The slots in the only table."""
        (table,) = (value for value in self.maps["tables"].data.values() if any(value))
        start, size = (int.from_bytes(table[at : at + 4], "little") for at in (0, 4))
        keys = [(start + place).to_bytes(4, "little") for place in range(size)]
        entries = [self.maps["maglev"].lookup(key) or b"" for key in keys]
        return {int.from_bytes(entry, "little") for entry in entries}

    def flags(self, slot: int) -> int:
        value = self.maps["slots"].lookup(slot.to_bytes(4, "little")) or b""
        return int.from_bytes(value[4:8], "little")


def unreadable(kind: type[Row]) -> dict[Hashable, object]:
    raise OSError(5, "Input/output error")


def filled(store: SqliteStore) -> SqliteStore:
    """With the app web, its address and its service."""
    cluster.ensure(store, CONFIG)
    orgs.create(store, "acme")
    apps.create(store, "web", "acme")
    addresses.allocate_v4(store, CONFIG, "web")
    deploy.deploy(store, CONFIG, "web", parse(FLY))
    return store


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    store = filled(SqliteStore(tmp_path / "s.db", durable=False))
    rig = Rig(store)
    rig.links.real["tap1"] = Link(11, bytes(6), True)
    rig.machine("tap1")
    rig.engine.load()
    rig.engine.sync_full()
    yield rig
    store.close()


def test_a_world_from_the_store_is_applied(rig: Rig) -> None:
    assert rig.engine.reconciler.failures == ()
    assert len(rig.maps["services"].data) == 1
    assert rig.flags(0) == 1
    assert set(rig.rest.rows[InterfaceRow]) == {"tap1"}
    assert problems(rig.engine) == []
    assert rig.engine.applied_revision == rig.store.revision()
    (names,) = rig.engine.services.values()
    assert [rig.engine.maps.service_id(name) for name in names] == [0]


def test_changes_are_taken_in(rig: Rig) -> None:
    rig.links.real["tap2"] = Link(12, bytes(6), True)
    machine = rig.machine("tap2")
    rig.engine.catch_up()
    assert rig.flags(1) == 1
    machines.remove(rig.store, machine)
    rig.engine.catch_up()
    assert rig.flags(1) == 0
    assert set(rig.rest.rows[InterfaceRow]) == {"tap1"}


def test_the_next_daemon_knows_that_nothing_changed(rig: Rig) -> None:
    assert rig.start().is_image()
    assert not rig.start(replace(CONFIG, domain="other.test")).is_image()
    rig.machine("tap9")
    assert not rig.start().is_image()
    rig.engine.catch_up()
    assert rig.start().is_image()


def test_what_nothing_is_planned_from_makes_no_other_image(rig: Rig) -> None:
    """Other hosts say all the time how they are; tokens come and go."""
    for turn in range(3):
        transact(rig.store, lambda tx, turn=turn: tx.put(HostStatus("h2", f"2026-01-0{turn}")))  # type: ignore[misc]
    transact(rig.store, lambda tx: tx.put(JoinToken("ab", "2026-01-01")))
    assert rig.start().is_image()
    transact(rig.store, lambda tx: tx.delete(HostStatus, "h2"))
    assert rig.start().is_image()


@pytest.mark.parametrize("good", [True, False], ids=["a record", "a damaged one"])
def test_a_record_that_went_makes_another_image(rig: Rig, good: bool) -> None:
    """None that is there was written since."""
    body = encode(Presence("h2")) if good else {"host": "somebody"}
    rig.store.commit(Transaction((), (Put(Presence.kind, "h2", body),)))
    rig.engine.catch_up()
    assert rig.start().is_image()
    rig.store.commit(Transaction((), (Delete(Presence.kind, "h2"),)))
    assert not rig.start().is_image()
    rig.engine.catch_up()
    assert rig.start().is_image()


def test_a_mark_that_was_written_by_half_counts_for_nothing(rig: Rig) -> None:
    image = rig.engine.maps.applied()
    assert image is not None
    rig.engine.maps.set_applied(replace(image, revision=image.revision + 1))
    assert not rig.start().is_image()
    assert rig.start().maps_filled()


def test_maps_that_nobody_has_filled_to_the_end(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon that made them dies while it fills them: what is attached has
    to keep its old program for the next one's first pass too."""
    assert rig.start().maps_filled()
    new = Rig(rig.store)
    new.engine.load()
    with monkeypatch.context() as death:
        death.setattr(new.maps["services"], "update_batch", dies)
        with pytest.raises(KeyboardInterrupt):
            new.engine.sync_full()
    again = new.start()
    assert not again.maps_filled()
    again.load()
    again.sync_full()
    assert new.start().maps_filled()


def dies(pairs: object) -> None:
    raise KeyboardInterrupt


def test_a_configuration_that_was_begun_and_taken_back(rig: Rig) -> None:
    """The daemon dies while it applies the other one."""
    rig.engine.reconfigure(replace(CONFIG, uplinks=("eth1",)))
    assert not rig.start().is_image()
    rig.engine.reconfigure(CONFIG)
    rig.engine.sync()
    assert rig.start().is_image()


def test_an_uplink_without_its_programs_is_seen(rig: Rig) -> None:
    assert rig.start().serves_uplinks()
    rig.rest.rows[UplinkRow].clear()
    assert not rig.start().serves_uplinks()
    rig.rest.read = unreadable  # type: ignore[method-assign]
    assert not rig.start().serves_uplinks()


def test_a_mark_that_cannot_be_written_stops_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(image: Image | None) -> None:
        raise KernelError("write the map ids")

    monkeypatch.setattr(rig.engine.maps, "set_applied", refuse)
    rig.machine("tap9")
    rig.engine.catch_up()
    assert rig.engine.applied_revision == rig.store.revision()


def test_an_interface_that_comes_later(rig: Rig) -> None:
    machine = rig.machine("tap2")
    rig.engine.catch_up()
    (problem,) = problems(rig.engine)
    assert problem.message == f"interface tap2 of machine {machine} does not exist"
    rig.links.real["tap2"] = Link(12, bytes(6), False)
    rig.engine.links_changed({"tap2", "unrelated0"})
    assert rig.flags(1) == 3, "live, by way of tc"
    (problem,) = problems(rig.engine)
    assert problem.severity is Severity.WARNING
    assert "tap2" in problem.object
    rig.links.real["tap2"] = Link(12, bytes(6), True)
    rig.engine.recheck_slow()
    assert rig.flags(1) == 1
    assert problems(rig.engine) == []


def test_an_interface_that_was_made_anew_before_its_machine(rig: Rig) -> None:
    """It was looked at once, for another reason, and changed since."""
    assert rig.links.get("tap2") is None
    rig.links.real["tap2"] = Link(12, bytes(6), True)
    rig.engine.links_changed({"tap2"})
    rig.machine("tap2")
    rig.engine.catch_up()
    assert rig.flags(1) == 1


def test_an_interface_name_that_a_new_vm_gets(rig: Rig) -> None:
    """tap1 goes and comes back for another VM while it is nobody's."""
    (old,) = rig.engine.state.machines
    machines.remove(rig.store, old)
    rig.engine.catch_up()
    rig.links.real["tap1"] = Link(77, bytes(6), True)
    rig.engine.links_changed({"tap1"})
    rig.machine("tap1")
    rig.engine.catch_up()
    assert set(slots_by_ifindex(rig.maps)) == {77}
    assert rig.engine.reconciler.failures == ()


def test_an_interface_that_went_while_no_daemon_ran(rig: Rig) -> None:
    """New flows go to the machine that is left, after the first pass and the
    second one that it asks for."""
    rig.links.real["tap2"] = Link(12, bytes(6), True)
    gone = rig.machine("tap2")
    rig.engine.catch_up()
    assert rig.backends() == {0, 1}
    del rig.links.real["tap2"]
    rig.links.forget()
    rig.engine = rig.start()
    rig.engine.load()
    assert rig.engine.sync_full(), "look again"
    rig.engine.sync_full()
    assert rig.backends() == {0}
    (problem,) = problems(rig.engine)
    assert problem.message == f"interface tap2 of machine {gone} does not exist"


def test_a_machine_that_moves_after_its_interface_went(rig: Rig) -> None:
    """Its table has left it out, and takes it again with the change."""
    rig.links.real["tap2"] = Link(12, bytes(6), True)
    moved = rig.machine("tap2")
    rig.engine.catch_up()
    assert rig.backends() == {0, 1}
    del rig.links.real["tap2"]
    rig.engine.links_changed({"tap2"})
    assert rig.backends() == {0}
    rig.links.real["tap3"] = Link(13, bytes(6), True)
    record = replace(rig.engine.state.machines[moved], interface="tap3")
    rig.store.commit(Transaction((), (Put("machine", moved, encode(record)),)))
    rig.engine.catch_up()
    assert rig.backends() == {0, 1}


def test_events_of_other_interfaces_cost_nothing(rig: Rig) -> None:
    rig.rest.puts.clear()
    rig.engine.links_changed({"docker0"})
    assert rig.rest.puts == []
    rig.engine.links_changed(None)
    assert rig.engine.reconciler.failures == ()


def test_drift_is_repaired_by_the_full_pass(rig: Rig) -> None:
    rig.maps["services"].data.clear()
    assert rig.engine.sync_full(), "repaired: look again soon"
    assert len(rig.maps["services"].data) == 1
    assert not rig.engine.sync_full()


def test_an_unreadable_record_stops_nothing(rig: Rig) -> None:
    rig.store.commit(Transaction((), (Put("app", "bad", {"no": 1}),)))
    rig.engine.catch_up()
    (problem,) = problems(rig.engine)
    assert problem.object == "record app/bad"
    assert rig.flags(0) == 1


@pytest.mark.parametrize(
    "wrong", [{"mac": "zz"}, {"mac": "02:AA:00:00:00:01"}, {"id": "not-hex"}, {"interface": ""}]
)
def test_a_machine_that_no_slot_can_hold_stops_nothing(rig: Rig, wrong: dict[str, str]) -> None:
    """Written by a hand or another version: it is left out, and said so."""
    (first,) = rig.engine.state.machines.values()
    mine = {"id": f"{15:014x}", "interface": "tap5", "private_ip": "172.16.1.1"}
    bad = replace(first, **{**mine, "services_ip": "172.16.1.2", **wrong})
    rig.store.commit(Transaction((), (Put("machine", bad.id, encode(bad)),)))
    rig.machine("tap2")
    rig.links.real["tap2"] = Link(12, bytes(6), True)
    rig.engine.catch_up()
    (problem,) = problems(rig.engine)
    assert problem.object == f"record machine/{bad.id}"
    assert rig.flags(1) == 1, "the machine after it is served"


def test_another_configuration_is_planned(rig: Rig) -> None:
    rig.links.real["eth1"] = Link(3, bytes(6), True)
    rig.engine.reconfigure(replace(CONFIG, uplinks=("eth1",)))
    rig.engine.sync()
    assert set(rig.rest.rows[UplinkRow]) == {"eth1"}


def test_more_changes_than_the_store_keeps(rig: Rig, tmp_path: Path) -> None:
    other = SqliteStore(tmp_path / "s.db", durable=False, changes_kept=1)
    for name in ("one", "two", "three", "four"):
        apps.create(other, name, "acme")
    other.close()
    rig.engine.catch_up()
    assert rig.engine.state.revision == rig.store.revision()
    assert "four" in rig.engine.state.apps
    assert rig.flags(0) == 1


def test_held_programs_are_replaced_by_name(rig: Rig) -> None:
    rig.rest.puts.clear()
    rig.engine.replace_held()
    assert rig.rest.held == [False]
    assert [row.key for row in rig.rest.puts] == ["flyhost", "tap1"]


def test_a_machine_that_gets_its_slot_late_gets_its_share_at_once(tmp_path: Path) -> None:
    """Its app's table was written without it, and nothing else changes."""
    tight = replace(CONFIG, dataplane=replace(CONFIG.dataplane, machines=2))
    with closing(SqliteStore(tmp_path / "s.db", durable=False)) as store:
        rig = Rig(filled(store), fake_maps(tight.dataplane))
        rig.engine = rig.start(tight)
        rig.links.real |= {f"tap{n}": Link(10 + n, bytes(6), True) for n in range(3)}
        first, *_ = [rig.machine(f"tap{n}") for n in range(3)]
        rig.engine.load()
        rig.engine.sync_full()
        assert {problem.message for problem in problems(rig.engine)} >= {"the map slots is full"}
        machines.remove(store, first)
        rig.engine.catch_up()
        rig.engine.reconciler.retry_failed()
        rig.engine.sync()
        assert rig.backends() == {0, 1}
        assert rig.engine.reconciler.failures == ()
