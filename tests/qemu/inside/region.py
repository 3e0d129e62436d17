# SPDX-License-Identifier: Apache-2.0
"""Runs in a host guest: the daemon, and an app with one machine behind ``eth1``.

``python -m tests.qemu.inside.region create MAC`` prints, as JSON, ``vip``,
``private_ip`` and ``services_ip``; ``… daemon`` starts the daemon again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from flyebpf import configfile
from flyebpf.api.client import Client, path
from flyebpf.bpf import loader
from flyebpf.errors import FlyebpfError

FOLDER = Path("/run/region")
CONFIG = f"""
host = "guest"
region = "ams"
uplinks = ["eth0"]
state_dir = "{FOLDER}/state"
bpffs = "{FOLDER}/bpffs"
[pools]
anycast_v4 = ["203.0.113.0/28"]
[dataplane]
flows = 65536
services = 1024
machines = 256
maglev_entries = 262144
pool_addresses = 64
[api]
socket = "{FOLDER}/api.sock"
group = "root"
[metrics]
listen = ""
"""
FLY_TOML = """
app = "web"
[[services]]
protocol = "tcp"
internal_port = 8080
[[services.ports]]
port = 80
[[services]]
protocol = "udp"
internal_port = 5353
[[services.ports]]
port = 53
"""
PATIENCE = 120.0  # seconds, under TCG


def main() -> None:
    if sys.argv[1] == "create":
        FOLDER.mkdir()
        (FOLDER / "flyebpf.toml").write_text(CONFIG)
        # The daemon adopts what is pinned. Compiled here, it may take as long
        # as it takes on a machine that only pretends to be one.
        loader.COMPILE_TIMEOUT = PATIENCE * 5
        loader.ensure(configfile.load(FOLDER / "flyebpf.toml")).close()
        start_daemon()
        print(json.dumps(create(Client(str(FOLDER / "api.sock"), PATIENCE), sys.argv[2])))
    else:
        start_daemon()
    settle()


def start_daemon() -> None:
    with (FOLDER / "daemon.log").open("ab") as log:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "flyebpf", "daemon", "--config", FOLDER / "flyebpf.toml"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (FOLDER / "daemon.pid").write_text(str(daemon.pid))
    until(lambda: status() is not None and daemon.poll() is None)


def status() -> Any:
    try:
        return Client(str(FOLDER / "api.sock"), PATIENCE).get("/v1/status")
    except FlyebpfError:
        return None


def settle() -> None:
    """Wait until the kernel holds what the store says."""

    def settled() -> bool:
        said = status()
        return said is not None and said["in_sync"] and not said["pending"]

    until(settled)


def until(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"not in time; {status()}\n{(FOLDER / 'daemon.log').read_text()[-3000:]}")
        time.sleep(0.1)


def create(api: Client, mac: str) -> dict[str, str]:
    api.post(path("orgs"), {"name": "test"})
    api.post(path("apps"), {"name": "web", "org": "test"})
    vip = api.post(path("apps", "web", "addresses"), {"type": "v4"})["address"]
    body = {"interface": "eth1", "mac": mac}
    machine = api.post(path("apps", "web", "machines"), body)
    api.post(path("apps", "web", "deployments"), {"config": FLY_TOML})
    return {"vip": vip, **{key: machine[key] for key in ("private_ip", "services_ip")}}


if __name__ == "__main__":
    os.environ["PYTHONUNBUFFERED"] = "1"
    main()
