# SPDX-License-Identifier: Apache-2.0
"""``flyebpf deploy``."""

from __future__ import annotations

import click

from flyebpf.api.client import path
from flyebpf.cli import options, output


@click.command()
@options.app_option
@options.config_option
@click.option("--strict", is_flag=True, help="Refuse keys that are not known.")
@click.option("--no-public-ips", is_flag=True, help="Allocate no address on the first deployment.")
@options.json_option
def deploy(
    app: str | None, config_path: str, strict: bool, no_public_ips: bool, as_json: bool
) -> None:
    """Put a fly.toml into force for an app: its services take effect at once."""
    text = options.read_config(config_path)
    name = options.need_app(app, config_path)
    body = {"config": text, "strict": strict, "public_ips": not no_public_ips}
    report = options.api().post(path("apps", name, "deployments"), body)
    for warning in report["warnings"]:
        output.warn(f"{config_path}: {warning}")
    if as_json:
        output.print_json(report)
        return
    output.say(
        f"Deployed version {report['version']} of app {report['app']} "
        f"({report['services']} {'service' if report['services'] == 1 else 'services'})."
    )
    for address in report["allocated"]:
        output.say(f"Allocated {address}.")
