# SPDX-License-Identifier: Apache-2.0
"""The lab's commands that change parts of it: VMs, daemons, etcd, routes."""

from __future__ import annotations

import click

from flyebpf.cli.lazy import Group
from flyebpf.cli.output import print_table
from flyebpf.errors import InvalidError
from flyebpf.lab import etcd as members
from flyebpf.lab import hosts, process, routes, state, vms
from flyebpf.lab.command import PASS_ON, line, need_root, opened
from flyebpf.lab.state import Vm


@click.group(cls=Group)
def vm() -> None:
    """Add and remove VMs."""


@vm.command("add", context_settings=PASS_ON)
@click.option("--host", required=True, metavar="HOST", help="The lab host that it runs on.")
@click.option("--app", "-a", required=True, metavar="APP", help="The app that it belongs to.")
@click.option("--name", metavar="NAME", help="Default: the app's name and a number.")
@click.option("--region", "-r", metavar="REGION", help="Default: the host's.")
@click.option("--group", metavar="GROUP", help="Its process group; default: app.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- CMD…]")
def vm_add(
    *,
    host: str,
    app: str,
    name: str | None,
    region: str | None,
    group: str | None,
    command: tuple[str, ...],
) -> None:
    """Add a VM of an app, running CMD in it if given.

    \b
    flyebpf lab vm add --host host1 --app web -- python3 -m http.server 8080
    """
    need_root()
    where = state.paths()
    with state.locked(where):
        _, built = opened()
        added = vms.add(
            where,
            built,
            host=host,
            app=app,
            name=name,
            region=region,
            group=group,
            command=command,
        )
    click.echo(f"{added.name}: machine {added.machine} of {added.app} on {added.host}")
    say_addresses(added)
    if command:
        line(f"log                  {where.vm(added.name) / 'log'}")


def say_addresses(vm_: Vm) -> None:
    line(f"private address      {vm_.private_ip}")
    line(f"fly-global-services  {vm_.services_ip}")
    line(f"fly-local-6pn        {vm_.sixpn}")


@vm.command("move")
@click.argument("name")
@click.option("--host", required=True, metavar="HOST", help="The lab host to take it to.")
def vm_move(name: str, host: str) -> None:
    """Take a VM to another host of the cluster. What runs in it goes on."""
    need_root()
    where = state.paths()
    with state.locked(where):
        _, built = opened()
        moved = vms.move(where, built, name, host)
    click.echo(f"{moved.name}: machine {moved.machine} of {moved.app} on {moved.host}")
    say_addresses(moved)


@vm.command("remove")
@click.argument("name")
def vm_remove(name: str) -> None:
    """Unregister a VM and delete it."""
    need_root()
    where = state.paths()
    with state.locked(where):
        _, built = opened()
        vms.remove(where, built, name)
    click.echo(f"{name} removed")


@click.group(cls=Group)
def daemon() -> None:
    """Start and stop hosts' daemons; traffic goes on without them."""


@daemon.command("start")
@click.argument("host")
def daemon_start(host: str) -> None:
    """Start a host's daemon and wait until it answers."""
    need_root()
    where = state.paths()
    with state.locked(where):
        _, built = opened()
        node = hosts.find(built, host)
        already = process.alive(node.daemon)
        hosts.start_daemon(where, built, node, line)
    click.echo(f"the daemon of {host} {'runs already' if already else 'is ready'}")


@daemon.command("stop")
@click.argument("host")
@click.option("--kill", is_flag=True, help="SIGKILL, as a crash would.")
def daemon_stop(host: str, kill: bool) -> None:
    """End a host's daemon."""
    need_root()
    where = state.paths()
    with state.locked(where):
        _, built = opened()
        running = hosts.stop_daemon(where, built, hosts.find(built, host), kill=kill)
    click.echo(f"the daemon of {host} {'ended' if running else 'was not running'}")


@click.group(cls=Group)
def etcd() -> None:
    """Start, stop and pause members of etcd."""


@etcd.command("start")
@click.argument("member", nargs=-1, required=True)
def etcd_start(member: tuple[str, ...]) -> None:
    """Start members, or let paused ones go on."""
    need_root()
    where = state.paths()
    with state.locked(where):
        _, built = opened()
        for node in [members.find(built, name) for name in member]:
            changed = members.start(where, built, node)
            click.echo(f"{node.name} {'runs' if changed else 'ran already'}")


@etcd.command("stop")
@click.argument("member", nargs=-1, required=True)
@click.option("--kill", is_flag=True, help="SIGKILL, as a crash would.")
@click.option("--pause", is_flag=True, help="SIGSTOP: it hangs, and its connections stay.")
def etcd_stop(member: tuple[str, ...], kill: bool, pause: bool) -> None:
    """End members; their data stays."""
    need_root()
    if kill and pause:
        raise click.UsageError("--kill and --pause exclude each other")
    where = state.paths()
    with state.locked(where):
        _, built = opened()
        for node in [members.find(built, name) for name in member]:
            if pause and node.process is not None and process.alive(node.process):
                process.pause(node.process)
                click.echo(f"{node.name} is paused")
                continue
            running = members.stop(where, built, node, kill=kill)
            click.echo(f"{node.name} {'ended' if running else 'was not running'}")


@click.command()
@click.argument("target", required=False)
@click.argument("words", nargs=-1, metavar="[via HOST…]")
def route(target: str | None, words: tuple[str, ...]) -> None:
    """Choose the hosts that the lab's internet sends an Anycast address to.

    Several share its flows. Without arguments the routes are shown.

    \b
    flyebpf lab route 203.0.113.0/24 via host2          everything
    flyebpf lab route 203.0.113.1 via host1 host3       one address
    """
    need_root()
    _, built = opened()
    if target is None:
        print_table(("ANYCAST", "EDGE"), routes.table(built))
        return
    if len(words) < 2 or words[0] != "via":
        raise InvalidError("the hosts are missing", f"As in: flyebpf lab route {target} via host1")
    routes.send(built, target, words[1:])
    click.echo(f"{target} reaches the lab at {', '.join(words[1:])}")
