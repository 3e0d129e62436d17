# SPDX-License-Identifier: Apache-2.0
"""Help: complete, in step with the commands and with docs/cli.md, and fast."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import flyebpf
from flyebpf.cli.main import COMMANDS, root, run

ROOT = Path(flyebpf.__file__).parents[1]
PAGE = ROOT / "docs" / "cli.md"

HELP_SECONDS = 0.150


def commands(
    group: click.Group = root, above: tuple[str, ...] = ()
) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with its full name."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*above, name))
        else:
            yield " ".join((*above, name)), command


ALL = dict(commands())


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_list_of_commands_says_what_the_command_says(name: str) -> None:
    command = root.get_command(click.Context(root), name)
    assert command is not None
    assert command.name == name
    assert command.get_short_help_str(200).startswith(COMMANDS[name].help.rstrip("."))


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*name.split(), "--help"]) == 0
    assert f"Usage: flyebpf {name}" in capsys.readouterr().out
    assert ALL[name].help


@pytest.mark.parametrize("name", sorted(n for n in ALL if not n.startswith("lab ")))
def test_every_option_has_help(name: str) -> None:
    for parameter in ALL[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_command_is_on_the_page(name: str) -> None:
    assert re.search(rf"`flyebpf {name}\b", PAGE.read_text()), f"docs/cli.md: no {name}"


def test_the_page_names_no_other_command() -> None:
    for line in re.findall(r"`flyebpf ([a-z0-9 -]+)", PAGE.read_text()):
        words = line.split(" -")[0].split()
        found = any(" ".join(words[:length]) in ALL for length in range(1, len(words) + 1))
        assert found, f"docs/cli.md names {line!r}"


def test_help_is_fast() -> None:
    """The processor's time, which is all that it takes where nothing else runs:
    here other tests may; and the best of several runs."""
    command = [sys.executable, "-m", "flyebpf", "--help"]
    took = []
    for _ in range(7):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert 0 < min(took) < HELP_SECONDS


def test_help_is_plain_text_of_every_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flyebpf", "--help"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=True,
    )
    for name, entry in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(entry.help)}$", done.stdout, re.MULTILINE)
