# SPDX-License-Identifier: Apache-2.0
"""``flyebpf ips``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from flyebpf.api.client import path
from flyebpf.cli import options, output
from flyebpf.cli.lazy import Group

TYPES = {
    "v4": "dedicated v4",
    "v6": "dedicated v6",
    "shared_v4": "shared v4",
    "private_v6": "private v6 (Flycast)",
}


@click.group(cls=Group, help="Manage an app's addresses.")
def ips() -> None:
    pass


@ips.command(name="list")
@options.app_option
@options.all_option
@options.json_option
def list_(app: str | None, all_apps: bool, as_json: bool) -> None:
    """List an app's addresses; every app's where no app is named."""
    found = options.api().get("/v1/addresses", {"app": options.one_app(app, all_apps)})["items"]
    if as_json:
        output.print_json(found)
    else:
        _print_table(found)


def _print_table(found: Sequence[dict[str, Any]]) -> None:
    rows = [
        (
            item["address"],
            TYPES.get(item["type"], item["type"]),
            item["app"],
            item["org"],
            item["network"],
            item["region"],
            item["created"],
        )
        for item in found
    ]
    output.print_table(("ADDRESS", "TYPE", "APP", "ORG", "NETWORK", "REGION", "CREATED"), rows)


@ips.command(name="allocate-v4")
@options.app_option
@click.option("--shared", is_flag=True, help="One that other apps have too.")
@options.json_option
def allocate_v4(app: str | None, shared: bool, as_json: bool) -> None:
    """Give the app an IPv4 address of its own, or a shared one.

    It is taken from the operator's pools (`status` shows what is left), and the
    app keeps it until it is released. An app can have several of its own, and one
    that is shared. A shared one carries port 80 with the handlers [http], 443 with
    [http, tls], and others with tls, by the host name that clients ask for.
    """
    _allocate(app, {"type": "shared_v4" if shared else "v4"}, as_json)


@ips.command(name="allocate-v6")
@options.app_option
@click.option("--private", is_flag=True, help="A Flycast address, on a private network.")
@click.option("--network", metavar="NETWORK", help="Where callers are; default: the app's own.")
@options.org_option()
@options.json_option
def allocate_v6(
    *, app: str | None, private: bool, network: str | None, org: str | None, as_json: bool
) -> None:
    """Give the app an IPv6 address of its own, or a Flycast address.

    Its own is taken from the operator's pools, as with `allocate-v4`. Machines get
    what clients send there at their private network address (FLY_PRIVATE_IP):
    servers have to listen on that, or on all IPv6 addresses.

    A Flycast address (--private) can be called from one network alone, through the
    proxy: the app's own, or with --network and --org the one that they name. An app
    has one on each.
    """
    if not private and (network or org):
        raise click.UsageError("--network and --org are of Flycast addresses: give --private too.")
    body = {"type": "private_v6" if private else "v6", "network": network, "org": org}
    _allocate(app, {name: value for name, value in body.items() if value is not None}, as_json)


def _allocate(app: str | None, body: dict[str, Any], as_json: bool) -> None:
    address = options.api().post(path("apps", options.need_app(app), "addresses"), body)
    if as_json:
        output.print_json(address)
    else:
        _print_table([address])


@ips.command()
@options.app_option
@click.argument("addresses", metavar="ADDRESS...", nargs=-1, required=True)
def release(app: str | None, addresses: Sequence[str]) -> None:
    """Give addresses back: all of them, or none.

    Nobody else gets one of them until the rest of the pool has been used.
    """
    target = path("apps", options.need_app(app), "addresses", "release")
    for item in options.api().post(target, {"addresses": list(addresses)})["items"]:
        place = f"organization {item['org']}, network {item['network']}"
        output.say(f"Released {item['address']} of app {item['app']} ({place}).")
