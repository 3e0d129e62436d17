# SPDX-License-Identifier: Apache-2.0
"""The life of machines, from records to maps, looked at after every single write:
packets for one never get to another."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flyebpf.bpf import layout
from flyebpf.drivers.link import Link
from flyebpf.model.records import App, Machine, MachineState, Network
from flyebpf.model.roworder import ROW_ORDER
from flyebpf.plan import Planner
from flyebpf.reconcile.reconciler import Reconciler
from tests.fakes import FakeDriver
from tests.fakes_maps import slots_by_ifindex
from tests.maps_rig import Rig
from tests.records import MESH, delete, host, machine, put, web

LIVE, REMOTE = layout.SLOT_LIVE, layout.SLOT_REMOTE
TAPS = ("tap1", "tap2", "tap3")
NUMBERS = {"web": 7, "db": 8}

moves = st.tuples(
    st.integers(1, 4),  # which machine id
    st.sampled_from(("add", "add", "again", "stop", "remove", "wait")),
    st.sampled_from(("h1", "h1", "h2", "h3")),
    st.sampled_from(TAPS),
    st.sampled_from(("web", "db")),
)


class World:
    """A daemon's state, plan, reconciler and driver over maps in memory."""

    def __init__(self) -> None:
        self.maps = Rig()
        self.maps.links["fly0"] = Link(40, bytes(6), False)
        db = (App("db", "acme", "other"), Network("acme", "other", NUMBERS["db"]))
        self.state = web(host(1), host(2), host(3), *db)
        self.planner = Planner(MESH)
        mine = self.maps.driver.kinds
        others = FakeDriver([kind for kind in ROW_ORDER if kind not in mine])
        others.watch = False
        self.reconciler = Reconciler([self.maps.driver, others])
        self.owners: dict[tuple[int, int], tuple[int, ...]] = {}
        self.next_number = 100
        for owner in self.planner.all_owners(self.state):
            self.reconciler.set_desired(owner, self.planner.rows(self.state, owner))
        self.reconciler.mark_complete()
        for table in self.maps.maps.values():
            table.written = self.check
        self.reconciler.sync_full()

    def slots(self) -> dict[int, layout.Slot]:
        return {
            int.from_bytes(raw, "little"): layout.Slot.from_buffer_copy(value)
            for raw, value in self.maps.maps["slots"].data.items()
        }

    def check(self) -> None:
        """What must hold at every moment."""
        slots = self.slots()
        for index, slot in slots.items():
            if slot.flags & LIVE:
                place = slot.host if slot.flags & REMOTE else 0
                owner = (slot.machine_id, slot.machine, place)
                known = self.owners.setdefault((index, slot.generation), owner)
                assert known == owner, "a flow to the last owner would reach this one"
        for raw, value in self.maps.maps["sixpn"].data.items():
            key = layout.SixpnKey.from_buffer_copy(raw)
            slot = slots[int.from_bytes(value, "little")]
            if slot.flags & LIVE:
                assert slot.machine == key.machine
                assert not slot.flags & REMOTE
                assert key.network in (0, slot.network)
        for ifindex, index in slots_by_ifindex(self.maps.maps).items():
            if slots[index].flags & LIVE:
                assert slots[index].ifindex == ifindex

    def change(self, move: tuple[int, str, str, str, str]) -> None:
        number, what, at, tap, app = move
        have: Machine | None = self.state.machines.get(machine(number).id)
        if what in ("remove", "again") and have is not None:
            self.apply(delete(self.state, have))
        if what in ("add", "again"):
            self.next_number += 1
            wanted = machine(
                number,
                app=app if have is None or what == "again" else have.app,
                host=at,
                interface=tap,
                number=self.next_number if have is None or what == "again" else have.number,
            )
            self.apply(put(self.state, wanted))
        elif what == "stop" and have is not None:
            values = {name: getattr(have, name) for name in have.__slots__}
            self.apply(put(self.state, Machine(**{**values, "state": MachineState.STOPPED})))

    def apply(self, change: Any) -> None:
        update = self.state.apply(change)
        for owner in self.planner.owners(update, self.state):
            self.reconciler.set_desired(owner, self.planner.rows(self.state, owner))

    def settle(self) -> None:
        """Everything is there, and nothing else."""
        self.reconciler.sync_dirty()
        assert self.reconciler.failures == ()
        wanted = {}
        for slot in self.slots().values():
            if slot.flags & (LIVE | REMOTE) == LIVE:
                app = self.state.machines[f"{slot.machine_id:014x}"].app
                assert slot.network == NUMBERS[app]
                wanted[0, slot.machine] = wanted[slot.network, slot.machine] = slot.machine_id
        found = {}
        for raw, value in self.maps.maps["sixpn"].data.items():
            key = layout.SixpnKey.from_buffer_copy(raw)
            index = int.from_bytes(value, "little")
            found[key.network, key.machine] = self.slots()[index].machine_id
        assert found == wanted
        repaired = self.reconciler.stats.drift_repaired
        self.reconciler.sync_full()
        assert self.reconciler.stats.drift_repaired == repaired, "nothing was left to repair"


@settings(max_examples=60, deadline=None)
@given(st.lists(moves, max_size=14))
def test_no_machine_ever_gets_anothers_packets(todo: list[tuple[int, str, str, str, str]]) -> None:
    world = World()
    for move in todo:
        if move[1] == "wait":
            world.settle()
        else:
            world.change(move)
    world.settle()
