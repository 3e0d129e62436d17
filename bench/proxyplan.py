# SPDX-License-Identifier: Apache-2.0
"""Planning what the proxy serves, against drivers in memory: all of it, and one change.

``python -m bench.proxyplan [--json]``. Every app has a shared address, a Flycast
address, ports 80 and 443, a certificate of its own and two machines on this host.
*plan*: of everything. A *change* is from the store's to the applied rows, the
median of some: a machine that stops or starts, a certificate that is renewed, a
new app with all that belongs to it, the operator's certificate (which is every
app's). Times in ms of the processor; memory in MB is that of the whole process.
"""

from __future__ import annotations

import statistics
import string
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from bench.plan import Daemon, dotted, resident_mb
from bench.rig import report
from flyebpf.model.codec import encode
from flyebpf.model.proxyrows import ProxyRow
from flyebpf.model.records import AnyRecord, App, MachineState
from flyebpf.store.base import Entry
from tests.fakes import FakeDriver
from tests.records import (
    CLUSTER,
    NETWORK,
    PROXY,
    deployment,
    flycast,
    host,
    machine,
    pair,
    service,
    shared,
)

SIZES = (1, 1_000, 10_000)
CHANGES = 100
PEM = "x" * 3000  # bytes of a chain as authorities give them


def app_name(number: int) -> str:
    """Spread over the alphabet, as names are."""
    return f"{string.ascii_lowercase[number % 26]}pp{number}"


def records(number: int) -> Iterator[AnyRecord]:
    """An app with all that belongs to it."""
    name = app_name(number)
    yield App(name, "acme")
    web = service(80, handlers=("http",)), service(443, handlers=("http", "tls"))
    yield deployment(*web, app=name)
    yield shared(name)
    yield flycast(name, number + 1)
    yield replace(pair(f"www{number}.example.com", name), chain=f"{number} {PEM}")
    for place in (2 * number, 2 * number + 1):
        private, services = (dotted(0xAC100000, 4 + 2 * place + i) for i in (0, 1))
        yield replace(machine(0), id=f"{place:014x}", app=name, interface=f"tap{place}",
                      private_ip=private, services_ip=services, number=16 + place)  # fmt: skip


def entries(apps: int) -> list[Entry]:
    made = [CLUSTER, NETWORK, host(1), pair("*.fly.test", "")]
    made += [record for number in range(apps) for record in records(number)]
    return [Entry(record.kind, record.ident, encode(record), 1) for record in made]


def timed(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return (time.process_time() - start) * 1000


def median(daemon: Daemon, changes: list[AnyRecord]) -> float:
    return statistics.median(timed(lambda r=record: daemon.change(r)) for record in changes)


def machine_change_ms(daemon: Daemon) -> float:
    machines = list(daemon.state.machines.values())
    some = machines[:: max(len(machines) // CHANGES, 1)]
    stopped = [replace(one, state=MachineState.STOPPED) for one in some]
    return median(daemon, [one for pair in zip(stopped, some, strict=True) for one in pair])


def certificate_change_ms(daemon: Daemon) -> float:
    found = [c for c in daemon.state.vault.pairs.values() if c.app][:CHANGES]
    return median(daemon, [replace(one, chain=f"new {one.chain}") for one in found])


def new_app_ms(daemon: Daemon, apps: int) -> float:
    """Its records one by one, as several commands write them."""
    times = []
    for number in range(apps, apps + CHANGES):
        made = list(records(number))
        times.append(timed(lambda made=made: [daemon.change(record) for record in made]))
    return statistics.median(times)


def operator_change_ms(daemon: Daemon) -> float:
    renewed = replace(pair("*.fly.test", ""), chain="new chain")
    return timed(lambda: daemon.change(renewed))


def measure(apps: int) -> tuple[float, ...]:
    kernel = FakeDriver()
    kernel.watch = False
    daemon = Daemon(entries(apps), kernel, PROXY)
    plan = timed(daemon.plan)
    daemon.reconciler.sync_full()
    stats = daemon.reconciler.stats
    rows = sum(count for kind, count in stats.rows.items() if kind.startswith("Proxy"))
    assert daemon.reconciler.wanted(ProxyRow), "the proxy is planned"
    assert not daemon.planner.problems
    changes = (
        machine_change_ms(daemon),
        certificate_change_ms(daemon),
        new_app_ms(daemon, apps),
        operator_change_ms(daemon),
    )
    return (rows, round(plan, 1), *(round(t, 2) for t in changes), round(resident_mb()))


COLUMNS = (
    "apps",
    "proxy rows",
    "plan ms",
    "machine change ms",
    "certificate change ms",
    "new app ms",
    "operator's certificate ms",
    "resident MB",
)


def main() -> None:
    rows = [(size, *measure(size)) for size in SIZES]
    report("Planning what the proxy serves, drivers in memory", COLUMNS, rows)


if __name__ == "__main__":
    main()
