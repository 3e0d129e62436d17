# SPDX-License-Identifier: Apache-2.0
"""The daemon process in a namespace: start, adoption, reload, end, bad luck."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flyebpf.api.client import Client
from flyebpf.bpf.loader import prepare_bpffs
from flyebpf.drivers.link_table import LinkTable
from flyebpf.errors import FlyebpfError
from flyebpf.unixpeer import listener
from tests.netns.driver_rig import XDP, namespace, program, sh

pytestmark = pytest.mark.root

CONFIG = """\
host = "h1"
region = "ams"
uplinks = ["up0"]
state_dir = "{0}/state"
bpffs = "{0}/bpf"
[pools]
anycast_v4 = ["203.0.113.0/24"]
[dataplane]
flows = 4096
services = 256
machines = 64
maglev_entries = 65536
pool_addresses = 512
fragments = 64
[api]
socket = "{0}/api.sock"
group = "root"
[metrics]
listen = "unix:{0}/metrics.sock"
"""


class Daemon:
    """One configuration, and processes that run it one after another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "flyebpf.toml"
        self.file.write_text(CONFIG.format(folder))
        self.log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self.client = Client(str(folder / "api.sock"))

    def start(self) -> float:
        """Seconds until it was ready."""
        begun = time.monotonic()
        self.process = self.spawn()
        while "ready after" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() - begun < 60, self.log.read_text()
            time.sleep(0.02)
        return time.monotonic() - begun

    def spawn(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "flyebpf", "daemon", "--config", str(self.file)]
        self.log.write_bytes(b"")
        with self.log.open("ab") as log:  # the DNS process of an earlier one writes there too
            return subprocess.Popen(command, stdout=log, stderr=log)

    def fails(self) -> str:
        """It cannot start; what it says."""
        assert self.spawn().wait(60) == 1
        return self.log.read_text()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(20)
        self.process = None
        return code

    def close(self) -> None:
        """Kill it, and the DNS process, which outlives it."""
        if self.process is not None:
            self.end(signal.SIGKILL)
        if pid := listener(self.folder / "dns.sock"):
            os.kill(pid, signal.SIGKILL)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get("/v1/status")
        return found

    def until(self, text: str) -> None:
        deadline = time.monotonic() + 10
        while text not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)


def edge_program() -> int:
    """The id of the XDP program on the uplink, 0 for none."""
    link = json.loads(sh("ip -j -d link show up0"))[0]
    return int(link.get("xdp", {}).get("prog", {}).get("id", 0))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    root = prepare_bpffs(tmp_path / "bpf")
    try:
        with namespace():
            sh("ip link add up0 type veth peer name router; ip link set up0 up")
            sh("ip link set router up")
            made = Daemon(tmp_path)
            yield made
            made.close()
    finally:
        sh(f"umount {root}")


def test_life(daemon: Daemon) -> None:
    """One compile serves all of this."""
    daemon.start()
    first = edge_program()
    assert first
    assert (daemon.folder / "api.sock").stat().st_mode & 0o777 == 0o660
    said = subprocess.run(
        [sys.executable, "-m", "flyebpf", "daemon", "--config", str(daemon.file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 1
    assert "another daemon" in said.stderr

    daemon.end(signal.SIGKILL)
    assert edge_program() == first, "programs go on without the daemon"
    assert daemon.start() < 3, "nothing is compiled"
    assert "adopted" in daemon.log.read_text()
    assert edge_program() == first

    daemon.file.write_text(daemon.file.read_text().replace("[pools]", "[poolz]"))
    assert daemon.process is not None
    os.kill(daemon.process.pid, signal.SIGHUP)
    daemon.until("did you mean pools?")
    with pytest.raises(FlyebpfError, match="unknown key"):
        daemon.client.post("/v1/reload")
    daemon.file.write_text(
        daemon.file.read_text().replace("[poolz]", "[pools]").replace("flows = 4096", "flows=8192")
    )
    os.kill(daemon.process.pid, signal.SIGHUP)
    daemon.until("dataplane.flows: 4096 → 8192; takes effect after a restart")

    assert daemon.end() == 0
    assert edge_program() == first
    assert "packets are forwarded as before" in daemon.log.read_text()

    store = daemon.folder / "state" / "state.db"
    kept = store.read_bytes()
    store.write_bytes(b"not a database, and long enough to look like one" * 100)
    for suffix in ("-wal", "-shm"):
        store.with_name(store.name + suffix).unlink(missing_ok=True)
    assert "Error" in daemon.fails()
    assert edge_program() == first
    store.write_bytes(kept)

    sh(f"nft flush ruleset; rm {daemon.folder}/bpf/links/up0-xdp")
    assert edge_program() == 0
    daemon.start()
    daemon.end()
    assert edge_program(), "what is missing is made again, with new maps too"
    assert "vm_to_host" in sh("nft list ruleset")


def test_a_pin_that_is_gone_never_splits_daemon_and_programs(daemon: Daemon) -> None:
    """Programs use the maps that they were loaded with, pinned or not."""
    daemon.start()
    daemon.end()
    first = edge_program()
    (pin,) = (daemon.folder / "bpf" / "maps").glob("slots-*")
    pin.unlink()
    daemon.start()
    assert "slots are gone" in daemon.log.read_text()
    assert edge_program() not in (0, first)
    used = set(json.loads(sh(f"bpftool -j prog show id {edge_program()}"))["map_ids"])
    pinned = {
        json.loads(sh(f"bpftool -j map show pinned {path}"))["id"]
        for path in (daemon.folder / "bpf" / "maps").iterdir()
    }
    assert used <= pinned


def test_a_foreign_program_on_the_uplink_is_reported(daemon: Daemon) -> None:
    from flyebpf.bpf.program import XdpLink

    table = LinkTable()
    link = table.get("up0")
    table.close()
    assert link is not None
    foreign = program(XDP, "foreign", 2)
    with XdpLink.create(foreign, link.ifindex, "native"):
        daemon.start()
        problems = daemon.status()["problems"]
        assert [p["object"] for p in problems] == ["uplink up0"]
        assert "xdp off" in problems[0]["remedy"]
        assert edge_program() == foreign.id


def test_a_wrong_configuration_changes_nothing(daemon: Daemon) -> None:
    daemon.file.write_text(CONFIG.format(daemon.folder).replace("up0", "lo"))
    assert "cannot be an uplink" in daemon.fails()
    assert not (daemon.folder / "state").exists()
    assert edge_program() == 0
