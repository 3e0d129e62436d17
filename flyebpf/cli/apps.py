# SPDX-License-Identifier: Apache-2.0
"""``flyebpf apps``."""

from __future__ import annotations

import click

from flyebpf.api.client import path
from flyebpf.cli import options, output
from flyebpf.cli.lazy import Group


@click.group(cls=Group, help="Manage apps.")
def apps() -> None:
    pass


@apps.command()
@click.argument("name")
@options.org_option(required=True)
@click.option(
    "--network",
    metavar="NETWORK",
    default="default",
    show_default=True,
    help="The private network that the app is on, for life; made if it is new.",
)
@options.json_option
def create(name: str, org: str, network: str, as_json: bool) -> None:
    """Create an app.

    NAME: lower-case letters, digits and inner dashes; no other organization of
    the cluster may have an app of that name. Machines of one network reach each
    other, those of different networks do not.
    """
    app = options.api().post("/v1/apps", {"name": name, "org": org, "network": network})
    if as_json:
        output.print_json(app)
    else:
        output.say(
            f"Created app {app['name']} in organization {app['org']} on network {app['network']}."
        )


@apps.command(name="list")
@options.org_option()
@options.json_option
def list_(org: str | None, as_json: bool) -> None:
    """List apps."""
    found = options.api().get("/v1/apps", {"org": org})["items"]
    if as_json:
        output.print_json(found)
        return
    rows = [
        (
            app["name"],
            app["org"],
            app["network"],
            app["network_id"],
            app["hostname"],
            app["machines"],
            app["addresses"],
            f"v{app['version']}" if app["version"] else "not deployed",
        )
        for app in found
    ]
    headers = (
        "NAME", "ORG", "NETWORK", "NETWORK ID", "HOSTNAME", "MACHINES", "ADDRESSES", "DEPLOYED",
    )  # fmt: skip
    output.print_table(headers, rows)


@apps.command()
@click.argument("name")
@options.yes_option
def destroy(name: str, yes: bool) -> None:
    """Destroy an app and release its addresses; its machines must be removed first."""
    target = path("apps", name)
    options.confirm(f"Destroy app {name} and release its addresses?", yes)
    app = options.api().delete(target)
    released = f" Released {', '.join(app['addresses'])}." if app["addresses"] else ""
    output.say(f"Destroyed app {app['name']}.{released}")
