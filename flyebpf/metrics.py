# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics: read from the maps when they are scraped."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import socketserver
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric

from flyebpf import certmetrics, dnsmetrics, meshmetrics, proxymetrics
from flyebpf.api.backend import Backend, DaemonStatus
from flyebpf.errors import UnavailableError
from flyebpf.model.reasons import DESCRIPTIONS, DropReason

log = logging.getLogger(__name__)
MAX_SCRAPES = 8
NAMES = {int(reason): reason.label for reason in DropReason}


class Measured(Backend, Protocol):
    """What metrics ask beyond what the API does."""

    def flow_entries(self) -> int:
        """Used entries of the flow table, estimated."""

    def fences(self) -> Mapping[str, tuple[int, int]]:
        """Packets and bytes by counter of the nftables rules."""

    def certificate_ends(self) -> Sequence[str]:
        """When each certificate expires, RFC 3339 in UTC."""

    def reconciling(self) -> Mapping[str, float]:
        """``failures``, ``drift_repaired``, ``last_sync_seconds``,
        ``last_full_seconds``."""


class Collector:
    """One scrape is one reading of each map."""

    def __init__(self, backend: Measured) -> None:
        self._backend = backend

    def collect(self) -> Iterator[Metric]:
        yield from self._services()
        yield from self._drops()
        yield from self._counts()
        yield from self._fences()
        yield from self._reconciling()
        yield from proxymetrics.proxy(self._backend.proxy())
        yield from self._daemon()

    def _services(self) -> Iterator[Metric]:
        labels = ("app", "service", "direction")
        packets = CounterMetricFamily(
            "flyebpf_service_packets", "Packets of a service.", labels=labels
        )
        size = CounterMetricFamily(
            "flyebpf_service_bytes", "Bytes (L3) of a service.", labels=labels
        )
        flows = CounterMetricFamily(
            "flyebpf_service_flows", "Flows that a service got.", labels=labels[:2]
        )
        for counted in self._backend.services():
            app, _, service = counted.service.partition("/")
            packets.add_metric((app, service, "in"), counted.in_packets)
            packets.add_metric((app, service, "out"), counted.out_packets)
            size.add_metric((app, service, "in"), counted.in_bytes)
            size.add_metric((app, service, "out"), counted.out_bytes)
            flows.add_metric((app, service), counted.flows)
        yield from (packets, size, flows)

    def _drops(self) -> Iterator[Metric]:
        packets = CounterMetricFamily(
            "flyebpf_drops", "Packets dropped by the programs, by reason.", labels=("reason",)
        )
        size = CounterMetricFamily(
            "flyebpf_drop_bytes", "Bytes (L2) of dropped packets.", labels=("reason",)
        )
        found = {drop.reason: drop for drop in self._backend.drops()}
        for reason in sorted({*found, *map(int, DESCRIPTIONS)}):
            label = NAMES.get(reason, str(reason))
            drop = found.get(reason)
            packets.add_metric((label,), drop.packets if drop else 0)
            size.add_metric((label,), drop.bytes if drop else 0)
        yield from (packets, size)

    def _counts(self) -> Iterator[Metric]:
        counts = CounterMetricFamily(
            "flyebpf_counts", "What else the programs count.", labels=("what",)
        )
        for what, value in self._backend.counts().items():
            counts.add_metric((what,), value)
        yield counts
        yield GaugeMetricFamily(
            "flyebpf_flow_entries",
            "Used entries of the flow table, estimated from 1024 of its buckets; "
            "flows that ended count until others take their place.",
            self._backend.flow_entries(),
        )

    def _fences(self) -> Iterator[Metric]:
        packets = CounterMetricFamily(
            "flyebpf_fence_packets",
            "Packets of VMs that the nftables rules dropped, or translated (vm_nat).",
            labels=("rule",),
        )
        for rule, (count, _) in self._backend.fences().items():
            packets.add_metric((rule,), count)
        yield packets

    def _reconciling(self) -> Iterator[Metric]:
        found = self._backend.reconciling()
        yield GaugeMetricFamily(
            "flyebpf_failed_rows", "Rows that could not be applied.", found["failures"]
        )
        yield CounterMetricFamily(
            "flyebpf_drift_repaired", "Rows that somebody else changed.", found["drift_repaired"]
        )
        yield GaugeMetricFamily(
            "flyebpf_last_sync_seconds", "How long the last pass took.", found["last_sync_seconds"]
        )
        yield GaugeMetricFamily(
            "flyebpf_last_full_sync_seconds",
            "How long the last comparison with the kernel took.",
            found["last_full_seconds"],
        )

    def _daemon(self) -> Iterator[Metric]:
        status = self._backend.status()
        rows = GaugeMetricFamily("flyebpf_rows", "Rows wanted in the kernel.", labels=("kind",))
        for kind, count in status.rows.items():
            rows.add_metric((kind,), count)
        yield rows
        yield GaugeMetricFamily(
            "flyebpf_pending_rows", "Rows that are not applied.", status.pending
        )
        problems = GaugeMetricFamily(
            "flyebpf_problems", "What status reports as wrong.", labels=("severity",)
        )
        for severity in ("error", "warning"):
            count = sum(problem.severity.value == severity for problem in status.problems)
            problems.add_metric((severity,), count)
        yield problems
        yield from usage(status)
        yield from meshmetrics.mesh(status.mesh)
        yield from meshmetrics.users(self._backend.peers())
        yield from certmetrics.certificates(self._backend.certificate_ends())
        yield from dnsmetrics.dns(self._backend.dns(), self._backend.counts().get("dns_answer", 0))
        yield GaugeMetricFamily(
            "flyebpf_store_revision", "Last revision of the store.", status.store_revision
        )
        yield GaugeMetricFamily(
            "flyebpf_applied_revision", "Last revision applied.", status.applied_revision
        )
        yield GaugeMetricFamily(
            "flyebpf_uptime_seconds", "Since the daemon started.", status.uptime
        )
        config = self._backend.config
        yield InfoMetricFamily(
            "flyebpf_build",
            "Versions and place.",
            {
                "version": version(),
                "programs": status.programs,
                "host": config.host,
                "region": config.region,
            },
        )


