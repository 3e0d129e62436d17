# SPDX-License-Identifier: Apache-2.0
"""``flyebpf config``."""

from __future__ import annotations

import click

from flyebpf.cli import options, output
from flyebpf.cli.lazy import Group
from flyebpf.errors import FlyebpfError


@click.group(cls=Group, help="Check an app's fly.toml.")
def config() -> None:
    pass


def in_file(path: str, message: str) -> str:
    """The parser, which sees only text, calls every file ``fly.toml``."""
    start = options.CONFIG_NAME
    return path + message[len(start) :] if message.startswith(start) else f"{path}: {message}"


@config.command()
@options.config_option
@click.option("--strict", is_flag=True, help="Keys that are not known are errors.")
@options.json_option
@click.pass_context
def validate(ctx: click.Context, config_path: str, strict: bool, as_json: bool) -> None:
    """Check a fly.toml; needs no daemon."""
    from flyebpf import flytoml  # noqa: PLC0415 (start-up time)

    text = options.read_config(config_path)
    try:
        parsed = flytoml.parse(text, strict=strict)
    except FlyebpfError as error:
        message = in_file(config_path, error.message)
        if not as_json:
            raise type(error)(message, error.remedy) from error
        failure = {"message": message, "remedy": error.remedy}
        output.print_json({"valid": False, "error": failure, "warnings": []})
        ctx.exit(1)
    warnings = list(parsed.warnings)
    if as_json:
        output.print_json({"valid": True, "error": None, "warnings": warnings})
        return
    for warning in warnings:
        output.warn(f"{config_path}: {warning}")
    count = len(parsed.services)
    output.say(f"{config_path} is valid ({count} {'service' if count == 1 else 'services'}).")
