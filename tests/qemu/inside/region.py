# SPDX-License-Identifier: Apache-2.0
"""Runs in a host guest: the daemon, and questions to it.

``python -m tests.qemu.inside.region daemon`` starts the daemon with the
configuration in :data:`CONFIG` and waits until it has applied everything;
``… settle`` only waits; ``… api METHOD PATH [BODY]`` prints what the daemon
answers, as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from flyebpf.api.client import Client
from flyebpf.errors import FlyebpfError

FOLDER = Path("/run/region")
CONFIG = FOLDER / "flyebpf.toml"
SOCKET = FOLDER / "api.sock"
PATIENCE = 120.0  # seconds, under TCG


def main() -> None:
    match sys.argv[1:]:
        case ["daemon"]:
            start_daemon()
            settle()
        case ["settle"]:
            settle()
        case ["api", method, path, *body]:
            api = Client(str(SOCKET), PATIENCE)
            ask = {"get": api.get, "post": api.post, "delete": api.delete}[method]
            print(json.dumps(ask(path, *map(json.loads, body))))
        case other:
            sys.exit(f"not known: {other}")


def start_daemon() -> None:
    with (FOLDER / "daemon.log").open("ab") as log:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "flyebpf", "daemon", "--config", CONFIG],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (FOLDER / "daemon.pid").write_text(str(daemon.pid))
    until(lambda: status() is not None and daemon.poll() is None)


def status() -> Any:
    try:
        return Client(str(SOCKET), PATIENCE).get("/v1/status")
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


if __name__ == "__main__":
    os.environ["PYTHONUNBUFFERED"] = "1"
    main()
