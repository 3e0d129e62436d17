# SPDX-License-Identifier: Apache-2.0
"""The daemon, as the API and the metrics see it."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flyebpf.api.backend import (
    DaemonStatus,
    DigAnswer,
    DropCounter,
    PeerStatus,
    Problem,
    ServiceCounters,
    Severity,
    UplinkStatus,
)
from flyebpf.api.probes import Probes
from flyebpf.bpf.loader import Generation, Origin
from flyebpf.config import DaemonConfig
from flyebpf.daemon import dig, usage
from flyebpf.daemon.checks import ChecksAgent
from flyebpf.daemon.dns import DnsAgent
from flyebpf.daemon.engine import Engine
from flyebpf.daemon.mainloop import MainLoop
from flyebpf.daemon.mesh import MeshAgent
from flyebpf.daemon.problems import problems
from flyebpf.daemon.proxy import ProxyAgent
from flyebpf.drivers.counters import Counters
from flyebpf.errors import FlyebpfError, UnavailableError
from flyebpf.model.reasons import Count
from flyebpf.model.rows import UserPeerRow
from flyebpf.store.base import Remembering, Store

log = logging.getLogger(__name__)

STATUS_PATIENCE = 0.5  # seconds to wait for the main thread before an older answer does
RELOAD_PATIENCE = 60.0


class DaemonBackend:
    """Implements :class:`flyebpf.api.backend.Backend`; for any thread."""

    def __init__(
        self,
        engine: Engine,
        *,
        store: Store,
        counters: Counters,
        generation: Generation,
        loop: MainLoop,
        reread: Callable[[], Sequence[str]],
        fences: Callable[[], Mapping[str, tuple[int, int]]],
        probes: Probes,
    ) -> None:
        """``reread`` reads the configuration again, in the main thread;
        ``fences`` reads the counters of the nftables rules."""
        self._engine = engine
        self._store = store
        self._counters = counters
        self._generation = generation
        self._loop = loop
        self._reread = reread
        self._fences = fences
        self.probes = probes
        self._started = time.monotonic()
        self._status: DaemonStatus | None = None
        self.extra_problems: Callable[[], list[Problem]] = list
        self._mesh: MeshAgent | None = None
        self._dns: DnsAgent | None = None
        self._checks: ChecksAgent | None = None
        self._proxy: ProxyAgent | None = None

    @property
    def store(self) -> Store:
        return self._store

    def remembered(self) -> Store | None:
        return self._store.remembered() if isinstance(self._store, Remembering) else None

    def reads_copy(self) -> bool:
        return isinstance(self._store, Remembering) and self._store.from_copy()

    @property
    def config(self) -> DaemonConfig:
        return self._engine.config

    def status(self) -> DaemonStatus:
        try:
            return self._loop.call(self.look, STATUS_PATIENCE)
        except TimeoutError:
            if self._status is None:
                return self._starting()
            uptime = time.monotonic() - self._started
            return replace(self._status, uptime=uptime, store_revision=self._stored()[0])

    def _stored(self) -> tuple[int, list[Problem]]:
        """The store's revision; when it cannot be read, the last one known."""
        try:
            return self._store.revision(), []
        except FlyebpfError as error:
            remedy = f"Packets are forwarded as before; nothing can be changed. {error.remedy}"
            return self._engine.state.revision, [Problem("store", error.message, remedy.strip())]

    def look(self) -> DaemonStatus:
        """The status now; in the main thread."""
        engine = self._engine
        modes = engine.netlink.uplinks.modes
        stats = engine.reconciler.stats
        revision, away = self._stored()
        extra = [p for p in self.extra_problems() if not away or p.object != away[0].object]
        self._status = DaemonStatus(
            pid=os.getpid(),
            uptime=time.monotonic() - self._started,
            store_revision=revision,
            applied_revision=engine.applied_revision,
            pending=stats.dirty,
            rows={kind.removesuffix("Row").lower(): n for kind, n in stats.rows.items()},
            uplinks=[UplinkStatus(name, modes.get(name, "")) for name in self.config.uplinks],
            programs=self._generation.hash,
            adopted=self._generation.origin is Origin.ADOPTED,
            problems=[*away, *problems(engine), *extra],
            delivery=usage.delivery(engine),
            pools=usage.pools(self.config, engine.state.addresses.values()),
            fill={
                **usage.tables(engine),
                "flows": usage.flows(self._counters.flow_entries(), self.config.dataplane),
            },
            mesh=self._mesh.status(engine.mesh_view()) if self._mesh else None,
            proxy=self._proxy.status() if self._proxy else None,
        )
        return self._status

    def _starting(self) -> DaemonStatus:
        """Before the main thread has time for the first answer."""
        starting = Problem(
            "daemon",
            "the daemon is comparing the kernel with the store",
            "Packets are forwarded as before; ask again in a moment.",
            Severity.WARNING,
        )
        return DaemonStatus(
            pid=os.getpid(),
            uptime=time.monotonic() - self._started,
            store_revision=self._stored()[0],
            applied_revision=self._engine.applied_revision,
            pending=0,
            rows={},
            uplinks=[UplinkStatus(name, "") for name in self.config.uplinks],
            programs=self._generation.hash,
            adopted=self._generation.origin is Origin.ADOPTED,
            problems=[starting],
        )

    def reload(self) -> Sequence[str]:
        try:
            return self._loop.call(self._reread, RELOAD_PATIENCE)
        except TimeoutError as error:
            raise UnavailableError(
                "the daemon is busy applying other changes", "Try again in a moment."
            ) from error

    def services(self) -> Sequence[ServiceCounters]:
        if not self._engine.loaded:
            return []
        totals: dict[str, tuple[int, ...]] = {}
        for counter in {name for names in list(self._engine.services.values()) for name in names}:
            index = self._engine.maps.service_id(counter)
            if index is None:
                continue
            service, _, _ = counter.partition("@")
            values = self._counters.service(index)
            before = totals.get(service, (0,) * len(values))
            totals[service] = tuple(a + b for a, b in zip(before, values, strict=True))
        return [ServiceCounters(service, *totals[service]) for service in sorted(totals)]

    def drops(self) -> Sequence[DropCounter]:
        return [
            DropCounter(reason, packets, size)
            for reason, (packets, size) in self._counters.drops().items()
        ]

    def peers(self) -> Mapping[str, PeerStatus]:
        """Empty where this host has no device for users' peers."""
        names = {row.interface for row in self._engine.reconciler.wanted(UserPeerRow)}
        if self._mesh is None or not names:
            return {}
        return self._mesh.user_peers(names.pop())

    def has_interface(self, name: str) -> bool:
        try:
            return socket.if_nametoindex(name) > 0
        except OSError:
            return False

    def handshakes(self) -> Mapping[str, str]:
        return self._mesh.handshakes() if self._mesh else {}

    def occupants(self) -> Mapping[str, tuple[int, int]] | None:
        state = self._engine.state
        if not self._engine.loaded:
            return None
        return {
            name: (state.count_machines_on(name), state.count_peers_at(name))
            for name in list(state.hosts)
        }

    def watch_mesh(self, agent: MeshAgent) -> None:
        """Tell of the mesh from now on."""
        self._mesh = agent

    def watch_dns(self, agent: DnsAgent) -> None:
        """Ask and tell of DNS from now on."""
        self._dns = agent

    def watch_proxy(self, agent: ProxyAgent) -> None:
        """Tell of the proxy from now on."""
        self._proxy = agent

    def proxy(self) -> Mapping[str, Any] | None:
        """See :meth:`flyebpf.daemon.proxy.ProxyAgent.metrics`."""
        found = self._proxy.metrics() if self._proxy else None
        if found is not None and self._checks is not None:
            found["checks"] = self._checks.metrics()
        return found

    def watch_checks(self, agent: ChecksAgent) -> None:
        """Tell of checks from now on."""
        self._checks = agent

    def dns(self) -> Mapping[str, Any] | None:
        """What the DNS process counts (``dns.process.Control.metrics``), or None."""
        return self._dns.metrics() if self._dns else None

    def dig(self, network: int, name: str, type: str, *, tcp: bool) -> DigAnswer:
        if self._dns is None:
            raise UnavailableError("this daemon serves no DNS", "Ask another host.")
        own = self._engine.state.hosts.get(self.config.host)
        return dig.dig(self._dns.client, (network, own.number if own else 0), name, type, tcp=tcp)

    def counts(self) -> Mapping[str, int]:
        values = self._counters.counts()
        return {count.name.lower(): values[count] for count in Count}

    def flow_entries(self) -> int:
        """See :meth:`flyebpf.drivers.counters.Counters.flow_entries`."""
        return self._counters.flow_entries()

    def fences(self) -> Mapping[str, tuple[int, int]]:
        """Packets and bytes by counter; empty when they cannot be read."""
        try:
            return self._fences()
        except FlyebpfError as error:
            log.warning("%s", error.message)
            return {}

    def certificate_ends(self) -> Sequence[str]:
        """See :class:`flyebpf.metrics.Measured`."""
        return [c.not_after for c in list(self._engine.state.vault.certificates.values())]

    def reconciling(self) -> Mapping[str, float]:
        """See :class:`flyebpf.metrics.Measured`."""
        stats = self._engine.reconciler.stats
        return {
            "failures": stats.failures,
            "drift_repaired": stats.drift_repaired,
            "last_sync_seconds": stats.last_sync_seconds,
            "last_full_seconds": stats.last_full_seconds,
        }
