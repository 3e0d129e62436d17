# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a file: everything is collected, then said at once."""

from __future__ import annotations

from functools import cached_property

from flyebpf.errors import InvalidError
from flyebpf.flytoml.lines import line_of, locate

_SHOWN = 50


class Problems:
    """Errors and warnings, each with its key path and its line if known.

    ``text`` is the file's, or empty. ``strict`` makes unknown keys errors.
    """

    def __init__(self, text: str = "", *, strict: bool = False) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self._text = text
        self._strict = strict

    def error(self, path: str, message: str) -> None:
        self.errors.append(f"{self._where(path)}: {message}")

    def warn(self, path: str, message: str) -> None:
        self.warnings.append(f"{self._where(path)}: {message}")

    def unknown_key(self, path: str, hint: str) -> None:
        message = f"unknown key; {hint}" if hint else "unknown key"
        (self.error if self._strict else self.warn)(path, message)

    def raise_errors(self) -> None:
        """InvalidError with all errors, if there are any."""
        if not self.errors:
            return
        if len(self.errors) == 1:
            raise InvalidError(f"fly.toml: {self.errors[0]}", "correct it and try again")
        shown = self.errors[:_SHOWN]
        if len(self.errors) > _SHOWN:
            shown.append(f"and {len(self.errors) - _SHOWN} more")
        listed = "\n  ".join(shown)
        raise InvalidError(
            f"fly.toml has {len(self.errors)} errors:\n  {listed}", "correct them and try again"
        )

    def _where(self, path: str) -> str:
        line = line_of(path, self._lines)
        return f"{path} (line {line})" if line else path

    @cached_property
    def _lines(self) -> dict[str, int]:
        return locate(self._text)
