# SPDX-License-Identifier: Apache-2.0
"""``flyebpf hosts``."""

from __future__ import annotations

from typing import Any

import click

from flyebpf.api.client import path
from flyebpf.cli import options, output
from flyebpf.cli.ages import ago
from flyebpf.cli.join import join
from flyebpf.cli.lazy import Group

LONGEST = 30 * 24 * 60  # minutes; the daemon says so too


@click.group(cls=Group, help="Manage the hosts of the cluster.")
def hosts() -> None:
    pass


hosts.add_command(join)


@hosts.command(name="list")
@options.json_option
def list_(as_json: bool) -> None:
    """List hosts. HANDSHAKE: the mesh's last one between each and this host."""
    found = options.api().get("/v1/hosts")["items"]
    if as_json:
        output.print_json(found)
        return
    headers = (
        "NAME", "ID", "REGION", "STATE", "UNDERLAY", "ENDPOINT", "BLOCK", "MESH ADDRESS",
        "MTU", "MACHINES", "VERSION", "SEEN", "HANDSHAKE",
    )  # fmt: skip
    rows = [
        (
            h["name"], h["id"], h["region"], _state(h), h["underlay"], h["endpoint"] or "none",
            h["block"], h["mesh_address"], h["mtu"] or "-", h["machines"],
            h["version"] or "unknown",
            ago(h["seen"]), _handshake(h),
        )
        for h in found
    ]  # fmt: skip
    output.print_table(headers, rows)


def _state(host: dict[str, Any]) -> str:
    return f"{host['state']}{', drained' if host['drained'] else ''}"


def _handshake(host: dict[str, Any]) -> str:
    if host["this"] or host["underlay"] != "wireguard":
        return "-"
    return ago(host["handshake"])


@hosts.command()
@click.argument("name")
@options.json_option
def show(name: str, as_json: bool) -> None:
    """Show one host, with its handshakes.

    Of this host, those with every other; of another one, only those with hosts
    that it cannot reach now.
    """
    host = options.api().get(path("hosts", name))
    if as_json:
        output.print_json(host)
    else:
        _print_one(host)


def _print_one(host: dict[str, Any]) -> None:
    handshakes = [f"{name} {ago(when)}" for name, when in sorted(host["handshakes"].items())]
    others = host["connected"] + host["unconnected"]
    output.print_details(
        {
            "Name": host["name"],
            "ID": host["id"],
            "Region": host["region"],
            "State": _state(host),
            "Underlay": host["underlay"],
            "Endpoint": host["endpoint"] or "none",
            "Port": host["port"] or "none",
            "Private block": host["block"],
            "Mesh address": host["mesh_address"],
            "Mesh prefix": host["mesh_prefix"],
            "Machines": host["machines"],
            "WireGuard peers": host["wireguard_peers"],
            "Version": host["version"] or "unknown",
            "Programs": host["programs"] or "unknown",
            "Kernel": host["kernel"] or "unknown",
            "WireGuard": host["wireguard"] or "none",
            "Applied revision": host["applied_revision"],
            "Seen": ago(host["seen"]),
            "Mesh MTU": host["mtu"] or "unknown",
            "Sessions": f"with {host['connected']} of {others} other hosts",
            "Handshakes" if host["this"] else "No session with": handshakes or "none",
        }
    )


@hosts.command()
@click.option(
    "--minutes",
    type=click.IntRange(1, LONGEST),
    default=60,
    show_default=True,
    help="How long it is valid.",
)
@click.option("--revoke", is_flag=True, help="Make all that were not used invalid instead.")
@options.json_option
def token(minutes: int, revoke: bool, as_json: bool) -> None:
    """Print a token with which one new host can join.

    It holds what lets a host into the store, and is to be kept like a key. It
    is shown once, and can be used once.
    """
    if revoke:
        given = click.get_current_context().get_parameter_source("minutes")
        if given is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError("--minutes is of a new token: leave it out with --revoke.")
        answer = options.api().delete("/v1/join-tokens")
        count = answer["revoked"]
        text = f"Revoked {count} token{'' if count == 1 else 's'}."
    else:
        answer = options.api().post("/v1/join-tokens", {"minutes": minutes})
        text = answer["token"]
    if as_json:
        output.print_json(answer)
    else:
        output.say(text)


@hosts.command()
@click.argument("name")
def drain(name: str) -> None:
    """Give a host's machines no new flows, and leave them out of answers.

    Flows that there are go on until they end.
    """
    host = options.api().post(path("hosts", name, "drain"))
    verb = "gets" if host["machines"] == 1 else "get"
    output.say(f"Host {host['name']} is drained: its {_count(host)} {verb} no new flows.")


@hosts.command()
@click.argument("name")
def undrain(name: str) -> None:
    """Give a host's machines new flows again."""
    host = options.api().post(path("hosts", name, "undrain"))
    verb = "gets" if host["machines"] == 1 else "get"
    output.say(f"Host {host['name']} is in use: its {_count(host)} {verb} new flows.")


def _count(host: dict[str, Any]) -> str:
    return f"{host['machines']} machine{'' if host['machines'] == 1 else 's'}"


@hosts.command()
@click.argument("name")
@click.option(
    "--force", is_flag=True, help="Also with its machines and users' peers, and when it is up."
)
@options.yes_option
def remove(name: str, force: bool, yes: bool) -> None:
    """Forget a host that is gone for good. Its id is never used again."""
    api, target = options.api(), path("hosts", name)
    host = api.get(target)
    what = f" with {_count(host)} and {host['wireguard_peers']} WireGuard peers" if force else ""
    options.confirm(f"Remove host {name}{what}?", yes)
    removed = api.post(path("hosts", name, "remove"), {"force": force})
    for machine in removed["machines"]:
        output.say(f"Removed machine {machine['id']} of app {machine['app']}.")
    for peer in removed["wireguard_peers"]:
        output.say(f"Removed WireGuard peer {peer['name']} of organization {peer['org']}.")
    output.say(f"Removed host {removed['host']}.")


@hosts.command(name="rotate-keys")
@click.option("--status", "only_status", is_flag=True, help="Show how far it is.")
@click.option("--force", is_flag=True, help="End it without hosts that are away.")
@options.json_option
def rotate_keys(only_status: bool, force: bool, as_json: bool) -> None:
    """Give every host of the mesh a new WireGuard key; no packet is lost.

    It ends by itself when every host has its key. A host that is away has
    everybody wait; --force leaves it out until it is back.
    """
    if only_status and force:
        raise click.UsageError("--status and --force contradict each other: give one of them.")
    target = "/v1/key-rotation"
    if only_status:
        answer = options.api().get(target)
    else:
        answer = options.api().post(f"{target}/finish" if force else target)
    if as_json:
        output.print_json(answer)
        return
    if not answer["running"]:
        output.say(f"Hosts send with keys of generation {answer['generation']}.")
        return
    output.say(f"Keys are being rotated: generation {answer['generation']} to {answer['next']}.")
    for key, words in (("waiting", "Waiting for"), ("away", "Away, and waited for")):
        if answer[key]:
            output.say(f"{words}: {', '.join(answer[key])}.")
