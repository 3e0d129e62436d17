# SPDX-License-Identifier: Apache-2.0
"""``flyebpf deploy``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from flyebpf.api.client import ApiError, path
from flyebpf.cli import options, output
from flyebpf.errors import InvalidError


@click.command()
@options.app_option
@options.config_option
@click.option("--strict", is_flag=True, help="Refuse keys that are not known.")
@click.option("--no-public-ips", is_flag=True, help="Allocate no address on the first deployment.")
@click.option("--flycast", is_flag=True, help="Allocate a Flycast address in place of public ones.")
@click.option("-y", "--yes", is_flag=True, help="End the services in force if the file has none.")
@options.json_option
def deploy(
    *,
    app: str | None,
    config_path: str,
    strict: bool,
    no_public_ips: bool,
    flycast: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Put a fly.toml into force for an app: its services take effect at once.

    The app must exist (`apps create`); it can be reached when it has an address
    (`ips allocate-v4`) and a machine (`machines add`). The first time, an app with
    port 80 [http] or 443 [http, tls] gets a shared IPv4 and an IPv6 address by
    itself. Services with handlers need the proxy (`proxy.engine`); without it they
    are refused. The smallest file that does something:

    \b
    app = "web"
    [[services]]
    internal_port = 8080       # where the VM listens
      [[services.ports]]
      port = 80                # where clients connect
    """
    text = options.read_config(config_path)
    name = options.need_app(app, config_path)
    body: dict[str, Any] = {"config": text, "strict": strict, "public_ips": not no_public_ips}
    if flycast:
        body["flycast"] = True
    if yes:
        body["remove_services"] = True
    try:
        report = options.api().post(path("apps", name, "deployments"), body)
    except ApiError as error:
        if not error.message.startswith(options.CONFIG_NAME):
            raise
        # The daemon has the text alone, and calls it what it is usually called.
        message = config_path + error.message.removeprefix(options.CONFIG_NAME)
        raise InvalidError(message, error.remedy) from error
    named = options.app_of_config(Path(config_path))
    if named not in (None, name):
        output.warn(f"{config_path} is that of app {named}; it was deployed to {name}, as told")
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
