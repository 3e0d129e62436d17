# SPDX-License-Identifier: Apache-2.0
"""A table of the file, read key by key.

A value that is wrong is reported and its default returned, so that reading
goes on and finds the other errors too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flyebpf.errors import InvalidError
from flyebpf.flytoml.durations import milliseconds
from flyebpf.flytoml.problems import Problems
from flyebpf.model.names import did_you_mean, quoted

Table = dict[str, Any]
_ABSENT = object()
_PORT_MAX = 65535
_INTEGER_MAX = 2**31 - 1


class Section:
    """``path`` is the table's key path; empty for the whole file."""

    def __init__(self, table: Table, path: str, problems: Problems) -> None:
        self.path = path
        self.problems = problems
        self._table = table
        self._known: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._table

    def at(self, key: str) -> str:
        """The key path of one of the table's keys, fit for a terminal."""
        key = key if key.isprintable() else quoted(key)
        return f"{self.path}.{key}" if self.path else key

    def error(self, key: str, message: str) -> None:
        self.problems.error(self.at(key), message)

    def warn(self, key: str, message: str) -> None:
        self.problems.warn(self.at(key), message)

    def raw(self, key: str) -> Any:
        """The value, or None: TOML has no null."""
        self._known.add(key)
        return self._table.get(key)

    def ignore(self, *keys: str) -> None:
        """These keys are valid and mean nothing here."""
        self._known.update(keys)

    def warn_useless(self, keys: Sequence[str], without: str) -> None:
        """Warn of keys that have no effect ``without`` something."""
        for key in keys:
            if key in self._table:
                self.warn(key, f"has no effect without {without}")

    def finish(self) -> None:
        """Report the keys that nothing asked for."""
        for key in self._table:
            if key not in self._known:
                hint = did_you_mean(key, sorted(self._known))
                self.problems.unknown_key(self.at(key), hint)

    def boolean(self, key: str, default: bool) -> bool:
        value = self.raw(key)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        self.error(key, f"must be true or false, not {quoted(value)}")
        return default

    def string(self, key: str, default: str = "") -> str:
        value = self.raw(key)
        if value is None or isinstance(value, str):
            return default if value is None else value
        self.error(key, f"must be a string, not {quoted(value)}")
        return default

    def named(self, key: str, check: Callable[[str], str], default: str = "") -> str:
        """A string that ``check`` of :mod:`flyebpf.model.names` accepts."""
        value = self.raw(key)
        if value is None:
            return default
        try:
            return check(value)
        except InvalidError as error:
            self.error(key, f"{error.message}; {error.remedy}")
            return default

    def choice(self, key: str, allowed: Sequence[str], default: str) -> str:
        value = self.raw(key)
        if value is None:
            return default
        if isinstance(value, str) and value in allowed:
            return value
        hint = did_you_mean(value, allowed) if isinstance(value, str) else ""
        self.error(key, _must_be_one_of(allowed, value) + (f"; {hint}" if hint else ""))
        return default

    def integer(self, key: str, low: int, high: int = _INTEGER_MAX) -> int | None:
        """None when it is absent or wrong."""
        value = self.raw(key)
        if value is None:
            return None
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        allowed = f"from {low} to {high}" if high < _INTEGER_MAX else f"of at least {low}"
        self.error(key, f"must be a whole number {allowed}, not {quoted(value)}")
        return None

    def port(self, key: str) -> int | None:
        """A port number, or one in a string; None when it is absent or wrong."""
        value = self.raw(key)
        if value is None:
            return None
        number = port_number(value)
        if number is None:
            self.error(key, f"must be a port from 1 to {_PORT_MAX}, not {quoted(value)}")
        return number

    def duration(self, key: str, default: int, low: int, high: int) -> int:
        """Milliseconds. What is outside ``low`` to ``high`` is moved to the
        nearer one, with a warning."""
        value = self.raw(key)
        if value is None:
            return default
        given = milliseconds(value)
        if given is None:
            self.error(
                key,
                f'must be a duration such as "15s" or "1m" or a number of milliseconds, '
                f"not {quoted(value)}",
            )
            return default
        if low <= given <= high:
            return round(given)
        used, how = (low, "raised") if given < low else (high, "lowered")
        self.warn(key, f"{quoted(value)} is {how} to {used // 1000} s")
        return used

    def strings(self, key: str) -> tuple[str, ...] | None:
        """A list of distinct strings; None when it is absent or wrong."""
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.error(key, f"must be a list of strings, not {quoted(value)}")
            return None
        if len(set(value)) < len(value):
            self.error(key, f"has an item twice: {quoted(value)}")
            return None
        return tuple(value)

    def choices(self, key: str, allowed: Sequence[str]) -> tuple[str, ...] | None:
        """As :meth:`strings`, each one of ``allowed``."""
        values = self.strings(key)
        wrong = [value for value in values or () if value not in allowed]
        for value in wrong:
            hint = did_you_mean(value, allowed)
            self.error(key, _must_be_one_of(allowed, value) + (f"; {hint}" if hint else ""))
        return None if wrong else values

    def section(self, key: str) -> Section | None:
        """An inner table; None when it is absent or wrong."""
        value = self.raw(key)
        if value is None:
            return None
        if isinstance(value, dict):
            return Section(value, self.at(key), self.problems)
        self.error(key, f"must be a table, not {quoted(value)}")
        return None

    def sections(self, key: str) -> Iterator[Section]:
        """The tables of an array. A single table counts as an array of one."""
        value = self.raw(key)
        if isinstance(value, dict):
            yield Section(value, self.at(key), self.problems)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                path = f"{self.at(key)}[{index}]"
                if isinstance(item, dict):
                    yield Section(item, path, self.problems)
                else:
                    self.problems.error(path, f"must be a table, not {quoted(item)}")
        elif value is not None:
            self.error(key, f"must be an array of tables, not {quoted(value)}")


def port_number(value: object) -> int | None:
    """A port from 1 to 65535, also one in a string; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 5:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _PORT_MAX:
        return value
    return None


def _must_be_one_of(allowed: Sequence[str], value: object) -> str:
    return f"must be one of {', '.join(allowed)}, not {quoted(value)}"
