# SPDX-License-Identifier: Apache-2.0
"""On which line of the text each key path is, elements of arrays told apart."""

from __future__ import annotations

import re

from flyebpf.tomllines import ASSIGNMENT, HEADER, PART, blank_strings


def locate(text: str) -> dict[str, int]:
    """Paths such as ``services[0].ports[1].port`` to line numbers, from 1.

    ``text`` must be valid TOML. Keys within inline tables are not located.
    """
    found: dict[str, int] = {}
    elements: dict[str, int] = {}
    table = ""
    depth = 0
    for number, line in enumerate(blank_strings(text).splitlines(), 1):
        if depth == 0:
            if header := HEADER.match(line):
                table = _enter(header[1], line.lstrip().startswith("[["), elements)
                found.setdefault(table, number)
                continue
            if assignment := ASSIGNMENT.match(line):
                path = ".".join(filter(None, (table, *_parts(assignment[1]))))
                found.setdefault(path, number)
        depth += sum(map(line.count, "[{")) - sum(map(line.count, "]}"))
    return found


def line_of(path: str, lines: dict[str, int]) -> int | None:
    """The line of the path or of the nearest thing around it."""
    while path:
        if path in lines:
            return lines[path]
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return None


def _parts(key: str) -> list[str]:
    return [part.strip("\"'") for part in re.findall(PART, key)]


def _enter(key: str, is_array: bool, elements: dict[str, int]) -> str:
    """The path of a table's header; ``elements`` counts those of each array."""
    *outer, last = _parts(key)
    path = ""
    for part in outer:
        path = f"{path}.{part}" if path else part
        if path in elements:
            path = f"{path}[{elements[path] - 1}]"
    path = f"{path}.{last}" if path else last
    if not is_array:
        return path
    elements[path] = elements.get(path, 0) + 1
    return f"{path}[{elements[path] - 1}]"
