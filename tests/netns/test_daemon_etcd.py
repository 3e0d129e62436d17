# SPDX-License-Identifier: Apache-2.0
"""The daemon with its records in etcd, and etcd away for a while."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flyebpf.bpf.loader import prepare_bpffs
from flyebpf.errors import FlyebpfError
from flyebpf.model.codec import encode
from flyebpf.model.records import AnyRecord, HostStatus, Latency
from flyebpf.store.base import Put, Transaction
from flyebpf.store.etcd import EtcdStore
from tests.etcdrig import EtcdCluster, etcd
from tests.netns.driver_rig import namespace, sh
from tests.netns.test_daemon_life import Daemon, edge_program

pytestmark = pytest.mark.root


class Site:
    def __init__(self, folder: Path, cluster: EtcdCluster) -> None:
        self.cluster = cluster
        self.daemon = Daemon(folder)
        endpoints = ", ".join(f'"{url}"' for url in cluster.endpoints)
        text = self.daemon.file.read_text()
        self.daemon.file.write_text(
            f'store = "etcd"\n{text}\n[etcd]\nendpoints = [{endpoints}]\ntimeout = 2\n'
        )

    def problems(self) -> list[str]:
        """What `status` says of the store."""
        found: list[dict[str, Any]] = self.daemon.status()["problems"]
        return [one["message"] for one in found if one["object"] == "store"]

    def until(self, away: bool) -> None:
        deadline = time.monotonic() + 20
        while bool(self.problems()) != away:
            assert time.monotonic() < deadline, self.daemon.status()["problems"]
            time.sleep(0.1)

    def apps(self) -> list[str]:
        return [app["name"] for app in self.daemon.client.get("/v1/apps")["items"]]

    def create(self, name: str) -> None:
        self.daemon.client.post("/v1/apps", {"name": name, "org": "acme"})


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    root = prepare_bpffs(tmp_path / "bpf")
    try:
        with namespace(), etcd(tmp_path) as cluster:
            sh("ip link add up0 type veth peer name router; ip link set up0 up")
            sh("ip link set router up")
            made = Site(tmp_path, cluster)
            yield made
            made.daemon.close()
    finally:
        sh(f"umount {root}")


def test_etcd_comes_and_goes(site: Site) -> None:
    daemon = site.daemon
    site.cluster.end()
    daemon.process = daemon.spawn()
    daemon.until("waiting for the store: etcd is away")
    assert "ready" not in daemon.log.read_text(), "nothing is known of this cluster yet"
    site.cluster.start()
    while "ready after" not in daemon.log.read_text():
        assert daemon.process.poll() is None, daemon.log.read_text()
        time.sleep(0.1)

    daemon.client.post("/v1/orgs", {"name": "acme"})
    site.create("web")
    daemon.client.post("/v1/apps/web/addresses", {"type": "v4"})
    assert site.problems() == []
    programs = edge_program()
    assert programs

    site.cluster.end()
    site.until(away=True)
    begun = time.monotonic()
    with pytest.raises(FlyebpfError, match=r"etcd is away: .*Connection refused") as caught:
        site.create("late")
    assert time.monotonic() - begun < 4
    assert "majority" in caught.value.remedy

    daemon.end(signal.SIGKILL)
    daemon.start()
    assert edge_program() == programs
    site.until(away=True)
    assert daemon.status()["rows"]["vip"] == 1, "what was known is served and checked"
    assert site.apps() == ["web"]

    site.cluster.start()
    site.until(away=False)
    site.create("late")
    assert site.apps() == ["late", "web"]
    deadline = time.monotonic() + 10
    while (status := daemon.status())["applied_revision"] != status["store_revision"]:
        assert time.monotonic() < deadline, status
        time.sleep(0.05)

    starts_warm_after(site, HostStatus("h2", "2026-01-01T00:00:00Z"), warm=True)
    starts_warm_after(site, Latency("h2", "fra", {"ams": 8000}), warm=False)


def starts_warm_after(site: Site, record: AnyRecord, *, warm: bool) -> None:
    """The daemon's next start when another host has written meanwhile. A heartbeat
    changes nothing in the kernel."""
    site.daemon.end(signal.SIGKILL)
    with closing(EtcdStore(site.cluster.config())) as other:
        other.commit(Transaction((), (Put(record.kind, record.ident, encode(record)),)))
    site.daemon.start()
    last = site.daemon.log.read_text().rpartition("ready after")[2]
    assert ("nothing has changed" in last.partition("\n")[0]) == warm
    deadline = time.monotonic() + 10
    while site.daemon.status()["applied_revision"] < site.daemon.status()["store_revision"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
