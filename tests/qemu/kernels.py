# SPDX-License-Identifier: Apache-2.0
"""The kernels that are tested: Debian packages, one line each."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class Kernel:
    """``package`` in ``suite`` (empty: wherever apt finds it). ``optional``: it
    is left out where the machine's package sources do not have that suite."""

    name: str
    package: str
    suite: str = ""
    optional: bool = False


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
    listed = subprocess.run(
        ["apt-cache", "madison", kernel.package], capture_output=True, text=True, check=False
    )
    return f" {kernel.suite}/" in listed.stdout
