# SPDX-License-Identifier: Apache-2.0
"""Groups of commands: loaded when used, and helpful about misspelt names."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import click


class Group(click.Group):
    """A group that says which command was probably meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            raise click.UsageError(_unknown(name, self.list_commands(ctx)), ctx)
        return super().resolve_command(ctx, args)


def _unknown(name: str, known: Iterable[str]) -> str:
    import difflib  # noqa: PLC0415 (only for mistakes)

    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    hint = f"Did you mean {close[0]!r}?" if close else f"Commands: {', '.join(known)}."
    return f"No such command {name!r}. {hint}"


@dataclass(frozen=True, slots=True)
class Lazy:
    """Where a command is (``module:attribute``) and what one line of help says."""

    target: str
    help: str


class LazyGroup(Group):
    """A group whose commands' modules are imported when they are run."""

    def __init__(self, *args: Any, lazy: Mapping[str, Lazy], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self.lazy.get(cmd_name)
        if entry is None:
            return None
        module, attribute = entry.target.split(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, out of the table: nothing is imported for it."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in self.lazy.items()])
