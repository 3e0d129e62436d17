# SPDX-License-Identifier: Apache-2.0
"""``flyebpf networks``."""

from __future__ import annotations

import click

from flyebpf.cli import options, output
from flyebpf.cli.lazy import Group


@click.group(cls=Group, help="Show private networks (6PN).")
def networks() -> None:
    pass


@networks.command(name="list")
@options.org_option()
@options.json_option
def list_(org: str | None, as_json: bool) -> None:
    """List networks with their ids."""
    found = options.api().get("/v1/networks", {"org": org})["items"]
    if as_json:
        output.print_json(found)
        return
    rows = [(net["network"], net["org"], net["network_id"], net["prefix"]) for net in found]
    output.print_table(("NAME", "ORG", "ID", "PREFIX"), rows)
