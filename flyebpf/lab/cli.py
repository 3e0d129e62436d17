# SPDX-License-Identifier: Apache-2.0
"""``flyebpf lab``: a small region in network namespaces of this machine."""

from __future__ import annotations

import contextlib
import difflib
import os
import shutil
import signal
import sys

import click

from flyebpf.cli.lazy import Group
from flyebpf.cli.output import print_json, print_table
from flyebpf.errors import ConflictError, NotFoundError, UnavailableError
from flyebpf.lab import addressing, hosts, net, process, sample, state, topology, vms
from flyebpf.lab import demo as demonstration
from flyebpf.lab.state import Lab, Paths

COMMAND_NOT_FOUND = 127  # as shells say it
PASS_ON = {"ignore_unknown_options": True}


def need_root() -> None:
    if os.geteuid() != 0:
        raise UnavailableError(
            "the lab needs root: it makes network namespaces and loads BPF programs",
            "Run it with sudo.",
        )


def opened() -> tuple[Paths, Lab]:
    """The lab that is up, whole."""
    need_root()
    where = state.paths()
    lab = state.load(where)
    topology.check_complete(lab)
    return where, lab


def line(text: str) -> None:
    click.echo(f"  {text}")


@click.group(cls=Group)
def lab() -> None:
    """Run a small region on this machine.

    Clients reach hosts through a router; each host runs its own daemon; VMs
    are behind the hosts. All of it is in network namespaces. Needs root.

    \b
    FLYEBPF_LAB_NAME  first part of the namespaces' names (default: fly)
    FLYEBPF_LAB_DIR   the lab's files (default: /run/flyebpf-lab)
    With both set, a second lab runs beside the first.
    """
    os.environ["PATH"] = net.tool_path()


@lab.command()
@click.option(
    "--hosts",
    "host_count",
    type=click.IntRange(1, addressing.MAX_HOSTS),
    metavar="N",
    help=f"How many hosts, each with its own daemon; up to {addressing.MAX_HOSTS}. Default: 1.",
)
@click.option(
    "--clients",
    "client_count",
    type=click.IntRange(1, addressing.MAX_CLIENTS),
    metavar="N",
    help=f"How many clients; up to {addressing.MAX_CLIENTS}. Default: 1.",
)
@click.option("--empty", is_flag=True, help="Deploy no sample.")
def up(host_count: int | None, client_count: int | None, empty: bool) -> None:
    """Bring the lab up, with a sample: nginx and a UDP echo server.

    \b
    flyebpf lab demo      then sends real requests through it
    flyebpf lab list      shows the nodes
    flyebpf lab down      removes every trace

    When it is up already, daemons that ended are started again. The first start
    compiles the BPF programs, which takes a few seconds.
    """
    need_root()
    where = state.paths()
    found = topology.existing(where)
    if found is not None:
        go_on(where, found, host_count, client_count)
        return
    signal.signal(signal.SIGTERM, interrupted)
    signal.signal(signal.SIGHUP, interrupted)
    click.echo(f"Bringing the lab up in {where.root}")
    built = topology.up(where, state.lab_name(), host_count or 1, client_count or 1, line)
    try:
        with state.locked(where):
            if not empty:
                click.echo("Deploying the sample")
                sample.deploy(where, built, line)
            topology.finish(where, built)
    except BaseException as error:
        with contextlib.suppress(OSError):  # nobody may be reading any more
            click.echo(f"Deploying the sample {topology.reason(error)}; removing the lab", err=True)
        topology.down(where, lambda _line: None)
        raise
    click.echo(f"The lab is up: {describe(built)}.")


def interrupted(number: int, _frame: object) -> None:
    """As Ctrl-C does: what was made is removed."""
    raise SystemExit(128 + number)


