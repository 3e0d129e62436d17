# SPDX-License-Identifier: Apache-2.0
"""Many apps in one Envoy: what a change takes to be effective, and what it all costs.

``python -m bench.proxyscale [--json] [APPS…]``. Planner, control plane and Envoy as on a
host, in a network namespace of their own, without BPF and machines: one server answers
at all machines' addresses. Every app has a shared address, a Flycast address, ports 80
and 443, a certificate of its own and two machines (``bench.proxyplan``).

*change*: from just before the record is applied until a client of the app gets an answer
that shows it, ms. *endpoint*: one machine of an app takes over from the other. *app*: a
new one with all that belongs to it. *cold start*: from Envoy's start until it listens,
when the control plane knows everything. CPU is in ms for each new app.
"""

from __future__ import annotations

import ctypes
import http.client
import logging
import os
import socket
import socketserver
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.plan import Daemon, put, resident_mb
from bench.proxyplan import app_name, entries, records
from bench.rig import report, require_root
from flyebpf.config import LogConfig
from flyebpf.drivers.proxy_envoy import Envoy, end, prepare, user_entry
from flyebpf.drivers.proxy_feed import Feed
from flyebpf.model.proxyrows import ProxyRow
from flyebpf.model.records import AnyRecord, MachineState
from flyebpf.model.rows import Row
from flyebpf.proxy.bootstrap import Paths
from flyebpf.proxy.loads import Loads
from flyebpf.proxy.table import KINDS, Table
from flyebpf.reconcile.base import Failure
from tests.fakes import FakeDriver
from tests.records import PROXY

SIZES = (1, 1_000, 10_000)
CHANGES = 20
PATIENCE = 120.0
NEW_NAMESPACE = 0x40000000  # CLONE_NEWNET
USER = "nobody"
TICKS = os.sysconf("SC_CLK_TCK")


class Driver(FakeDriver):
    """Keeps rows in memory, the proxy's in a table that Envoy is told of."""

    def __init__(self, feed: Feed) -> None:
        super().__init__()
        self.watch = False
        self.table = Table()
        self.feed = feed

    def apply(
        self, kind: type[Row], puts: Sequence[Row], deletes: Sequence[Hashable]
    ) -> list[Failure]:
        if kind in KINDS:
            for row in puts:
                self.table.put(row)
            for key in deletes:
                self.table.remove(kind, key)
            self.feed.send(*self.table.changes())
        return super().apply(kind, puts, deletes)


class Answer(socketserver.StreamRequestHandler):
    """Says by which address it was reached."""

    def handle(self) -> None:
        with suppress(OSError):
            while self.rfile.readline(65536):
                while self.rfile.readline(65536) not in (b"\r\n", b""):
                    pass
                said = self.connection.getsockname()[0].encode()
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said))
                self.wfile.write(said)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024


