# SPDX-License-Identifier: Apache-2.0
"""Kernel settings under /proc/sys of the daemon's network namespace."""

from __future__ import annotations

from pathlib import Path

from flyebpf.errors import KernelError

ROOT = Path("/proc/sys/net")


def interface(family: str, name: str, key: str) -> Path:
    """``net.<family>.conf.<name>.<key>``; a name may have dots in it."""
    return ROOT / family / "conf" / name / key


def read(path: Path) -> str:
    """The value; "" where the kernel has no such setting."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def write(path: Path, value: str) -> bool:
    """Set it, if it exists and differs; whether it was changed."""
    if read(path) in ("", value):
        return False
    try:
        path.write_text(value, encoding="ascii")
    except OSError as error:
        raise KernelError(f"set {path} to {value}: {error.strerror}", "Run as root.") from error
    return True