def usage(status: DaemonStatus) -> Iterator[Metric]:
    """How full pools and tables are, and how packets reach the machines."""
    machines = GaugeMetricFamily(
        "flyebpf_machines", "Machines of this host, by how packets reach them.", labels=("way",)
    )
    for way in ("xdp", "tc", "missing"):
        machines.add_metric((way,), getattr(status.delivery, way))
    yield machines
    allocated = GaugeMetricFamily(
        "flyebpf_pool_allocated", "Addresses that apps have.", labels=("pool",)
    )
    addresses = GaugeMetricFamily("flyebpf_pool_size", "Addresses.", labels=("pool",))
    for pool in status.pools:
        allocated.add_metric((pool.cidr,), pool.allocated)
        addresses.add_metric((pool.cidr,), pool.size)
    used = GaugeMetricFamily(
        "flyebpf_table_used", "Entries in use of what can run out.", labels=("table",)
    )
    size = GaugeMetricFamily("flyebpf_table_size", "Entries that there are.", labels=("table",))
    for name, fill in status.fill.items():
        used.add_metric((name,), fill.used)
        size.add_metric((name,), fill.size)
    yield from (allocated, addresses, used, size)


def version() -> str:
    """The installed version, "unknown" in a source tree."""
    try:
        return metadata.version("flyebpf")
    except metadata.PackageNotFoundError:
        return "unknown"


class Handler(BaseHTTPRequestHandler):
    """GET /metrics, and nothing else."""

    registry: CollectorRegistry

    def do_GET(self) -> None:
        if self.path.split("?")[0] != "/metrics":
            self.send_error(404, "only /metrics is here")
            return
        body = generate_latest(self.registry)
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE_LATEST)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return str(self.client_address[0]) if self.client_address else "unix"

    def log_message(self, format: str, *args: object) -> None:
        log.debug(format, *args)


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Any user of the host may connect: more than MAX_SCRAPES at a time are
    turned away, or they would use up the daemon's threads and descriptors."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, address: object, handler: type[BaseHTTPRequestHandler]) -> None:
        self._room = threading.BoundedSemaphore(MAX_SCRAPES)
        super().__init__(address, handler)  # type: ignore[arg-type]

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()


class MetricsServer:
    """``listen`` as in :class:`flyebpf.config.MetricsConfig`, not empty."""

    def __init__(self, backend: Measured, listen: str) -> None:
        registry = CollectorRegistry()
        registry.register(Collector(backend))
        handler = type("BoundHandler", (Handler,), {"registry": registry, "timeout": 10})
        self._path = ""
        try:
            self._server = self._open(listen, handler)
        except OSError as error:
            raise UnavailableError(
                f"cannot serve metrics at {listen}: {error.strerror}",
                "Change metrics.listen in the configuration.",
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )

    def _open(self, listen: str, handler: type[Handler]) -> Server:
        if not listen.startswith("unix:"):
            host, _, port = listen.rpartition(":")
            family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
            kind = type("BoundServer", (Server,), {"address_family": family})
            server: Server = kind((host.strip("[]"), int(port)), handler)
            return server
        path = listen.removeprefix("unix:")
        kind = type("UnixServer", (Server,), {"address_family": socket.AF_UNIX})
        if Path(path).is_socket():  # of a daemon that was killed
            os.unlink(path)
        server = kind(path, handler)
        os.chmod(path, 0o660)
        self._path = path
        return server

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()
        if self._path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
