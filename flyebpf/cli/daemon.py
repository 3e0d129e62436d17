# SPDX-License-Identifier: Apache-2.0
"""``flyebpf daemon``: the thin entry; the daemon itself is ``flyebpf.daemon``."""

from __future__ import annotations

import click

from flyebpf.cli import output

DEFAULT_CONFIG = "/etc/flyebpf/flyebpf.toml"


@click.command()
@click.option(
    "--config",
    "config_path",
    metavar="FILE",
    default=DEFAULT_CONFIG,
    show_default=True,
    help="The daemon's configuration.",
)
@click.option("--check-config", is_flag=True, help="Check the configuration and start nothing.")
def daemon(config_path: str, check_config: bool) -> None:
    """Run the host's daemon in the foreground.

    It keeps programs and maps in the kernel as the store says, and serves the
    API that all other commands use. SIGHUP reads the configuration again;
    SIGTERM ends it, and packets are forwarded as before.
    """
    if check_config:
        from flyebpf import configfile  # noqa: PLC0415 (start-up time)

        configfile.load(config_path)
        output.say(f"{config_path} is valid.")
        return
    from flyebpf.daemon import run  # noqa: PLC0415 (start-up time)

    run(config_path)
