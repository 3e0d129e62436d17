# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyebpf.errors import KernelError
from flyebpf.model.rows import (
    InterfaceRow,
    PolicyRow,
    ReplyRow,
    Row,
    ServiceRow,
    SlotRow,
    TableRow,
    VipRow,
)
from flyebpf.reconcile.reconciler import Reconciler
from tests.fakes import FakeClock, FakeDriver, RowId

A, B = ("app", "a"), ("app", "b")


def slot(machine: str, interface: str = "", live: bool = True) -> SlotRow:
    return SlotRow(
        machine, interface or f"tap-{machine}", "mac", f"p{machine}", f"s{machine}", live
    )


def table(*backends: str, name: str = "t") -> TableRow:
    return TableRow(name, backends)


def route(to: str = "t", port: int = 80) -> ServiceRow:
    return ServiceRow("v", 6, port, port, "a/tcp/80", to, 8080, False, False)


class Rig:
    """A reconciler over a fake kernel, complete and synchronized when made."""

    def __init__(self, *rows: Row, complete: bool = True) -> None:
        self.kernel, self.clock = FakeDriver(), FakeClock()
        self.reconciler = Reconciler([self.kernel], clock=self.clock)
        self.reconciler.set_desired(A, rows)
        if complete:
            self.reconciler.mark_complete()
            self.reconciler.sync_full()
            self.kernel.log.clear()

    def want(self, *rows: Row) -> list[str]:
        """Change what is wanted, and tell what was done, in order."""
        self.reconciler.set_desired(A, rows)
        return self.sync()

    def sync(self) -> list[str]:
        self.reconciler.sync_dirty()
        return self.take_log()

    def full(self) -> list[str]:
        self.reconciler.sync_full()
        return self.take_log()

    def take_log(self) -> list[str]:
        told = list(self._tell())
        self.kernel.log.clear()
        return told

    def _tell(self) -> Iterator[str]:
        for verb, what in self.kernel.log:
            if isinstance(what, Row):
                live = "" if getattr(what, "live", True) else " withdrawn"
                yield f"{verb} {type(what).__name__} {what.key}{live}"
            else:
                yield f"{verb} {what[0].__name__} {what[1]}"


def test_rows_are_created_before_and_deleted_after_those_that_refer() -> None:
    rig = Rig()
    rows = (VipRow("v", "a", False), route(), ReplyRow("m", 6, 80, "v", 80, "s", True), table("m"))
    assert rig.want(*rows, InterfaceRow("tap", "m", "mac", ()), slot("m")) == [
        "put SlotRow m",
        "put InterfaceRow tap",
        "put TableRow t",
        "put ReplyRow ('m', 6, 80, False)",
        "put ServiceRow ('v', 6, 80, 80)",
        "put VipRow v",
    ]
    assert rig.want() == [
        "delete VipRow v",
        "delete ServiceRow ('v', 6, 80, 80)",
        "delete ReplyRow ('m', 6, 80, False)",
        "delete TableRow t",
        "delete InterfaceRow tap",
        "delete SlotRow m",
    ]
    assert not rig.kernel.dangling


def test_only_what_changed_is_applied() -> None:
    rig = Rig(slot("m"), slot("n"), table("m", "n"))
    assert rig.want(slot("m"), slot("n"), table("m", "n")) == []
    assert rig.want(slot("m"), slot("n"), table("m")) == ["put TableRow t"]
    calls = rig.kernel.calls
    assert rig.sync() == []
    assert rig.kernel.calls == calls


def test_a_slot_is_withdrawn_after_the_table_has_let_it_go() -> None:
    rig = Rig(slot("m"), slot("n"), table("m", "n"))
    assert rig.want(slot("m", live=False), slot("n"), table("n")) == [
        "put TableRow t",
        "put SlotRow m withdrawn",
    ]
    assert rig.want(slot("m"), slot("n"), table("m", "n")) == ["put SlotRow m", "put TableRow t"]


def test_a_new_slot_that_is_not_live_comes_with_the_other_puts() -> None:
    told = Rig().want(slot("m", live=False), InterfaceRow("tap", "m", "mac", ()))
    assert told == ["put SlotRow m withdrawn", "put InterfaceRow tap"]


def test_the_next_owner_of_an_interface_waits_until_the_last_is_withdrawn() -> None:
    rig = Rig(slot("m", "tap"))
    assert rig.want(slot("n", "tap")) == [
        "put SlotRow m withdrawn",
        "put SlotRow n",
        "delete SlotRow m",
    ]
    assert not rig.kernel.shared


