# SPDX-License-Identifier: Apache-2.0
"""Metrics as a scraper sees them."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from flyebpf import certmetrics
from flyebpf.api.backend import (
    DropCounter,
    MeshDevice,
    MeshPeer,
    MeshStatus,
    PeerStatus,
    Problem,
    ServiceCounters,
)
from flyebpf.dns.metrics import BUCKETS
from flyebpf.errors import UnavailableError
from flyebpf.metrics import MAX_SCRAPES, MetricsServer
from flyebpf.model.reasons import DropReason
from flyebpf.store.sqlite import SqliteStore
from tests.fakes_backend import FakeBackend

DNS: dict[str, Any] = {
    "queries": [["TXT", "NOERROR", "internal", 4], ["A", "NXDOMAIN", "forwarded", 1]],
    "counts": {"malformed": 2},
    "latency": {"internal": [3, 1, *[0] * (len(BUCKETS) - 1)]},
    "seconds": {"internal": 0.25},
    "connections": 5,
    "cache": {"entries": 1, "bytes": 300},
    "names": {"apps": 6},
    "upstreams": [["192.0.2.1", 0.1, 7]],
}


class Measured(FakeBackend):
    """With what metrics ask beyond the API."""

    def flow_entries(self) -> int:
        return 4096

    def fences(self) -> Mapping[str, tuple[int, int]]:
        return {"vm_to_host": (3, 180)}

    def dns(self) -> Mapping[str, Any] | None:
        return DNS

    def counts(self) -> Mapping[str, int]:
        return {"dns_answer": 9}

    def certificate_ends(self) -> Sequence[str]:
        return self.ends

    ends: Sequence[str] = ("2027-01-02T00:00:00Z", "2026-12-31T23:59:59Z")

    def reconciling(self) -> Mapping[str, float]:
        return {
            "failures": 1,
            "drift_repaired": 2,
            "last_sync_seconds": 0.25,
            "last_full_seconds": 0.5,
        }


MESH = MeshStatus(
    generation=3,
    next_generation=4,
    devices=[
        MeshDevice("fly1", "wireguard-go", 3, 51821),
        MeshDevice("fly0", "kernel", 4, 51820, 7),
        MeshDevice("fly2", "", 5, 51820),
    ],
    peers=[
        MeshPeer("h2", "fly1", True, "192.0.2.2:51821", 12.5, 1000, 2000, 0.004),
        MeshPeer("h3", "fly1", False, "192.0.2.3:51821", None, 0, 148, None),
    ],
)


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Measured]:
    store = SqliteStore(tmp_path / "s.db", durable=False)
    yield Measured(
        store,
        problems=[Problem("interface tap1", "is gone")],
        pending=2,
        service_counters=[ServiceCounters("web/tcp/80", 5, 500, 4, 400, 2)],
        drop_counters=[DropCounter(DropReason.NO_SERVICE, 7, 420), DropCounter(60, 1, 60)],
        mesh=MESH,
        peer_status={"k1": PeerStatus(received=1, sent=2), "k2": PeerStatus(received=10, sent=20)},
    )
    store.close()


def get(connection: http.client.HTTPConnection, path: str = "/metrics") -> tuple[int, str]:
    connection.request("GET", path)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_every_family_on_a_loopback_port(backend: Measured) -> None:
    port = free_port()
    server = MetricsServer(backend, f"127.0.0.1:{port}")
    server.start()
    status, text = get(http.client.HTTPConnection("127.0.0.1", port, timeout=5))
    assert get(http.client.HTTPConnection("127.0.0.1", port, timeout=5), "/x")[0] == 404
    server.stop()
    assert status == 200
    lines = text.splitlines()
    for expected in (
        "flyebpf_dns_up 1.0",
        'flyebpf_dns_queries_total{path="kernel",rcode="NOERROR",type="AAAA"} 9.0',
        'flyebpf_dns_queries_total{path="internal",rcode="NOERROR",type="TXT"} 4.0',
        'flyebpf_dns_events_total{what="malformed"} 2.0',
        'flyebpf_dns_seconds_bucket{le="0.0001",path="internal"} 3.0',
        'flyebpf_dns_seconds_bucket{le="+Inf",path="internal"} 4.0',
        'flyebpf_dns_seconds_sum{path="internal"} 0.25',
        "flyebpf_dns_connections 5.0",
        "flyebpf_dns_cache_bytes 300.0",
        'flyebpf_dns_records{kind="apps"} 6.0',
        'flyebpf_dns_upstream_failures{upstream="192.0.2.1"} 7.0',
        'flyebpf_mesh_key_generation{which="current"} 3.0',
        'flyebpf_mesh_key_generation{which="next"} 4.0',
        'flyebpf_mesh_device{implementation="wireguard-go",interface="fly1"} 1.0',
        'flyebpf_mesh_device{implementation="none",interface="fly2"} 1.0',
        'flyebpf_mesh_refused_packets_total{interface="fly0"} 7.0',
        'flyebpf_mesh_handshake_age_seconds{host="h2",interface="fly1"} 12.5',
        'flyebpf_mesh_bytes_total{direction="in",host="h2",interface="fly1"} 1000.0',
        'flyebpf_mesh_bytes_total{direction="out",host="h3",interface="fly1"} 148.0',
        'flyebpf_mesh_rtt_seconds{host="h2"} 0.004',
        "flyebpf_wireguard_peers 2.0",
        "flyebpf_certificates 2.0",
        "flyebpf_certificate_first_end_timestamp_seconds 1.798761599e+09",
        'flyebpf_wireguard_bytes_total{direction="in"} 11.0',
        'flyebpf_wireguard_bytes_total{direction="out"} 22.0',
        'flyebpf_service_packets_total{app="web",direction="in",service="tcp/80"} 5.0',
        'flyebpf_service_bytes_total{app="web",direction="out",service="tcp/80"} 400.0',
        'flyebpf_service_flows_total{app="web",service="tcp/80"} 2.0',
        'flyebpf_drops_total{reason="no_service"} 7.0',
        'flyebpf_machines{way="tc"} 1.0',
        'flyebpf_pool_allocated{pool="198.51.100.0/29"} 3.0',
        'flyebpf_pool_size{pool="198.51.100.0/29"} 8.0',
        'flyebpf_table_used{table="services"} 63.0',
        'flyebpf_table_size{table="services"} 64.0',
        'flyebpf_drop_bytes_total{reason="no_service"} 420.0',
        'flyebpf_drops_total{reason="60"} 1.0',
        'flyebpf_drops_total{reason="spoofed_mac"} 0.0',
        "flyebpf_flow_entries 4096.0",
        'flyebpf_fence_packets_total{rule="vm_to_host"} 3.0',
        "flyebpf_failed_rows 1.0",
        "flyebpf_drift_repaired_total 2.0",
        "flyebpf_last_sync_seconds 0.25",
        "flyebpf_pending_rows 2.0",
        'flyebpf_problems{severity="error"} 1.0',
        'flyebpf_problems{severity="warning"} 0.0',
    ):
        assert expected in lines, expected
    for what, value in backend.counts().items():
        assert f'flyebpf_counts_total{{what="{what}"}} {float(value)}' in lines
    assert 'host="h1"' in text


def test_certificates_without_an_end_do_not_hide_the_others() -> None:
    count, first = certmetrics.certificates(["", "nonsense", "2027-01-01T00:00:00Z", "2028"])
    assert count.samples[0].value == 4
    assert first.samples[0].value == 1_798_761_600
    (count,) = certmetrics.certificates([])
    assert count.samples[0].value == 0


def test_a_unix_socket_and_an_address_in_use(backend: Measured, tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    server = MetricsServer(backend, f"unix:{path}")
    server.start()
    assert path.stat().st_mode & 0o777 == 0o660
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    assert get(connection)[0] == 200
    server.stop()
    assert not path.exists()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UnavailableError, match="cannot serve metrics"):
            MetricsServer(backend, f"127.0.0.1:{taken.getsockname()[1]}")


def test_more_scrapers_than_there_is_room_for(backend: Measured, tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    server = MetricsServer(backend, f"unix:{path}")
    server.start()
    with ExitStack() as idle:
        for _ in range(MAX_SCRAPES):
            connect(idle, path)
        one_more = connect(idle, path)
        assert one_more.recv(1) == b"", "closed at once"
    deadline = time.monotonic() + 10
    while not scrapes(path):
        assert time.monotonic() < deadline, "there is room again"
        time.sleep(0.02)
    server.stop()


def connect(stack: ExitStack, path: Path) -> socket.socket:
    made = stack.enter_context(socket.socket(socket.AF_UNIX))
    made.connect(str(path))
    made.settimeout(5)
    return made


def scrapes(path: Path) -> bool:
    connection = http.client.HTTPConnection("localhost")
    with ExitStack() as stack:
        connection.sock = connect(stack, path)
        try:
            return get(connection)[0] == 200
        except (OSError, http.client.HTTPException):
            return False


def test_a_file_in_the_place_of_the_socket_is_kept(backend: Measured, tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    path.write_text("precious")
    with pytest.raises(UnavailableError, match="cannot serve metrics"):
        MetricsServer(backend, f"unix:{path}")
    assert path.read_text() == "precious"
