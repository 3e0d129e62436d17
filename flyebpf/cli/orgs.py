# SPDX-License-Identifier: Apache-2.0
"""``flyebpf orgs``."""

from __future__ import annotations

import click

from flyebpf.api.client import path
from flyebpf.cli import options, output
from flyebpf.cli.lazy import Group


@click.group(cls=Group, help="Manage organizations.")
def orgs() -> None:
    pass


@orgs.command()
@click.argument("name")
@options.json_option
def create(name: str, as_json: bool) -> None:
    """Create an organization, with its network 'default'.

    NAME: lower-case letters, digits and single dashes, first a letter.
    """
    org = options.api().post("/v1/orgs", {"name": name})
    if as_json:
        output.print_json(org)
    else:
        output.say(f"Created organization {org['name']}.")


@orgs.command(name="list")
@options.json_option
def list_(as_json: bool) -> None:
    """List organizations."""
    found = options.api().get("/v1/orgs")["items"]
    if as_json:
        output.print_json(found)
        return
    rows = [(org["name"], org["networks"], len(org["apps"])) for org in found]
    output.print_table(("NAME", "NETWORKS", "APPS"), rows)


@orgs.command()
@click.argument("name")
@options.json_option
def show(name: str, as_json: bool) -> None:
    """Show an organization with its networks and apps."""
    org = options.api().get(path("orgs", name))
    if as_json:
        output.print_json(org)
        return
    output.print_details(
        {"Name": org["name"], "Networks": org["networks"], "Apps": org["apps"] or "none"}
    )