def test_two_slots_that_swap_their_interfaces() -> None:
    rig = Rig(slot("m", "tap1"), slot("n", "tap2"))
    rig.want(slot("m", "tap2"), slot("n", "tap1"))
    assert not rig.kernel.shared
    assert rig.kernel.rows[SlotRow] == {"m": slot("m", "tap2"), "n": slot("n", "tap1")}


def test_no_next_owner_while_the_last_cannot_be_withdrawn() -> None:
    rig = Rig(slot("m", "tap"))
    rig.kernel.fail(SlotRow, "m")
    assert rig.want(slot("n", "tap")) == []
    assert {failure.key for failure in rig.reconciler.failures} == {"m", "n"}
    rig.kernel.refuse.clear()
    rig.clock.now += 1
    rig.sync()
    assert rig.kernel.rows[SlotRow] == {"n": slot("n", "tap")}
    assert not rig.kernel.shared


def test_the_last_owner_is_withdrawn_while_its_delete_waits_to_be_tried_again() -> None:
    rig = Rig(slot("m", "tap"))
    rig.kernel.fail(SlotRow, "m")
    assert rig.want() == []
    rig.kernel.refuse.clear()
    assert rig.want(slot("n", "tap")) == ["put SlotRow m withdrawn", "put SlotRow n"]
    assert not rig.kernel.shared
    rig.clock.now += 1
    rig.sync()
    assert rig.kernel.rows[SlotRow] == {"n": slot("n", "tap")}


def test_nothing_is_deleted_before_all_owners_were_heard() -> None:
    rig = Rig(complete=False)
    rig.kernel.rows[SlotRow] = {"old": slot("old"), "m": slot("m")}
    rig.reconciler.set_desired(A, [slot("m"), slot("n")])
    assert rig.full() == ["put SlotRow n"]
    rig.reconciler.set_desired(A, [slot("n")])
    assert rig.sync() == []
    assert not rig.reconciler.stats.complete
    rig.reconciler.set_desired(B, [slot("m")])
    rig.reconciler.mark_complete()
    assert rig.sync() == ["put SlotRow m", "delete SlotRow old"]
    assert rig.reconciler.stats.drift_repaired == 0


def test_a_start_applies_only_what_differs() -> None:
    rig = Rig(complete=False)
    rig.kernel.rows[SlotRow] = {"m": slot("m"), "n": slot("n", "tap9")}
    rig.reconciler.set_desired(A, [slot("m"), slot("n"), table("m", "n")])
    rig.reconciler.mark_complete()
    assert rig.full() == ["put SlotRow n", "put TableRow t"]
    assert rig.reconciler.stats.drift_repaired == 0


def test_drift_is_repaired_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(slot("m"), slot("n"), slot("o"))
    rig.kernel.rows[SlotRow]["m"] = slot("m", "other")
    del rig.kernel.rows[SlotRow]["n"]
    rig.kernel.rows[SlotRow]["stray"] = slot("stray")
    with caplog.at_level(logging.WARNING):
        told = rig.full()
    assert sorted(told) == ["delete SlotRow stray", "put SlotRow m", "put SlotRow n"]
    assert rig.reconciler.stats.drift_repaired == 3
    assert caplog.text.count("changed by somebody else") == 3
    assert rig.full() == []
    assert rig.reconciler.stats.drift_repaired == 3


def test_a_failed_row_stops_no_other_and_is_tried_again_later_and_later() -> None:
    rig = Rig()
    rig.kernel.fail(SlotRow, "m")
    assert rig.want(slot("m"), slot("n"), table("n")) == ["put SlotRow n", "put TableRow t"]
    (failure,) = rig.reconciler.failures
    assert (failure.kind, failure.key, failure.error) == (SlotRow, "m", "refused")
    assert (rig.reconciler.stats.failures, rig.reconciler.stats.dirty) == (1, 1)
    delays = []
    for _ in range(10):
        delay = rig.reconciler.next_retry()
        assert delay is not None
        delays.append(delay)
        calls = rig.kernel.calls
        rig.clock.now += delay - 0.01
        rig.sync()
        assert rig.kernel.calls == calls
        rig.clock.now += 0.02
        rig.sync()
        assert rig.kernel.calls == calls + 1
    assert delays[:3] == [0.5, 1, 2]
    assert delays[-1] == 60
    rig.kernel.refuse.clear()
    rig.clock.now += 60
    assert rig.sync() == ["put SlotRow m"]
    assert rig.reconciler.failures == ()
    assert rig.reconciler.next_retry() is None
    rig.kernel.fail(SlotRow, "m")
    rig.reconciler.touch(SlotRow, ["m"])
    rig.sync()
    assert rig.reconciler.next_retry() == 0.5


