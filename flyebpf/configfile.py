# SPDX-License-Identifier: Apache-2.0
"""Reads the daemon's configuration file (TOML).

Everything wrong is reported at once, in one ConfigError whose message has one
line for each problem: ``file:line: key: what; remedy``.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from flyebpf import configacme, configcluster, configmachines, configrules
from flyebpf.config import DaemonConfig
from flyebpf.configrules import Problem
from flyebpf.errors import ConfigError
from flyebpf.tomllines import locate

T = TypeVar("T")


def load(path: str | Path) -> DaemonConfig:
    """The configuration in ``path``. Raises ConfigError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror}",
            "Name the file with --config, and make it readable for root.",
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text", "Save it as UTF-8.") from error
    return parse(text, str(path), files=True)


def parse(text: str, name: str = "config.toml", *, files: bool = False) -> DaemonConfig:
    """The configuration in ``text``; ``name`` is what messages call the file.
    ``files``: those that it names must be there."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not valid TOML: {error}") from error
    reader = Reader()
    config = reader.table(DaemonConfig, document, "")
    problems = reader.problems
    if config is not None:
        seen = {problem.key for problem in problems}
        found = [
            *configrules.check(config),
            *configcluster.check(config),
            *configmachines.check(config),
            *configacme.check(config),
        ]
        if files and not problems and not found:
            found += [*configcluster.check_files(config), *configmachines.check_files(config)]
            found += configacme.check_files(config)
        problems += [problem for problem in found if problem.key not in seen]
    if problems or config is None:
        lines = locate(text)
        raise ConfigError("\n".join(sorted_by_line(name, lines, problems)))
    return config


def sorted_by_line(name: str, lines: dict[str, int], problems: list[Problem]) -> list[str]:
    """One line of text a problem, in the order of the file."""
    return [
        render(name, lines, problem)
        for problem in sorted(problems, key=lambda problem: line_of(lines, problem.key))
    ]


def line_of(lines: dict[str, int], key: str) -> int:
    """The line of a key; of its table, or 1, when the file has no such key."""
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return lines.get(key, 1)


def render(name: str, lines: dict[str, int], problem: Problem) -> str:
    """``file:line: key: what; remedy``."""
    text = f"{name}:{line_of(lines, problem.key)}: {problem.key}: {problem.what}"
    return f"{text}; {problem.remedy}" if problem.remedy else text


class Reader:
    """Makes config dataclasses of TOML tables and collects what is wrong."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def table(self, cls: type[T], table: dict[str, Any], path: str) -> T | None:
        """``cls`` made from ``table``; None when a required key is missing."""
        known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
        types = get_type_hints(cls)
        for key in table.keys() - known.keys():
            self.unknown(path, key, known)
        values: dict[str, Any] = {}
        complete = True
        for name, field in known.items():
            where = join(path, name)
            if name in table:
                value = self.value(types[name], table[name], where)
                if value is not None:
                    values[name] = value
                    continue
            elif required(field):
                self.problems.append(Problem(where, "is missing", f"set {where}"))
            complete = complete and not required(field)
        return cls(**values) if complete else None

    def value(self, kind: Any, value: Any, path: str) -> Any:
        """``value`` as ``kind`` (str, int, a tuple of str, a table), or None."""
        if is_dataclass(kind):
            if isinstance(value, dict):
                return self.table(kind, value, path)  # type: ignore[arg-type]
            return self.wrong(path, f"must be a table, [{path}]", value)
        if kind is str:
            return value if isinstance(value, str) else self.wrong(path, "must be a string", value)
        if kind is int:
            good = isinstance(value, int) and not isinstance(value, bool)
            return value if good else self.wrong(path, "must be a whole number", value)
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        return self.wrong(path, "must be a list of strings", value)

    def wrong(self, path: str, what: str, value: Any) -> None:
        self.problems.append(Problem(path, f"{what}, not {shown(value)}"))

    def unknown(self, path: str, key: str, known: Iterable[str]) -> None:
        close = difflib.get_close_matches(key, list(known), n=1)
        remedy = f"did you mean {join(path, close[0])}?" if close else ""
        known_keys = "" if close else f" (known here: {', '.join(sorted(known))})"
        self.problems.append(Problem(join(path, key), f"unknown key{known_keys}", remedy))


def required(field: Field[Any]) -> bool:
    """Whether the file must set it."""
    return field.default is MISSING and field.default_factory is MISSING


def join(path: str, key: str) -> str:
    """The dotted key."""
    return f"{path}.{key}" if path else key


def shown(value: Any) -> str:
    """A value of the file as a message names it."""
    text = f"{value!r} ({type(value).__name__})"
    return text if len(text) <= 60 else f"a {type(value).__name__}"
