# SPDX-License-Identifier: Apache-2.0
"""``flyebpf version``."""

from __future__ import annotations

import click

from flyebpf.cli import options, output


@click.command()
@options.json_option
def version(as_json: bool) -> None:
    """Show the version."""
    from importlib.metadata import PackageNotFoundError  # noqa: PLC0415 (start-up time)
    from importlib.metadata import version as installed  # noqa: PLC0415

    try:
        number = installed("flyebpf")
    except PackageNotFoundError:
        number = "unknown"
    if as_json:
        output.print_json({"version": number})
    else:
        output.say(f"flyebpf {number}")
