# SPDX-License-Identifier: Apache-2.0
"""All benchmarks, one after the other: ``sudo .venv/bin/python -m bench``."""

from __future__ import annotations

import subprocess
import sys

MODULES = (
    "dataplane",
    "sixpn",
    "mesh",
    "chain",
    "forward",
    "dnsanswer",
    "knot",
    "dns",
    "maglev",
    "plan",
    "proxyplan",
    "proxyscale",
    "cluster",
    "apply",
    "startup",
    "live",
    "wake",
    "outage",
    "store",
    "checks",
    "commands",
)


def main() -> int:
    failed = [
        name
        for name in MODULES
        if subprocess.run(
            [sys.executable, "-m", f"bench.{name}", *sys.argv[1:]], check=False
        ).returncode
    ]
    for name in failed:
        print(f"bench.{name} failed", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
