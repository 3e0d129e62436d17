# SPDX-License-Identifier: Apache-2.0
"""``flyebpf wireguard``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from flyebpf.api.client import path
from flyebpf.cli import options, output
from flyebpf.cli.ages import ago
from flyebpf.cli.files import claim
from flyebpf.cli.lazy import Group
from flyebpf.errors import UnavailableError


@click.group(cls=Group, help="Let users' computers into private networks.")
def wireguard() -> None:
    pass


@wireguard.command()
@click.argument("name")
@click.argument("file", required=False)
@options.org_option(required=True)
@click.option(
    "--network", metavar="NETWORK", default="default", show_default=True, help="The network."
)
@click.option("--gateway", metavar="HOST", help="The host to connect to; default: this one.")
@click.option(
    "--public-key", metavar="KEY", help="Of a key pair of your own; default: one is made."
)
@options.json_option
def create(
    *,
    name: str,
    file: str | None,
    org: str,
    network: str,
    gateway: str | None,
    public_key: str | None,
    as_json: bool,
) -> None:
    """Create a WireGuard peer, and print its computer's configuration.

    With FILE it is written there, for nobody else to read; a file that is there
    is never overwritten. It holds the private key, which is stored nowhere else.

    \b
    flyebpf wireguard create laptop laptop.conf -o acme
    """
    given = {"network": network, "gateway": gateway, "public_key": public_key}
    body: dict[str, Any] = {"name": name, "org": org}
    body.update({key: value for key, value in given.items() if value is not None})
    if file is None:
        answer = options.api().post("/v1/wireguard-peers", body)
    else:
        answer = _create_into(Path(file), body)
    if as_json:
        output.print_json(answer if file is None else {**answer, "config": "", "file": file})
    elif file is None:
        click.echo(answer["config"], nl=False)
    else:
        peer = answer["peer"]
        output.say(
            f"Created WireGuard peer {peer['name']} ({peer['address']}) in network "
            f"{peer['network']} of organization {peer['org']}; wrote {file}."
        )


def _create_into(file: Path, body: dict[str, Any]) -> Any:
    """Create the peer with its file: both or neither."""
    api = options.api()
    with claim(file) as write:
        answer = api.post("/v1/wireguard-peers", body)
        try:
            write(answer["config"])
        except OSError as error:  # the private key is lost, and the peer no use
            peer = answer["peer"]
            api.delete(path("orgs", peer["org"], "wireguard-peers", peer["name"]))
            raise UnavailableError(
                f"cannot write {file}: {error.strerror}; no peer was created", "name another file"
            ) from error
    return answer


@wireguard.command(name="list")
@options.org_option()
@options.json_option
def list_(org: str | None, as_json: bool) -> None:
    """List WireGuard peers."""
    found = options.api().get("/v1/wireguard-peers", {"org": org})["items"]
    if as_json:
        output.print_json(found)
        return
    rows = [
        (
            peer["name"],
            peer["org"],
            peer["network"],
            peer["address"],
            peer["gateway"],
            peer["public_key"],
            peer["created"],
        )
        for peer in found
    ]
    headers = ("NAME", "ORG", "NETWORK", "ADDRESS", "GATEWAY", "PUBLIC KEY", "CREATED")
    output.print_table(headers, rows)


@wireguard.command()
@options.org_option()
@options.json_option
def status(org: str | None, as_json: bool) -> None:
    """Show handshakes, bytes and endpoints of the peers of this host.

    Of peers of other gateways only those know more.
    """
    found = options.api().get("/v1/wireguard-peers/status", {"org": org})["items"]
    if as_json:
        output.print_json(found)
        return
    headers = (
        "NAME", "ORG", "NETWORK", "ADDRESS", "GATEWAY", "HANDSHAKE", "RECEIVED", "SENT", "ENDPOINT",
    )  # fmt: skip
    output.print_table(headers, [_row(item) for item in found])


def _row(item: dict[str, Any]) -> tuple[object, ...]:
    peer = item["peer"]
    place = (peer["name"], peer["org"], peer["network"], peer["address"], peer["gateway"])
    if not item["known"]:
        return (*place, "not known here", "", "", "")
    return (
        *place,
        ago(item["handshake"]),
        item["received"],
        item["sent"],
        item["endpoint"] or "none",
    )


@wireguard.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@options.org_option(required=True)
@options.yes_option
def remove(names: tuple[str, ...], org: str, yes: bool) -> None:
    """Remove WireGuard peers. All of them must exist, or none is removed."""
    api = options.api()
    targets = [path("orgs", org, "wireguard-peers", name) for name in dict.fromkeys(names)]
    for target in targets:
        api.get(target)  # nothing is removed when one of them does not exist
    options.confirm(f"Remove WireGuard peer {', '.join(names)} of organization {org}?", yes)
    for target in targets:
        output.say(f"Removed WireGuard peer {api.delete(target)['name']}.")
