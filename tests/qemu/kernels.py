# SPDX-License-Identifier: Apache-2.0
"""The kernels that are tested: Debian packages, one line each."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Kernel:
    """``package`` in ``suite`` (empty: wherever apt finds it; a suite that is not
    among the machine's sources is read from the same mirror). ``optional``: it is
    left out where that cannot be reached."""

    name: str
    package: str
    suite: str = ""
    optional: bool = False


VERSION = Path(__file__).resolve().parents[2] / "vm-images" / "kernel-version"

KERNELS = (
    Kernel("debian-12", "linux-image-amd64"),
    Kernel("backports", "linux-image-amd64", "bookworm-backports", optional=True),
)
OLDEST = KERNELS[0]
"""What everything but the loading of programs is tested on."""


def available() -> tuple[Kernel, ...]:
    """The kernels that this machine can get."""
    return tuple(kernel for kernel in KERNELS if not kernel.optional or _offered(kernel))


def left_out() -> tuple[Kernel, ...]:
    return tuple(kernel for kernel in KERNELS if kernel not in available())


@cache
def _offered(kernel: Kernel) -> bool:
    """Asks the package archive, the first time on a machine."""
    found = subprocess.run(
        [VERSION, kernel.package, kernel.suite], capture_output=True, text=True, check=False
    )
    return bool(found.stdout.strip())
