# SPDX-License-Identifier: Apache-2.0
"""``flyebpf dig``."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Any

import click

from flyebpf.cli import options, output

TYPE = r"[A-Z]+|TYPE[0-9]+"


@click.command()
@click.argument("words", metavar="[TYPE] NAME", nargs=-1, required=True)
@options.app_option
@options.org_option()
@click.option("--network", metavar="NETWORK", help="The organization's network; default: default.")
@click.option("--short", is_flag=True, help="Print the records' data alone.")
@click.option("--tcp", is_flag=True, help="Ask by TCP; else only what UDP has no room for.")
@options.json_option
def dig(
    words: tuple[str, ...],
    app: str | None,
    org: str | None,
    network: str | None,
    *,
    short: bool,
    tcp: bool,
    as_json: bool,
) -> None:
    """Ask this host's DNS server, as a machine of a network would.

    \b
    TYPE is AAAA by default. The network is that of the app (-a), of -o and
    --network, or of the app in NAME:
        flyebpf dig my-app.internal
        flyebpf dig TXT vms.my-app.internal
        flyebpf dig -o my-org TXT _apps.internal
    Of an address the name is asked for (PTR).
    """
    kind, name = reverse(*split(words), chosen=len(words) > 1)
    if network is not None and org is None:
        raise click.UsageError("--network needs -o/--org: networks are an organization's.")
    if org is not None and app is not None:
        raise click.UsageError("-a/--app and -o/--org contradict each other: give one of them.")
    asked: dict[str, str | None] = {
        "name": name,
        "type": kind,
        "app": None if org else options.find_app(app),
        "org": org,
        "network": network,
        "tcp": "1" if tcp else None,
    }
    api = options.api()
    found = api.get("/v1/dns", asked)
    if found["truncated"] and not tcp:
        found = api.get("/v1/dns", {**asked, "tcp": "1"})
    if as_json:
        output.print_json(found)
    elif short:
        for record in found["answers"]:
            click.echo(record["data"])
    else:
        _print(found, kind, name)


def split(words: tuple[str, ...]) -> tuple[str, str]:
    """Type and name, in either order as of dig(1)."""
    if len(words) == 1:
        return "AAAA", words[0]
    if len(words) != 2:
        raise click.UsageError("Give one NAME, and at most one TYPE before it.")
    first, second = words
    if not re.fullmatch(TYPE, first.upper()) and re.fullmatch(TYPE, second.upper()):
        first, second = second, first
    return first.upper(), second


def reverse(kind: str, name: str, *, chosen: bool) -> tuple[str, str]:
    """Of an address its reverse name and PTR: asked for as it is, it would be a name
    of the world, and go to the resolvers. ``chosen``: the type was given."""
    try:
        address = ip_address(name)
    except ValueError:
        return kind, name
    if chosen and kind != "PTR":
        raise click.UsageError(f"{name} is an address, which has no {kind}: leave out the type.")
    return "PTR", address.reverse_pointer


def _print(found: dict[str, Any], kind: str, name: str) -> None:
    flags = " ".join(found["flags"])
    click.echo(f"{found['rcode']}  ({flags})  {kind} {name} in {found['org']}/{found['network']}")
    records = found["answers"] or found["authority"]
    if records:
        click.echo("")
        rows = [(r["name"], r["ttl"], r["type"], r["data"]) for r in records]
        output.print_table(("NAME", "TTL", "TYPE", "DATA"), rows)
    click.echo("")
    click.echo(f"{found['size']} bytes in {found['milliseconds']:g} ms")