def test_a_changed_row_is_tried_at_once() -> None:
    rig = Rig()
    rig.kernel.fail(SlotRow, "m")
    rig.want(slot("m"))
    rig.kernel.refuse.clear()
    assert rig.sync() == []
    assert rig.want(slot("m", "tap9")) == ["put SlotRow m"]
    rig.clock.now += 100
    assert rig.sync() == []


def test_a_permanent_failure_waits_for_a_change_of_row_or_world() -> None:
    rig = Rig()
    rig.kernel.fail(SlotRow, "m", permanent=True)
    rig.want(slot("m"))
    rig.kernel.refuse.clear()
    assert rig.reconciler.next_retry() is None
    rig.clock.now += 10_000
    assert rig.sync() == []
    rig.reconciler.retry_failed()
    assert rig.sync() == ["put SlotRow m"]
    rig.kernel.fail(SlotRow, "m", permanent=True)
    rig.want(slot("m", "tap9"))
    rig.kernel.refuse.clear()
    assert rig.full() == ["put SlotRow m"]
    assert rig.reconciler.stats.drift_repaired == 0


def test_touch_applies_a_row_anew() -> None:
    rig = Rig(slot("m"), slot("n"))
    rig.reconciler.touch(SlotRow, ["m", "unknown"])
    assert rig.sync() == ["put SlotRow m"]


def test_what_a_failed_row_may_refer_to_is_withdrawn_but_kept() -> None:
    rig = Rig(slot("m"), slot("n"), table("m"))
    rig.kernel.fail(TableRow, "t")
    assert rig.want(slot("n"), table("n")) == ["put SlotRow m withdrawn"]
    rig.kernel.refuse.clear()
    rig.clock.now += 1
    assert rig.sync() == ["put TableRow t", "delete SlotRow m"]
    assert not rig.kernel.dangling


def test_what_waits_holds_what_it_refers_to() -> None:
    rig = Rig(slot("m"), table("m"), route())
    rig.kernel.fail(ServiceRow, route().key)
    assert rig.want() == ["put SlotRow m withdrawn"]
    rig.kernel.refuse.clear()
    rig.clock.now += 1
    assert [line.split()[1] for line in rig.sync()] == ["ServiceRow", "TableRow", "SlotRow"]
    assert not rig.kernel.dangling


def test_a_failed_row_with_unknown_contents_holds_every_row_it_could_refer_to() -> None:
    rig = Rig(complete=False)
    rig.kernel.rows[SlotRow]["old"] = slot("old")
    rig.kernel.rows[TableRow]["t"] = table("old")
    rig.kernel.fail(TableRow, "t")
    rig.reconciler.set_desired(A, [slot("m"), table("m"), PolicyRow("10.0.0.0/8", 1)])
    rig.reconciler.mark_complete()
    assert rig.full() == ["put PolicyRow 10.0.0.0/8", "put SlotRow m"]
    rig.kernel.refuse.clear()
    rig.clock.now += 1
    assert rig.sync() == ["put TableRow t", "delete SlotRow old"]
    assert not rig.kernel.dangling


def test_a_row_that_failed_to_be_created_is_deleted_all_the_same() -> None:
    """Some of it may be there."""
    rig = Rig()
    rig.kernel.fail(SlotRow, "m")
    rig.want(slot("m"))
    rig.kernel.refuse.clear()
    assert rig.want() == ["delete SlotRow m"]


def test_a_row_that_was_never_applied_needs_no_delete() -> None:
    rig = Rig()
    rig.reconciler.set_desired(A, [slot("m")])
    assert rig.want() == []
    assert rig.reconciler.stats.dirty == 0


@pytest.mark.parametrize(
    "error", [KernelError("map slots is full", "raise machines"), OSError("no space")]
)
def test_a_driver_that_fails_as_a_whole_fails_each_row(error: Exception) -> None:
    rig = Rig()
    rig.kernel.broken = error
    rig.want(slot("m"), slot("n"))
    assert {failure.key for failure in rig.reconciler.failures} == {"m", "n"}
    rig.kernel.broken = None
    rig.clock.now += 1
    assert rig.sync() == ["put SlotRow m", "put SlotRow n"]


def test_a_kind_that_cannot_be_read_is_a_problem_of_its_own() -> None:
    rig = Rig(slot("m"), table("m"))
    rig.kernel.unreadable[SlotRow] = KernelError("cannot read map slots")
    del rig.kernel.rows[TableRow]["t"]
    assert rig.full() == ["put TableRow t"]
    assert "SlotRow: cannot read map slots" in rig.reconciler.problems[0]
    rig.kernel.unreadable.clear()
    rig.full()
    assert rig.reconciler.problems == []


