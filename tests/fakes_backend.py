# SPDX-License-Identifier: Apache-2.0
"""A daemon without a kernel, for tests of the API and the CLI."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flyebpf.api import server
from flyebpf.api.backend import (
    DaemonStatus,
    Delivery,
    DigAnswer,
    DigRecord,
    DropCounter,
    Fill,
    MeshStatus,
    PeerStatus,
    PoolUse,
    Problem,
    ProxyStatus,
    ServiceCounters,
    UplinkStatus,
)
from flyebpf.api.probes import Edge, Fetched, Reply, Trust, Way
from flyebpf.config import DaemonConfig, PoolsConfig
from flyebpf.errors import FlyebpfError
from flyebpf.ops import cluster
from flyebpf.store.base import Store
from flyebpf.store.sqlite import CHANGES_KEPT, SqliteStore

CONFIG = DaemonConfig(
    host="h1",
    region="ams",
    uplinks=("eth0",),
    pools=PoolsConfig(anycast_v4=("198.51.100.0/29",), anycast_v6=("2001:db8:f::/120",)),
)


DNS: dict[str, Any] = {
    "names": {"networks": 1, "apps": 2, "machines": 3, "peers": 0, "flycast": 0},
    "counts": {"faults": 0},
    "upstreams": [["192.0.2.53:53", 0.01, 0]],
    "revision": 7,
}

WEB = DigAnswer(
    "NOERROR",
    ("QR", "AA", "RD", "RA"),
    (DigRecord("web.internal.", 5, "AAAA", "fdaa:0:1:8000:1:0:10:2"),),
    (),
    58,
    0.4,
)


@dataclass
class FakeProbes:
    """Implements :class:`flyebpf.api.probes.Probes`; tests set what is found.
    ``open6``: ports that every machine has open on IPv6. ``edges``: by protocol and
    port; what is not there is the proxy's."""

    v4: Reply = Reply.OPEN
    open6: set[int] = field(default_factory=lambda: {8080})
    connected: Reply = Reply.OPEN
    fetched: Fetched = Fetched(Reply.OPEN, Trust.TRUSTED, 200, {"fly-request-id": "1"})  # noqa: RUF009
    by_port: dict[int, Fetched] = field(default_factory=dict)
    shaken: Fetched = Fetched(Reply.OPEN, Trust.TRUSTED)  # noqa: RUF009
    edges: dict[tuple[str, int], list[Edge]] = field(default_factory=dict)
    asked: list[tuple[str, int, str]] = field(default_factory=list)

    def private(self, address: str, port: int) -> Reply:
        return self.v4

    def sixpn(self, address: str, ports: Sequence[int]) -> Mapping[int, Reply]:
        return {p: Reply.OPEN if p in self.open6 else Reply.REFUSED for p in ports}

    def connect(self, address: str, port: int) -> Reply:
        return self.connected

    def fetch(self, address: str, port: int, host: str, *, tls: bool) -> Fetched:
        self.asked.append((address, port, host))
        return self.by_port.get(port, self.fetched)

    def handshake(self, address: str, port: int, host: str, *, postgres: bool = False) -> Fetched:
        self.asked.append((address, port, f"{host}, as PostgreSQL" if postgres else host))
        return self.shaken

    def edge(self, address: str, protocol: str, port: int) -> Sequence[Edge]:
        return self.edges.get((protocol, port), [Edge(Way.STACK)])


