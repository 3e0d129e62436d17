# SPDX-License-Identifier: Apache-2.0
"""What it adds to a machine's own start that a request starts it.

One host of the lab with a real daemon and Envoy, one VM with a small HTTP server. *own*:
the command of [machines] is run by hand; from just before until the VM's port takes
connections. *request*: the machine is stopped, a client asks; until it has its answer.
*running*: the same request when it runs. In turn, so that all have the same machine
under them.

Run as root: ``.venv/bin/python -m bench.wake [--json]``.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import rig
from flyebpf.api.client import path
from tests.netns.rig import TOOLS, App, Rig

TRIALS = 20
SERVICES = """
[[services]]
protocol = "tcp"
internal_port = 8080
[[services.ports]]
port = 80
handlers = ["http"]
"""
LISTENS = """
import socket, time
while True:
    try:
        socket.create_connection(("127.0.0.1", 8080), 1).close()
        break
    except OSError:
        time.sleep(0.0005)
print(time.monotonic())
"""


@contextmanager
def lab() -> Iterator[Rig]:
    made = Rig(f"b{os.getpid()}", Path(f"/run/flyebpf-bench-{os.getpid()}-wake"))
    try:
        made.command("lab", "up", "--empty", "--proxy", timeout=600)
        yield made
    finally:
        made.command("lab", "down")


def run_command(made: Rig, verb: str, machine: str) -> None:
    """A command of the host's [machines], as its daemon runs it."""
    config = tomllib.loads((made.where.host("host1") / "flyebpf.toml").read_text())
    words = [word.replace("{id}", machine) for word in config["machines"][verb]]
    subprocess.run(words, check=True, env={"PATH": os.environ["PATH"]})


def own(made: Rig, machine: str) -> float:
    """Seconds until the VM's port takes connections; the machine is left stopped."""
    argv = made.argv("web1", [sys.executable, "-c", LISTENS])
    watching = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    time.sleep(0.2)  # it is looking by now
    begun = time.monotonic()
    run_command(made, "start", machine)
    found = float(watching.communicate(timeout=60)[0])
    run_command(made, "stop", machine)
    return found - begun


def request(made: Rig, app: App) -> float:
    """Seconds until a client has its answer."""
    ask = ("curl", "-sS", "-f", "-m", "60", "-o", "/dev/null", "-w", "%{time_total}")
    return float(made.run("client1", *ask, f"http://{app.vip}/").stdout)


def measure(made: Rig) -> dict[str, list[float]]:
    app = made.create_app("web", SERVICES)
    vm = made.add_vm(app, "web1", sys.executable, str(TOOLS / "say.py"), "8080", "web1")
    found: dict[str, list[float]] = {"own": [], "request": [], "running": []}
    made.until(lambda: made.listening("web1", "tcp", 8080), "the server listens", 20)
    for _ in range(TRIALS):
        made.api().post(path("machines", vm.machine, "stop"))
        found["own"].append(own(made, vm.machine))
        found["request"].append(request(made, app))
        time.sleep(0.3)  # requests go to the machine itself from then on
        found["running"].append(request(made, app))
    return found


def main() -> int:
    rig.require_root()
    with lab() as made:
        found = measure(made)
    added = [r - o for r, o in zip(found["request"], found["own"], strict=True)]
    results = {
        name: {
            "median_ms": round(1000 * statistics.median(values), 1),
            "least_ms": round(1000 * min(values), 1),
            "most_ms": round(1000 * max(values), 1),
        }
        for name, values in {**found, "added": added}.items()
    }
    rows = [(name, *values.values()) for name, values in results.items()]
    rig.report("wake", ("", "median ms", "least ms", "most ms"), rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
