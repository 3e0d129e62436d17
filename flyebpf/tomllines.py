# SPDX-License-Identifier: Apache-2.0
"""On which line of a TOML text each key is; ``tomllib`` does not tell."""

from __future__ import annotations

import re

BARE = r"[A-Za-z0-9_-]+"
QUOTED = r"\"(?:[^\"\\]|\\.)*\"|'[^']*'"
PART = rf"(?:{BARE}|{QUOTED})"
KEY = rf"{PART}(?:\s*\.\s*{PART})*"
HEADER = re.compile(rf"\s*\[\[?\s*({KEY})\s*\]\]?")
ASSIGNMENT = re.compile(rf"\s*({KEY})\s*=\s*(.*)", re.DOTALL)
STRING = re.compile(
    r"\"\"\".*?\"\"\"|'''.*?'''|\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*'|#[^\n]*", re.DOTALL
)


def locate(text: str) -> dict[str, int]:
    """Dotted key to line number, from 1; the first line when there are several.

    ``text`` must be valid TOML. Keys within inline tables are not located.
    """
    found: dict[str, int] = {}
    table = ""
    depth = 0
    for number, line in enumerate(blank_strings(text).splitlines(), 1):
        if depth == 0:
            if header := HEADER.match(line):
                table = plain(header[1])
                found.setdefault(table, number)
                continue
            if assignment := ASSIGNMENT.match(line):
                key = plain(assignment[1])
                found.setdefault(f"{table}.{key}" if table else key, number)
        depth += sum(line.count(c) for c in "[{") - sum(line.count(c) for c in "]}")
    return found


def blank_strings(text: str) -> str:
    """The text without comments, and with strings that are values emptied, so
    that what looks like a key or a bracket in them is not taken for one."""

    def replace(match: re.Match[str]) -> str:
        token = match[0]
        if token.startswith("#"):
            return ""
        before = text[text.rfind("\n", 0, match.start()) + 1 : match.start()].lstrip()
        follows = text[match.end() :].lstrip(" \t")[:1]
        is_key = "=" not in before and (before.startswith("[") or follows in (".", "="))
        return token if is_key else '""' + "\n" * token.count("\n")

    return STRING.sub(replace, text)


def plain(key: str) -> str:
    """A key as written, to dotted form without quotes and spaces."""
    return ".".join(part.strip("\"'") for part in re.findall(PART, key))
