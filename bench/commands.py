# SPDX-License-Identifier: Apache-2.0
"""How long commands take that people wait for, as whole processes.

``python -m bench.commands [--json]``. Beside them what Python itself takes to
start in the same environment.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import rig

RUNS = 21
FLYEBPF = str(Path(sys.executable).with_name("flyebpf"))
FLY_TOML = """
app = "web"
[[services]]
internal_port = 8080
protocol = "tcp"
[[services.ports]]
port = 80
"""


def median_ms(command: list[str]) -> float:
    times = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        times.append(1000 * (time.perf_counter() - begun))
    return statistics.median(times)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="flyebpf-bench-") as folder:
        path = Path(folder) / "fly.toml"
        path.write_text(FLY_TOML)
        commands = [
            ("python -c pass", [sys.executable, "-c", "pass"]),
            ("flyebpf --help", [FLYEBPF, "--help"]),
            ("flyebpf machines --help", [FLYEBPF, "machines", "--help"]),
            ("flyebpf config validate", [FLYEBPF, "config", "validate", "-c", str(path)]),
        ]
        rows = [(name, median_ms(command)) for name, command in commands]
    rig.report("commands, ms", ("command", "ms"), rows)


if __name__ == "__main__":
    main()
