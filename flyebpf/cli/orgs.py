# SPDX-License-Identifier: Apache-2.0
"""``flyebpf orgs``."""

from __future__ import annotations

from typing import Any

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
        {
            "Name": org["name"],
            "Networks": org["networks"],
            "Apps": org["apps"] or "none",
            "Replays between networks": "enabled" if org["cross_network_replays"] else "disabled",
            "Replays from": org["replay_sources"] or "none",
        }
    )


@orgs.group(name="replay-sources", cls=Group)
def replay_sources() -> None:
    """Other organizations whose apps may replay requests to an organization's."""


@replay_sources.command(name="list")
@options.org_option(required=True)
@options.json_option
def list_sources(org: str, as_json: bool) -> None:
    """List them."""
    found = options.api().get(path("orgs", org))["replay_sources"]
    if as_json:
        output.print_json(found)
    else:
        output.print_table(("SOURCE",), [(source,) for source in found])


@replay_sources.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@options.org_option(required=True)
@options.json_option
def add(sources: tuple[str, ...], org: str, as_json: bool) -> None:
    """Let apps of the organizations SOURCE replay requests to those of an organization."""
    api = options.api()
    for source in sources:
        found = api.post(path("orgs", org, "replay-sources"), {"source": source})
    _say(found, as_json)


@replay_sources.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@options.org_option(required=True)
@options.json_option
def remove(sources: tuple[str, ...], org: str, as_json: bool) -> None:
    """Let apps of the organizations SOURCE do so no longer."""
    api = options.api()
    for source in sources:
        found = api.delete(path("orgs", org, "replay-sources", source))
    _say(found, as_json)


def _say(org: Any, as_json: bool) -> None:
    if as_json:
        output.print_json(org["replay_sources"])
    else:
        names = ", ".join(org["replay_sources"]) or "no other organization"
        output.say(f"Apps of {names} may replay requests to those of {org['name']}.")


@orgs.group(name="cross-network-replays", cls=Group)
def cross_network_replays() -> None:
    """Replays between apps of one organization on different networks."""


@cross_network_replays.command()
@options.org_option(required=True)
@options.json_option
def status(org: str, as_json: bool) -> None:
    """Say whether they are enabled."""
    _say_cross(options.api().get(path("orgs", org)), as_json)


@cross_network_replays.command()
@options.org_option(required=True)
@options.json_option
def enable(org: str, as_json: bool) -> None:
    """Let apps replay requests to apps on other networks of their organization."""
    _set_cross(org, True, as_json)


@cross_network_replays.command()
@options.org_option(required=True)
@options.json_option
def disable(org: str, as_json: bool) -> None:
    """Let apps replay requests on their own network alone."""
    _set_cross(org, False, as_json)


def _set_cross(org: str, enabled: bool, as_json: bool) -> None:
    changed = options.api().post(path("orgs", org, "cross-network-replays"), {"enabled": enabled})
    _say_cross(changed, as_json)


def _say_cross(org: Any, as_json: bool) -> None:
    enabled = org["cross_network_replays"]
    if as_json:
        output.print_json({"org": org["name"], "enabled": enabled})
    else:
        word = "enabled" if enabled else "disabled"
        output.say(f"Replays between networks of {org['name']} are {word}.")
