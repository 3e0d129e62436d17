# SPDX-License-Identifier: Apache-2.0
"""``flyebpf machines``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from flyebpf.api.client import path
from flyebpf.cli import options, output
from flyebpf.cli.lazy import Group

KEY_VALUE = "KEY=VALUE"
PATIENCE = 300.0  # seconds for a machine that is started or stopped


@click.group(cls=Group, help="Manage machines (VMs).")
def machines() -> None:
    pass


@machines.command()
@options.app_option
@click.option("--interface", metavar="DEV", required=True, help="The VM's interface on this host.")
@click.option("--mac", metavar="MAC", required=True, help="The VM's own MAC address.")
@click.option("--name", default=None, metavar="NAME", help="A name for people.")
@click.option("--group", metavar="GROUP", default=None, help="Its process group; default: app.")
@options.region_option
@click.option(
    "--metadata", metavar=KEY_VALUE, multiple=True, help="For DNS; may be given several times."
)
@click.option("--id", "id_", metavar="ID", default=None, help="14 hex digits; default: chosen.")
@options.json_option
def add(
    *,
    app: str | None,
    interface: str,
    mac: str,
    name: str | None,
    group: str | None,
    region: str | None,
    metadata: Sequence[str],
    id_: str | None,
    as_json: bool,
) -> None:
    """Register a VM that runs behind an interface of this host.

    Whoever runs the VM makes the interface, down; the daemon guards it, then
    sets it up. What is printed are the addresses that belong inside the VM;
    `machines hosts` and `machines env` print the files.

    \b
    flyebpf machines add -a web --interface tap0 --mac 02:00:00:00:00:01
    """
    given = {"name": name, "group": group, "region": region, "id": id_}
    body: dict[str, Any] = {"interface": interface, "mac": mac}
    body.update({key: value for key, value in given.items() if value is not None})
    if metadata:
        body["metadata"] = parse_pairs(metadata)
    machine = options.api().post(path("apps", options.need_app(app), "machines"), body)
    if as_json:
        output.print_json(machine)
    else:
        output.say(f"Added machine {machine['id']} to app {machine['app']}.")
        _print_one(machine)
    _warn_of_interface(machine)
    if region is not None:
        _warn_of_region(machine)


def _warn_of_region(machine: dict[str, Any]) -> None:
    """A region without a host is one that nobody is near to; or its name is wrong."""
    regions = sorted({host["region"] for host in options.api().get("/v1/hosts")["items"]})
    if machine["region"] not in regions:
        output.warn(
            f"no host is in region {machine['region']}; known: {', '.join(regions)}. Machine "
            f"{machine['id']} counts as far from everybody: if that is wrong, remove it and "
            "add it again"
        )


def _warn_of_interface(machine: dict[str, Any]) -> None:
    """Who runs the VM may make it later; or its name is wrong."""
    if machine["interface_missing"]:
        output.warn(
            f"host {machine['host']} has no interface {machine['interface']} now: machine "
            f"{machine['id']} gets no traffic before it has. Start the VM, or correct the name: "
            f"flyebpf machines move {machine['id']} --interface DEV"
        )


def parse_pairs(words: Sequence[str]) -> dict[str, str]:
    """``KEY=VALUE`` words; raises a usage error for anything else."""
    pairs: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{word!r} is not {KEY_VALUE}", param_hint=KEY_VALUE)
        if key in pairs:
            raise click.BadParameter(f"{key!r} is given twice", param_hint=KEY_VALUE)
        pairs[key] = value
    return pairs


@machines.command(name="list")
@options.app_option
@options.all_option
@options.json_option
def list_(app: str | None, all_apps: bool, as_json: bool) -> None:
    """List an app's machines; every app's where no app is named."""
    found = options.api().get("/v1/machines", {"app": options.one_app(app, all_apps)})["items"]
    if as_json:
        output.print_json(found)
        return
    headers = (
        "ID", "NAME", "APP", "ORG", "NETWORK", "STATE", "CHECKS", "HOST", "REGION", "GROUP",
        "INTERFACE", "PRIVATE IP", "6PN ADDRESS",
    )  # fmt: skip
    rows = [
        (
            m["id"], m["name"], m["app"], m["org"], m["network"], _state(m), _checks(m), m["host"],
            m["region"], m["group"], m["interface"], m["private_ip"], m["ip_6pn"],
        )
        for m in found
    ]  # fmt: skip
    output.print_table(headers, rows)


def _checks(machine: dict[str, Any]) -> str:
    """``2/3`` pass; empty without any result."""
    passing, critical = machine["checks"]["passing"], machine["checks"]["critical"]
    return f"{passing}/{passing + critical}" if passing + critical else ""


def _state(machine: dict[str, Any]) -> str:
    cordoned = ", cordoned" if machine["cordoned"] else ""
    missing = ", no interface" if machine["interface_missing"] else ""
    failed = ", failed" if machine["error"] else ""
    return f"{machine['state']}{failed}{cordoned}{missing}"


@machines.command()
@click.argument("id_", metavar="ID")
@options.json_option
def show(id_: str, as_json: bool) -> None:
    """Show one machine."""
    machine = options.api().get(path("machines", id_))
    if as_json:
        output.print_json(machine)
    else:
        _print_one(machine)


def _print_one(machine: dict[str, Any]) -> None:
    output.print_details(
        {
            "ID": machine["id"],
            "Name": machine["name"],
            "App": machine["app"],
            "Organization": machine["org"],
            "Network": f"{machine['network']} ({machine['network_id']})",
            "State": _state(machine),
            **({"Checks passing": _checks(machine)} if _checks(machine) else {}),
            "Host": machine["host"],
            **({"Last error": machine["error"]} if machine["error"] else {}),
            "Region": machine["region"],
            "Group": machine["group"],
            "Interface": machine["interface"],
            "MAC": machine["mac"],
            "Private IP": machine["private_ip"],
            "fly-global-services": machine["services_ip"],
            "6PN address": machine["ip_6pn"],
            "MTU": machine["mtu"] or "any",
            "Metadata": [f"{key}={value}" for key, value in sorted(machine["metadata"].items())],
        }
    )


def _action(verb: str, done: str, help: str) -> None:
    """A command that posts one verb for each machine named."""

    @machines.command(name=verb, help=help)
    @click.argument("ids", metavar="ID...", nargs=-1, required=True)
    def command(ids: Sequence[str]) -> None:
        _post(verb, done, ids)


def _post(verb: str, done: str, ids: Sequence[str]) -> None:
    api = options.api(PATIENCE)
    for id_ in ids:
        api.get(path("machines", id_))  # nothing is done when one of them does not exist
    for id_ in ids:
        output.say(f"Machine {api.post(path('machines', id_, verb))['id']} {done}.")


_action(
    "start",
    "is started",
    """Start machines, by their host's [machines] commands.

    Where it has none, this only says that they run: they get traffic.
    """,
)


@machines.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--suspend", is_flag=True, help="Keep their memory: they go on where they were.")
def stop(ids: Sequence[str], suspend: bool) -> None:
    """Stop machines, by their host's [machines] commands, when connections have ended.

    Where it has none, this only says that they are stopped: their flows end or move.
    """
    _post("suspend" if suspend else "stop", "is suspended" if suspend else "is stopped", ids)


_action("cordon", "gets no new flows", "Give machines no new flows.")
_action("uncordon", "gets new flows again", "Give machines new flows again.")


@machines.command()
@click.argument("id_", metavar="ID")
@click.option("--interface", metavar="DEV", required=True, help="The VM's interface there.")
@click.option("--host", metavar="HOST", default=None, help="Default: this host.")
@click.option("--mac", metavar="MAC", default=None, help="The VM's own; default: as before.")
@options.json_option
def move(id_: str, interface: str, host: str | None, mac: str | None, as_json: bool) -> None:
    """Say that a VM is behind another interface, here or on another host.

    It keeps its id. On another host it gets other private addresses and another
    6PN address: `machines hosts` and `machines env` print its files anew.

    \b
    flyebpf machines move 0123456789abcd --host h2 --interface tap0
    """
    given = {"interface": interface, "host": host, "mac": mac}
    body = {key: value for key, value in given.items() if value is not None}
    machine = options.api().post(path("machines", id_, "move"), body)
    if as_json:
        output.print_json(machine)
    else:
        output.say(f"Moved machine {machine['id']} to host {machine['host']}.")
        _print_one(machine)
    _warn_of_interface(machine)


@machines.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@options.yes_option
def remove(ids: Sequence[str], yes: bool) -> None:
    """Forget machines.

    Their flows end and their addresses become free, to be reused last. All of
    them must exist, or none is removed.
    """
    api = options.api()
    targets = [path("machines", id_) for id_ in ids]
    for target in targets:
        api.get(target)  # nothing is removed when one of them does not exist
    options.confirm(f"Remove machine {', '.join(ids)}?", yes)
    for target in targets:
        output.say(f"Removed machine {api.delete(target)['id']}.")


@machines.command()
@click.argument("id_", metavar="ID")
@options.json_option
def env(id_: str, as_json: bool) -> None:
    """Print the environment variables that a machine gets."""
    values = options.api().get(path("machines", id_, "environment"))["environment"]
    if as_json:
        output.print_json(values)
        return
    for name, value in values.items():
        click.echo(f"{name}={value}")


@machines.command()
@click.argument("id_", metavar="ID")
@click.option("--resolv-conf", is_flag=True, help="Print /etc/resolv.conf instead.")
@options.json_option
def hosts(id_: str, resolv_conf: bool, as_json: bool) -> None:
    """Print a machine's /etc/hosts."""
    files = options.api().get(path("machines", id_, "hosts"))
    if as_json:
        output.print_json(files)
    else:
        click.echo(files["resolv_conf" if resolv_conf else "hosts"], nl=False)


@machines.group(cls=Group, help="Change a machine's metadata.")
def metadata() -> None:
    pass


@metadata.command(name="set")
@click.argument("id_", metavar="ID")
@click.argument("pairs", metavar=f"{KEY_VALUE}...", nargs=-1, required=True)
def set_(id_: str, pairs: Sequence[str]) -> None:
    """Set metadata of a machine."""
    _change(id_, {"set": parse_pairs(pairs)})


@metadata.command()
@click.argument("id_", metavar="ID")
@click.argument("keys", metavar="KEY...", nargs=-1, required=True)
def unset(id_: str, keys: Sequence[str]) -> None:
    """Unset metadata of a machine."""
    _change(id_, {"unset": list(keys)})


def _change(id_: str, body: dict[str, Any]) -> None:
    machine = options.api().patch(path("machines", id_, "metadata"), body)
    pairs = [f"{key}={value}" for key, value in sorted(machine["metadata"].items())]
    output.say(f"Machine {machine['id']} has {', '.join(pairs) or 'no metadata'}.")