@contextmanager
def backend() -> Iterator[None]:
    with Server(("0.0.0.0", 8080), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


def namespace() -> None:
    """This process goes into a new one, where machines' addresses are local."""
    if ctypes.CDLL(None, use_errno=True).unshare(NEW_NAMESPACE) != 0:
        sys.exit("a network namespace cannot be made")
    for command in ("link set lo up", "route add local 172.16.0.0/12 dev lo"):
        subprocess.run(["ip", *command.split()], check=True)


def cpu_ms(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / TICKS


def memory_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * 4096 / 1e6)


class World:
    """One control plane and one Envoy."""

    def __init__(self, apps: int, folder: Path) -> None:
        paths = Paths(folder)
        user = user_entry(USER)
        prepare(paths, user.pw_uid, user.pw_gid)
        log = LogConfig()
        self.feed = Feed(paths.ads, USER, log, Loads(), lambda: None)
        self.driver = Driver(self.feed)
        self.feed.begin()
        self.daemon = Daemon(entries(apps), self.driver, PROXY)
        self.daemon.plan()
        self.daemon.reconciler.sync_full()
        self.feed.ready()
        self.feed.start()
        until(lambda: bool(self.feed.report.get("listening")), "the control plane listens")
        (row,) = self.driver.table.rows[ProxyRow].values()
        assert isinstance(row, ProxyRow)
        subprocess.run(["ip", "address", "add", f"{row.source}/32", "dev", "lo"], check=False)
        self.envoy = Envoy(row, paths, USER, 1)
        begun = time.monotonic()
        self.pid = self.envoy.start()
        self.port = until(self._port, "Envoy listens")
        self.cold = time.monotonic() - begun

    def _port(self) -> int:
        found = self.envoy.listening(self.pid)
        if "shared-http" not in found:
            return 0
        with socket.socket(fileno=os.dup(found["shared-http"][0])) as listening:
            number = int(listening.getsockname()[1])
        for pair in found.values():
            for descriptor in pair:
                os.close(descriptor)
        return number

    def close(self) -> None:
        end(self.pid)
        self.feed.close(end=True)

    def asked(self, number: int) -> str:
        """Who answers for an app; "" for nobody."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/", headers={"Host": f"{app_name(number)}.fly.test"})
            answer = connection.getresponse()
            return answer.read().decode() if answer.status == 200 else ""
        except (OSError, http.client.HTTPException):
            return ""
        finally:
            connection.close()

    def apply(self, *made: AnyRecord) -> None:
        """All of them, as one command writes them."""
        owners: dict[Any, None] = {}
        state = self.daemon.state
        for record in made:
            update = state.apply(put(state, record))
            owners.update(dict.fromkeys(self.daemon.planner.owners(update, state)))
        for owner in owners:
            rows = self.daemon.planner.rows(state, owner)
            self.daemon.reconciler.set_desired(owner, rows)
        self.daemon.reconciler.sync_dirty()

    def endpoint_ms(self, number: int) -> float:
        """The second machine takes over from the first."""
        state = self.daemon.state
        first, second = (state.machines[f"{2 * number + place:014x}"] for place in (0, 1))
        self.apply(replace(second, state=MachineState.STOPPED))
        until(lambda: self.asked(number) == first.private_ip, "the first one serves")
        begun = time.monotonic()
        self.apply(second, replace(first, state=MachineState.STOPPED))
        until(lambda: self.asked(number) == second.private_ip, "the second one serves")
        return (time.monotonic() - begun) * 1000

    def new_app_ms(self, number: int) -> float:
        made = list(records(number))
        begun = time.monotonic()
        self.apply(*made)
        until(lambda: bool(self.asked(number)), "the new app is served")
        return (time.monotonic() - begun) * 1000


def until(condition: Any, what: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        if time.monotonic() > deadline:
            sys.exit(f"not within {PATIENCE:g} s: {what}")
        time.sleep(0.002)
    return found


def measure(apps: int) -> tuple[float, ...]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flyebpf-bench-")))
        folder.chmod(0o755)
        world = World(apps, folder / "proxy")
        stack.callback(world.close)
        until(lambda: bool(world.asked(apps - 1)), "the last app is served")
        memory = (memory_mb(world.pid), memory_mb(world.feed.pid), round(resident_mb()))
        step = max(apps // CHANGES, 1)
        changed = sorted(world.endpoint_ms(number) for number in range(0, apps, step))
        before = cpu_ms(world.pid), cpu_ms(world.feed.pid), time.process_time() * 1000
        new = sorted(world.new_app_ms(number) for number in range(apps, apps + CHANGES))
        after = cpu_ms(world.pid), cpu_ms(world.feed.pid), time.process_time() * 1000
        spent = [round((b - a) / CHANGES, 1) for a, b in zip(before, after, strict=True)]
    return (
        round(world.cold, 2),
        *(round(value, 1) for value in (statistics.median(changed), changed[-1])),
        *(round(value, 1) for value in (statistics.median(new), new[-1])),
        *spent,
        *memory,
    )


COLUMNS = (
    *("apps", "cold start s", "endpoint p50", "max", "app p50", "max"),
    *("Envoy CPU", "control plane CPU", "planner CPU"),
    *("Envoy MB", "control plane MB", "planner MB"),
)


def main() -> None:
    require_root()
    logging.disable(logging.WARNING)
    namespace()
    sizes = [int(word) for word in sys.argv[1:] if word.isdecimal()] or SIZES
    with backend():
        rows = [(size, *measure(size)) for size in sizes]
    report("Many apps in one Envoy", COLUMNS, rows)


if __name__ == "__main__":
    main()