def go_on(where: Paths, found: Lab, host_count: int | None, client_count: int | None) -> None:
    """`lab up` when there is a lab: it must be what is asked for, and whole."""
    topology.check_complete(found)
    wanted = (host_count or len(found.hosts), client_count or len(found.clients))
    if wanted != (len(found.hosts), len(found.clients)):
        raise ConflictError(
            f"a lab is up already, with {describe(found)}",
            "Take it down first: flyebpf lab down",
        )
    topology.check_whole(found)
    with state.locked(where):
        for host in found.hosts.values():
            if not process.alive(host.daemon):
                line(f"{host.name}    starting its daemon, which had ended")
                hosts.start_daemon(where, found, host, line)
    click.echo(f"The lab is up already: {describe(found)}. See: flyebpf lab list")


def describe(built: Lab) -> str:
    counts = (
        (len(built.clients), "client"),
        (len(built.hosts), "host"),
        (len(built.vms), "VM"),
    )
    return ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for n, word in counts)


@lab.command()
def down() -> None:
    """Remove every trace of the lab."""
    need_root()
    where = state.paths()
    if topology.down(where, line):
        click.echo("The lab is down.")
    else:
        click.echo(f"There is no lab in {where.root}.")


@lab.command("list")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """Show the lab's nodes."""
    where = state.paths()
    built = state.load(where)
    nodes = [node_row(name, built) for name in built.namespaces()]
    if as_json:
        print_json(nodes)
        return
    print_table(
        ("NODE", "KIND", "ADDRESS", "STATE", "NOTES"),
        [(n["name"], n["kind"], n["address"], n["state"], n["notes"]) for n in nodes],
    )


def node_row(name: str, built: Lab) -> dict[str, str]:
    row = {"name": name, "namespace": built.namespaces()[name]}
    row["state"] = "up" if net.exists(row["namespace"]) else "missing"
    if client := built.clients.get(name):
        return {**row, "kind": "client", "address": client.address, "notes": ""}
    if host := built.hosts.get(name):
        notes = f"region {host.region}, Anycast {host.pool}"
        if row["state"] == "up" and not process.alive(host.daemon):
            row["state"] = "no daemon"
        return {**row, "kind": "host", "address": host.address, "notes": notes}
    if vm := built.vms.get(name):
        notes = f"app {vm.app} on {vm.host}, machine {vm.machine}"
        if vm.process is not None and not process.alive(vm.process):
            row["state"] = "command ended"
        return {**row, "kind": "vm", "address": vm.private_ip, "notes": notes}
    return {**row, "kind": "router", "address": "", "notes": ""}


@lab.command("exec", context_settings=PASS_ON)
@click.argument("node")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True, metavar="-- CMD…")
def exec_(node: str, command: tuple[str, ...]) -> None:
    """Run CMD in a node: a client, the router, a host or a VM.

    Its exit code is passed on. On a host `flyebpf` talks to that host's
    daemon; a VM's environment is the one that its image would get.
    """
    _, built = opened()
    namespaces = built.namespaces()
    if node not in namespaces:
        raise NotFoundError(f"the lab has no node {node!r}", hint(node, list(namespaces)))
    if not net.exists(namespaces[node]):
        raise UnavailableError(
            f"the network namespace of {node} is gone",
            "Take the lab down and bring it up again: flyebpf lab down, flyebpf lab up",
        )
    if node in built.hosts:
        environment = hosts.environment(built.hosts[node])
    elif node in built.vms:
        environment = vms.environment(built.vms[node])
    else:
        environment = {**os.environ, "PATH": net.tool_path()}
    if not shutil.which(command[0], path=environment["PATH"]):
        click.echo(f"Error: {command[0]}: no such command on {node}", err=True)
        sys.exit(COMMAND_NOT_FOUND)
    argv = net.exec_argv(namespaces[node], command)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it; CMD shall not
    os.execvpe(argv[0], argv, environment)


def hint(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    guess = f"Did you mean {close[0]!r}? " if close else ""
    return f"{guess}Its nodes: {', '.join(sorted(known))}."


@lab.group(cls=Group)
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
    line(f"private address      {added.private_ip}")
    line(f"fly-global-services  {added.services_ip}")
    if command:
        line(f"log                  {where.vm(added.name) / 'log'}")


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


@lab.group(cls=Group)
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


@lab.command()
def demo() -> None:
    """Send real requests through the sample and show what happens."""
    where, built = opened()
    demonstration.run(where, built)