@dataclass
class FakeBackend:
    """Implements :class:`flyebpf.api.backend.Backend`; tests set what it says.

    ``answers``: by name and type, before ``dig_answer``.
    ``lag``: how many revisions the kernel is behind; it shrinks by one with
    every look at the status, so that waiting for it ends.
    """

    store: Store
    config: DaemonConfig = CONFIG
    problems: list[Problem] = field(default_factory=list)
    pending: int = 0
    lag: int = 0
    service_counters: list[ServiceCounters] = field(default_factory=list)
    drop_counters: list[DropCounter] = field(default_factory=list)
    mesh: MeshStatus | None = None
    copy: Store | None = None
    missing_interfaces: set[str] = field(default_factory=set)
    known_handshakes: dict[str, str] = field(default_factory=dict)
    peer_status: dict[str, PeerStatus] = field(default_factory=dict)
    reload_error: FlyebpfError | None = None
    crash: Exception | None = None
    asked: tuple[int, str, str, bool] | None = None
    dig_answer: DigAnswer = WEB
    answers: dict[tuple[str, str], DigAnswer] = field(default_factory=dict)
    dns_says: dict[str, Any] | None = field(default_factory=lambda: deepcopy(DNS))
    proxy_says: Mapping[str, Any] | None = None
    names_used: int = 3
    proxy_status: ProxyStatus | None = None
    probes: FakeProbes = field(default_factory=FakeProbes)

    def status(self) -> DaemonStatus:
        if self.crash is not None:
            raise self.crash
        revision = self.store.revision()
        behind, self.lag = self.lag, max(self.lag - 1, 0)
        return DaemonStatus(
            pid=4711,
            uptime=200.5,
            store_revision=revision,
            applied_revision=revision - behind,
            pending=self.pending,
            rows={"ServiceRow": 2, "SlotRow": 1},
            uplinks=[UplinkStatus("eth0", "native")],
            programs="3f2a90c1",
            adopted=True,
            problems=list(self.problems),
            mesh=self.mesh,
            proxy=self.proxy_status,
            delivery=Delivery(xdp=2, tc=1),
            pools=[PoolUse("198.51.100.0/29", 3, 8)],
            fill={
                "services": Fill(63, 64, "dataplane.services"),
                "flows": Fill(10, 1024, "dataplane.flows", sampled=True),
                "machines": Fill(0, 64, "dataplane.machines"),
                "names": Fill(self.names_used, 1000, "dataplane.names"),
                "maglev_entries": Fill(64, 64, "dataplane.maglev_entries"),
            },
        )

    def remembered(self) -> Store | None:
        return self.copy

    def reads_copy(self) -> bool:
        return False

    def reload(self) -> Sequence[str]:
        if self.reload_error is not None:
            raise self.reload_error
        return ["log.level: info -> debug"]

    def services(self) -> Sequence[ServiceCounters]:
        return self.service_counters

    def drops(self) -> Sequence[DropCounter]:
        return self.drop_counters

    def peers(self) -> Mapping[str, PeerStatus]:
        return self.peer_status

    def has_interface(self, name: str) -> bool:
        return name not in self.missing_interfaces

    def handshakes(self) -> Mapping[str, str]:
        return self.known_handshakes

    def occupants(self) -> Mapping[str, tuple[int, int]] | None:
        return None

    def dig(self, network: int, name: str, type: str, *, tcp: bool) -> DigAnswer:
        self.asked = (network, name, type, tcp)
        return self.answers.get((name, type), self.dig_answer)

    def proxy(self) -> Mapping[str, Any] | None:
        return self.proxy_says

    def dns(self) -> Mapping[str, Any] | None:
        return self.dns_says

    def counts(self) -> Mapping[str, int]:
        return {"passed": 12, "flow_new": 3}


@contextlib.contextmanager
def serving(directory: Path, changes_kept: int = CHANGES_KEPT) -> Iterator[tuple[FakeBackend, str]]:
    """A backend on a fresh SQLite store, and the socket that its API is on."""
    store = SqliteStore(directory / "state.db", durable=False, changes_kept=changes_kept)
    path = str(directory / "api.sock")
    backend = FakeBackend(store)
    cluster.ensure(store, backend.config)
    running = server.ApiServer(backend, server.listen(path, "root"))
    running.start()
    try:
        yield backend, path
    finally:
        running.stop()
        store.close()
