# SPDX-License-Identifier: Apache-2.0
"""What a new configuration changes in a running daemon."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

from flyebpf.config import DaemonConfig

RESTART = (
    "host",
    "region",
    "store",
    "state_dir",
    "bpffs",
    "cache_dir",
    "private",
    "dataplane",
    "mesh",
    "etcd",
    "proxy",
    "machines",
    "api",
    "metrics",
)
"""What a running daemon keeps; ``dataplane.xdp_mode`` is judged per uplink and
cannot change under traffic either."""


def merge(old: DaemonConfig, new: DaemonConfig) -> tuple[DaemonConfig, list[str]]:
    """The configuration in force from now on, and what changed, in words."""
    kept: dict[str, Any] = {name: getattr(old, name) for name in RESTART}
    texts = []
    for key, before, after in differences(old, new):
        late = "" if key.split(".")[0] not in RESTART else "; takes effect after a restart"
        texts.append(f"{key}: {shown(before)} → {shown(after)}{late}")
    return replace(new, **kept), texts


def differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Dotted keys with their old and new values."""
    found: list[tuple[str, Any, Any]] = []
    for field in fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        key = f"{path}.{field.name}" if path else field.name
        if is_dataclass(before):
            found += differences(before, after, key)
        elif before != after:
            found.append((key, before, after))
    return found


def shown(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    return str(value) or '""'
