# SPDX-License-Identifier: Apache-2.0
"""A configuration as the text of its file: what differs from the defaults."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

from flyebpf.config import DaemonConfig

_HEAD = "# Configuration of the flyebpf daemon, made by `flyebpf hosts join`."


def render(config: DaemonConfig) -> str:
    """TOML that :func:`flyebpf.configfile.parse` reads as ``config``."""
    own = [_HEAD, *_lines(config)]
    for field in fields(config):
        table = getattr(config, field.name)
        if is_dataclass(table) and (lines := list(_lines(table))):
            own += ["", f"[{field.name}]", *lines]
    return "\n".join(own) + "\n"


def _lines(table: Any) -> Iterator[str]:
    for field in fields(table):
        value = getattr(table, field.name)
        if not is_dataclass(value) and value != _default(field):
            # Strings and lists of them are written alike in JSON and in TOML.
            yield f"{field.name} = {json.dumps(value, ensure_ascii=False)}"


def _default(field: Field[Any]) -> object:
    return None if field.default is MISSING else field.default
