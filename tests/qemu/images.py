# SPDX-License-Identifier: Apache-2.0
"""Guests as the recipes in vm-images make them."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.qemu.kernels import Kernel

RECIPES = Path(__file__).resolve().parents[2] / "vm-images"


class ImageError(Exception):
    """A guest that cannot be made: no package, no network, no room."""


@dataclass(frozen=True, slots=True)
class Image:
    """``release``: the kernel's. ``modules``: the folder with its modules."""

    kernel: Path
    initrd: Path
    release: str
    modules: str


@cache
def build(recipe: str, kernel: Kernel) -> Image:
    """``recipe``: "host-guest" or "tiny-vm". Takes what is cached while its
    inputs are the same. Raises ImageError with what the recipe complains of."""
    arguments = [kernel.package, *([kernel.suite] if kernel.suite else [])]
    made = subprocess.run(
        [RECIPES / recipe, *arguments], capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise ImageError(f"vm-images/{recipe} {' '.join(arguments)}: {made.stderr.strip()}")
    folder = Path(made.stdout.strip().splitlines()[-1])
    return Image(
        folder / "vmlinuz",
        folder / "initrd.img",
        (folder / "release").read_text().strip(),
        (folder / "modules").read_text().strip(),
    )