def test_one_key_of_two_owners_has_one_winner_and_a_problem() -> None:
    rig = Rig(slot("m", "tap1"))
    rig.reconciler.set_desired(B, [slot("m", "tap2")])
    assert rig.sync() == []
    (problem,) = rig.reconciler.problems
    assert "SlotRow m: app a has it, app b wants another" in problem
    assert rig.want() == ["put SlotRow m"]
    assert rig.kernel.rows[SlotRow]["m"] == slot("m", "tap2")
    assert rig.reconciler.problems == []
    assert rig.want(slot("m", "tap1")) == ["put SlotRow m"]
    assert rig.kernel.rows[SlotRow]["m"] == slot("m", "tap1")
    assert rig.reconciler.owners() == [B, A]


def test_owners_that_agree_are_no_problem() -> None:
    rig = Rig(slot("m"))
    rig.reconciler.set_desired(B, [slot("m")])
    assert rig.reconciler.problems == []
    assert rig.want() == []
    assert rig.kernel.rows[SlotRow] == {"m": slot("m")}


def test_drivers_must_cover_each_kind_once() -> None:
    with pytest.raises(ValueError, match="two drivers for SlotRow"):
        Reconciler([FakeDriver([SlotRow]), FakeDriver([SlotRow])])
    reconciler = Reconciler([FakeDriver([SlotRow])])
    with pytest.raises(ValueError, match="no driver for TableRow"):
        reconciler.set_desired(A, [table()])


def test_stats_count_rows_by_kind() -> None:
    stats = Rig(slot("m"), slot("n"), table()).reconciler.stats
    assert (stats.rows["SlotRow"], stats.rows["TableRow"], stats.rows["VipRow"]) == (2, 1, 0)
    assert (stats.dirty, stats.failures) == (0, 0)


MACHINES = ("m1", "m2", "m3")
slots = st.builds(
    slot, st.sampled_from(MACHINES), st.sampled_from(("tap1", "tap2", "tap3")), st.booleans()
)
tables = st.builds(
    lambda name, backends: TableRow(name, tuple(sorted(backends))),
    st.sampled_from(("t", "u")),
    st.sets(st.sampled_from(MACHINES)),
)
routes = st.builds(route, st.sampled_from(("t", "u")), st.sampled_from((80, 81)))
refusable: list[RowId] = [(SlotRow, m) for m in MACHINES] + [(TableRow, "t"), (TableRow, "u")]
refusable += [(ServiceRow, route(port=port).key) for port in (80, 81)]


def consistent(rows: Sequence[Row]) -> list[Row]:
    """Of random rows those that a plan could ask for together."""
    found = {(type(row), row.key): row for row in rows}
    taken: set[object] = set()
    for row_id, row in list(found.items()):
        if taken.intersection(row.exclusive):
            del found[row_id]
        taken.update(row.exclusive)
    for kind in (TableRow, ServiceRow):
        for row_id, row in list(found.items()):
            if row_id[0] is kind and not all(ref in found for ref in row.references):
                del found[row_id]
    return list(found.values())


steps = st.tuples(
    st.lists(st.one_of(slots, tables, routes), max_size=8).map(consistent),
    st.sets(st.sampled_from(refusable), max_size=2),
    st.booleans(),
    st.booleans(),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=8))
def test_whatever_fails_no_index_ever_dangles_and_all_ends_well(
    todo: list[tuple[list[Row], set[RowId], bool, bool]],
) -> None:
    """After a restart only the driver knows what the rows that nobody wants had."""
    rig = Rig()
    rows: list[Row] = []
    restarted = False
    for rows, refused, full, restart in todo:
        rig.kernel.refuse.clear()
        for kind, key in refused:
            rig.kernel.fail(kind, key)
        if restart:
            restarted = True
            rig.reconciler = Reconciler([rig.kernel], clock=rig.clock)
            rig.reconciler.mark_complete()
        rig.reconciler.set_desired(A, rows)
        rig.clock.now += 0.3
        if full or restart:
            rig.reconciler.sync_full()
        else:
            rig.reconciler.sync_dirty()
        assert not rig.kernel.dangling
        assert restarted or not rig.kernel.shared
    rig.kernel.refuse.clear()
    rig.clock.now += 61
    rig.sync()
    assert rig.kernel.all() == {(type(row), row.key): row for row in rows}
    assert not rig.kernel.dangling
    assert rig.reconciler.stats.dirty == 0
