# SPDX-License-Identifier: Apache-2.0
"""The BPF source tree: where it is, which programs it has, and its hash."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flyebpf.bpf import asserts
from flyebpf.bpf.maps import MapSpec
from flyebpf.errors import UnavailableError

EXTRA_CFLAGS = "FLYEBPF_BPF_EXTRA_CFLAGS"
"""Environment variable: more compiler flags (they count for the hash)."""
INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)


TYPES = {"xdp": (6, 37), "tc": (3, 0), "sk_lookup": (30, 36)}
"""``enum bpf_prog_type`` and, for those that a link can attach, ``enum
bpf_attach_type``."""


@dataclass(frozen=True, slots=True)
class ProgramSpec:
    """``bpf/<name>.c`` with the function ``name``. ``type``: of ``TYPES``."""

    name: str
    type: str


PROGRAMS = (
    ProgramSpec("edge_xdp", "xdp"),
    ProgramSpec("edge_tc", "tc"),
    ProgramSpec("mesh_tc", "tc"),
    ProgramSpec("mesh6_tc", "tc"),
    ProgramSpec("peer_tc", "tc"),
    ProgramSpec("vm_tc", "tc"),
    ProgramSpec("vm_out", "tc"),
    ProgramSpec("dns", "tc"),
    ProgramSpec("vm6_tc", "tc"),
    ProgramSpec("host_tc", "tc"),
    ProgramSpec("steer_sklookup", "sk_lookup"),
)


def source_dir() -> Path:
    """The ``bpf`` folder: of the source tree, else of the installation."""
    candidates = (
        Path(__file__).resolve().parents[2] / "bpf",
        Path(sys.prefix) / "share" / "flyebpf" / "bpf",
    )
    for candidate in candidates:
        if (candidate / "include" / "layout.h").is_file():
            return candidate
    raise UnavailableError(
        f"the BPF sources are not in {' or '.join(map(str, candidates))}",
        "Install flyebpf again.",
    )


def extra_cflags() -> list[str]:
    """Flags from the environment."""
    return os.environ.get(EXTRA_CFLAGS, "").split()


def cflags() -> list[str]:
    """The compiler flags that do not depend on maps.

    bcc runs the compiler inside BCC_KERNEL_SOURCE, so all paths are absolute.
    """
    root = source_dir()
    triplet = sysconfig.get_config_var("MULTIARCH") or ""
    return [
        f"-I{root / 'include'}",
        "-isystem/usr/include",
        f"-isystem/usr/include/{triplet}",
        "-Wall",
        "-Werror",
        "-Wno-unused-function",
        "-Wno-address-of-packed-member",
        "-Wno-compare-distinct-pointer-types",
        *extra_cflags(),
    ]


def code_hash() -> str:
    """16 hex digits over everything that compiled code depends on: sources, flags,
    the layouts that they are checked against, and the machine."""
    return _sources().hexdigest()[:16]


def source_hash(specs: Iterable[MapSpec]) -> str:
    """16 hex digits over sources, flags and map layouts: equal hashes mean that
    pinned programs can be adopted."""
    digest = _sources()
    digest.update("\0".join(spec.pin_name for spec in specs).encode())
    return digest.hexdigest()[:16]


def text_size(program: str) -> int:
    """Bytes of ``bpf/<program>.c`` and of our headers that it includes."""
    root = source_dir()
    seen: set[Path] = set()
    waiting = [root / f"{program}.c"]
    while waiting:
        path = waiting.pop()
        if path not in seen and path.is_file():
            seen.add(path)
            waiting += (root / "include" / name for name in INCLUDE.findall(path.read_text()))
    return sum(path.stat().st_size for path in seen)


def _sources() -> hashlib._Hash:
    digest = hashlib.sha256()
    root = source_dir()
    for path in sorted((*root.rglob("*.c"), *root.rglob("*.h"))):
        digest.update(f"{path.relative_to(root)}\0".encode())
        digest.update(path.read_bytes())
    digest.update("\0".join((platform.machine(), asserts.text(), *extra_cflags())).encode())
    return digest
