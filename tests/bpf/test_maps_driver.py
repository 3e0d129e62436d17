# SPDX-License-Identifier: Apache-2.0
"""The maps driver on the kernel's own maps: types, batches, full maps."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from flyebpf.bpf.libbpf import Map
from flyebpf.bpf.maps import map_specs
from flyebpf.config import DataplaneConfig
from flyebpf.drivers.bpf_maps import MapsDriver
from flyebpf.drivers.counters import Counters
from flyebpf.drivers.link import Link
from flyebpf.model.roworder import ROW_ORDER
from flyebpf.model.rows import (
    HostRow,
    PolicyRow,
    ReplyRow,
    Row,
    ServiceRow,
    SettingsRow,
    SlotRow,
    TableRow,
    VipRow,
)
from flyebpf.model.sixpn import HOST_BIT
from flyebpf.reconcile.base import Failure

pytestmark = pytest.mark.root

CONFIG = DataplaneConfig(
    flows=4096,
    services=1024,
    machines=2048,
    hosts=1024,
    maglev_entries=65_536,
    pool_addresses=1024,
    fragments=64,
)
MACHINES = tuple(f"{number:014x}" for number in range(1, 601))


@pytest.fixture
def maps() -> Iterator[dict[str, Map]]:
    made = {spec.name: Map.create(spec) for spec in map_specs(CONFIG)}
    yield made
    for table in made.values():
        table.close()


def driver(maps: dict[str, Map]) -> MapsDriver:
    def build(backends: Sequence[str], size: int) -> array[int]:
        return array("I", (i % len(backends) for i in range(size)))

    return MapsDriver(
        maps,
        CONFIG,
        link_of=lambda name: Link(int(name.removeprefix("tap")) + 10, bytes(6), True),
        build_table=build,
        table_size=lambda count: min(count, 1) * 7,
    )


def world() -> list[Row]:
    """More rows than one batch of lookups, of every kind."""
    rows: list[Row] = [
        SettingsRow("settings", ("203.0.112.0/22",), "172.16.0.0/12", "100.64.0.0/12", (), 7),
        PolicyRow("0.0.0.0/0", 0),
        PolicyRow("10.0.0.0/8", 40),
    ]
    for i, machine in enumerate(MACHINES):
        vip, app = f"203.0.{112 + i // 256}.{i % 256}", f"app{i}"
        addresses = (f"172.16.{i // 128}.{2 * (i % 128)}", f"172.16.{i // 128}.{2 * (i % 128) + 1}")
        rows += [
            SlotRow(machine, f"tap{i}", "02:00:00:00:00:01", *addresses, True, 7, HOST_BIT, 16 + i),
            SlotRow(f"f{machine[1:]}", *[""] * 4, True, 0, HOST_BIT | i, 1000 + i, remote=True),
            HostRow(HOST_BIT | i, f"h{i}", "tap0", "192.0.2.1"),
            TableRow(app, (machine,)),
            ReplyRow(machine, 6, 8080, vip, 80, f"{app}/tcp/80", True),
            ServiceRow(vip, 6, 80, 80, f"{app}/tcp/80", app, 8080, False, False),
            VipRow(vip, app, i == 0),
        ]
    rows.append(ServiceRow("203.0.112.0", 17, 1000, 1999, "app0/udp/1000", "app0", 53, True, False))
    return rows


def put(target: MapsDriver, rows: Sequence[Row]) -> list[Failure]:
    failures: list[Failure] = []
    for kind in ROW_ORDER:
        chosen = [row for row in rows if type(row) is kind]
        failures += target.apply(kind, chosen, ()) if chosen else []
    return failures


def drift(target: MapsDriver, rows: Sequence[Row]) -> dict[str, object]:
    """What differs from ``rows``, or is there beside them."""
    target.learn([row for row in rows if isinstance(row, TableRow)])
    bad: dict[str, object] = {}
    for kind in target.kinds:
        actual = target.read(kind)
        for row in rows:
            if type(row) is kind and actual.pop(row.key, None) != target.fingerprint(row):
                bad[f"{kind.__name__} {row.key}"] = row
        bad.update((f"{kind.__name__} {key}", "unwanted") for key in actual)
    return bad


def test_everything_is_written_recognised_and_deleted(maps: dict[str, Map]) -> None:
    rows = world()
    first = driver(maps)
    assert put(first, rows) == []
    assert drift(first, rows) == {}
    second = driver(maps)
    assert drift(second, rows) == {}
    for kind in reversed(ROW_ORDER):
        keys = [row.key for row in rows if type(row) is kind]
        if keys and kind is not SettingsRow:
            assert second.apply(kind, (), keys) == []
    second.sweep()
    assert drift(driver(maps), rows[:1]) == {}
    assert list(maps["ids"].items()) == []
    assert list(maps["service_ranges"].items()) == []


def test_a_full_map_is_named(maps: dict[str, Map]) -> None:
    rows = world()
    target = driver(maps)
    put(target, rows)
    base = next(row for row in rows if isinstance(row, ServiceRow))
    many = [replace(base, first_port=port, last_port=port) for port in range(1, 1000)]
    failures = target.apply(ServiceRow, many, ())
    assert len(failures) == len(many) + 600 - 1 - CONFIG.services, "the rest went on"
    assert {failure.error for failure in failures} == {"the map services is full"}


def test_counters_start_at_zero(maps: dict[str, Map]) -> None:
    counters = Counters(maps, 1024)
    assert counters.service(0) == (0,) * 5
    assert counters.drops() == {}
    assert not any(counters.counts())
    assert counters.flow_entries() == 0


def test_one_change_does_not_cost_more_as_the_total_grows(maps: dict[str, Map]) -> None:
    rows = world()
    target = driver(maps)
    few = [row for row in rows if row.key != "unused"][:20]
    put(target, few)
    change = next(row for row in rows if isinstance(row, SlotRow))

    def cost() -> float:
        times = []
        for live in (False, True) * 20:
            begun = time.perf_counter()
            target.apply(SlotRow, [replace(change, live=live)], ())
            times.append(time.perf_counter() - begun)
        return min(times)

    small = cost()
    put(target, rows)
    assert cost() < 5 * small
