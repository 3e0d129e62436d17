# SPDX-License-Identifier: Apache-2.0
"""What commands print: tables without borders, details, JSON."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

GAP = "  "
MIN_CUT = 12
"""A column is never cut below this width."""


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def clean(value: object) -> str:
    """Text for one cell: no control characters, which a terminal would obey."""
    if isinstance(value, list | tuple):
        value = ", ".join(str(item) for item in value)
    if isinstance(value, bool):
        value = "yes" if value else "no"
    text = "" if value is None else str(value)
    return "".join(char if char.isprintable() else "?" for char in text)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns under their headers; numbers to the right.

    On a terminal the widest columns are cut until a line fits; elsewhere
    nothing is ever cut.
    """
    cells = [[clean(value) for value in row] for row in rows]
    widths = [
        max(len(line[column]) for line in [list(headers), *cells]) for column in range(len(headers))
    ]
    if sys.stdout.isatty():
        widths = fit(widths, shutil.get_terminal_size().columns)
    right = [
        bool(rows) and all(_is_number(row[column]) for row in rows)
        for column in range(len(headers))
    ]
    for line in [list(headers), *cells]:
        parts = [
            _cell(text, width, to_right)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ]
        click.echo(GAP.join(parts).rstrip())


def fit(widths: Sequence[int], total: int) -> list[int]:
    """Narrow the widest columns until all fit into ``total``, or none can shrink."""
    fitted = list(widths)
    while sum(fitted) + len(GAP) * (len(fitted) - 1) > total:
        widest = max(range(len(fitted)), key=lambda column: fitted[column])
        if fitted[widest] <= MIN_CUT:
            break
        fitted[widest] -= 1
    return fitted


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(text: str, width: int, to_right: bool) -> str:
    if len(text) > width:
        text = text[: width - 1] + "…"
    return text.rjust(width) if to_right else text.ljust(width)


def print_details(pairs: Mapping[str, object]) -> None:
    """One object: a name and a value a line."""
    width = max(len(name) for name in pairs)
    for name, value in pairs.items():
        click.echo(f"{name.ljust(width)}{GAP}{clean(value)}".rstrip())


def say(text: str) -> None:
    """What was done, for people; goes to stdout."""
    click.echo(clean(text))


def warn(text: str) -> None:
    click.echo(f"Warning: {clean(text)}", err=True)
