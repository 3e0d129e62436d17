# SPDX-License-Identifier: Apache-2.0
"""``flyebpf hosts join``: it talks to the store, as no daemon is there yet."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flyebpf.cli import options, output
from flyebpf.cli.daemon import DEFAULT_CONFIG

if TYPE_CHECKING:
    from flyebpf.join import Joined


@click.command()
@click.argument("token_", metavar="[TOKEN]", required=False)
@click.option("--config", "config_path", metavar="FILE", help="Join by this configuration instead.")
@click.option("--host", "name", metavar="NAME", help="The new host's name; default: the system's.")
@click.option("-r", "--region", metavar="REGION", help="The region that it is in.")
@click.option("--uplink", "uplinks", metavar="DEV", multiple=True, help="To the internet; several.")
@click.option("--endpoint", metavar="ADDRESS", default="", help="Its address on the mesh.")
@click.option(
    "--mesh-interface", metavar="DEV", default="", help="Of the mesh; default: as on other hosts."
)
@click.option("--block", metavar="CIDR", default="", help="Its private block; default: a free one.")
@click.option(
    "--to",
    "target",
    metavar="FILE",
    help=f"The configuration that is written.  [default: {DEFAULT_CONFIG}]",
)
@options.json_option
def join(
    *,
    token_: str | None,
    config_path: str | None,
    name: str | None,
    region: str | None,
    uplinks: Sequence[str],
    endpoint: str,
    mesh_interface: str,
    block: str,
    target: str | None,
    as_json: bool,
) -> None:
    """Make this machine a host of a cluster, before its daemon's first start.

    With a TOKEN (of `hosts token` on another host; `-` reads it from standard
    input) the daemon's configuration is written; with --config it is there
    already. When anything is wrong, nothing is registered and nothing written.

    \b
    flyebpf hosts join TOKEN -r ams --uplink eth0 --endpoint 192.0.2.7
    """
    from flyebpf.join import Newcomer, with_config, with_token  # noqa: PLC0415 (start-up time)

    if (token_ is None) == (config_path is None):
        raise click.UsageError("Give either a TOKEN or --config FILE.")
    if token_ is None:
        _refuse_others(name, region, target, *uplinks, endpoint, mesh_interface, block)
        joined = with_config(Path(config_path or ""))
    else:
        if not (region and uplinks):
            raise click.UsageError("With a token, give --region and --uplink too.")
        newcomer = Newcomer(
            name or _system_name(), region, tuple(uplinks), endpoint, block, mesh_interface
        )
        path = Path(target or DEFAULT_CONFIG).absolute()
        joined = with_token(_read_token(token_), newcomer, path)
    _report(joined, as_json)


def _refuse_others(*given: str | None) -> None:
    if any(given):
        raise click.UsageError(
            "--config says all that the other options would: give --config alone, or a TOKEN."
        )


def _system_name() -> str:
    import socket  # noqa: PLC0415 (start-up time)

    return socket.gethostname().partition(".")[0].lower()


def _read_token(text: str) -> str:
    return sys.stdin.readline().strip() if text == "-" else text.strip()


def _report(joined: Joined, as_json: bool) -> None:
    host, config = joined.host, str(joined.config)
    number = f"{host.number:08x}"
    if as_json:
        output.print_json({"name": host.name, "id": number, "block": host.block, "config": config})
        return
    output.say(f"Joined as host {host.name} ({number}) with the block {host.block}.")
    output.say(f"Start its daemon: flyebpf daemon --config {config}")
