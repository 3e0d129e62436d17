# SPDX-License-Identifier: Apache-2.0
"""``flyebpf lab``: a small region in network namespaces of this machine."""

from __future__ import annotations

import contextlib
import difflib
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace

import click

from flyebpf.cli.lazy import Group
from flyebpf.cli.output import print_json, print_table
from flyebpf.errors import ConflictError, NotFoundError, UnavailableError
from flyebpf.lab import (
    addressing,
    cli_nodes,
    etcd,
    hosts,
    net,
    process,
    sample,
    state,
    topology,
    vms,
)
from flyebpf.lab import demo as demonstration
from flyebpf.lab.command import PASS_ON, line, need_root, opened
from flyebpf.lab.state import Lab, Paths
from flyebpf.lab.topology import Wanted

COMMAND_NOT_FOUND = 127  # as shells say it


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
@click.option(
    "--store",
    type=click.Choice(["sqlite", "etcd"]),
    help="etcd: the hosts are one cluster, the default for several. sqlite: each is its own.",
)
@click.option(
    "--underlay",
    type=click.Choice(["wireguard", "plain", "none"]),
    help="How the hosts of a cluster reach each other. Default: wireguard.",
)
@click.option(
    "--proxy",
    is_flag=True,
    help="Run Envoy on the hosts, for handlers, shared addresses and Flycast.",
)
@click.option("--empty", is_flag=True, help="Deploy no sample.")
def up(  # noqa: PLR0917 (one parameter an option)
    host_count: int | None,
    client_count: int | None,
    store: str | None,
    underlay: str | None,
    proxy: bool,
    empty: bool,
) -> None:
    """Bring the lab up, with a sample: nginx and a UDP echo server.

    Several hosts are one cluster: three members of etcd hold its state, and
    WireGuard carries what hosts send to each other. One host keeps its state in
    a file.

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
        asked = {"hosts": host_count, "clients": client_count, "store": store, "underlay": underlay}
        asked["proxy"] = "envoy" if proxy else None
        go_on(where, found, asked)
        return
    wanted = decide(host_count or 1, client_count or 1, store, underlay)
    wanted = replace(wanted, proxy="envoy" if proxy else "none")
    signal.signal(signal.SIGTERM, interrupted)
    signal.signal(signal.SIGHUP, interrupted)
    click.echo(f"Bringing the lab up in {where.root}")
    built = topology.up(where, state.lab_name(), wanted, line)
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


def decide(host_count: int, client_count: int, store: str | None, underlay: str | None) -> Wanted:
    """What is asked for, with the defaults that depend on each other."""
    chosen = store or ("etcd" if host_count > 1 else "sqlite")
    if chosen == "sqlite" and underlay not in (None, "none"):
        raise ConflictError(
            f"--underlay {underlay} needs hosts that know each other",
            "With --store etcd they are one cluster.",
        )
    default = "wireguard" if chosen == "etcd" and host_count > 1 else "none"
    return Wanted(host_count, client_count, chosen, underlay or default)


def go_on(where: Paths, found: Lab, asked: Mapping[str, object]) -> None:
    """`lab up` when there is a lab: it must be what is asked for, and whole."""
    topology.check_complete(found)
    have = {
        "hosts": len(found.hosts),
        "clients": len(found.clients),
        "store": found.store,
        "underlay": found.underlay,
        "proxy": found.proxy,
    }
    if any(value not in (None, have[key]) for key, value in asked.items()):
        raise ConflictError(
            f"a lab is up already, with {describe(found)}",
            "Take it down first: flyebpf lab down",
        )
    topology.check_whole(found)
    with state.locked(where):
        for member in found.members.values():
            if etcd.start(where, found, member):
                line(f"{member.name}    starting it, as it had ended")
        ended = [host for host in found.hosts.values() if not process.alive(host.daemon)]
        for host in ended:
            line(f"{host.name}    starting its daemon, which had ended")
        hosts.start_daemons(where, found, ended, line)
    click.echo(f"The lab is up already: {describe(found)}. See: flyebpf lab list")


def describe(built: Lab) -> str:
    counts = (
        (len(built.clients), "client"),
        (len(built.hosts), "host"),
        (len(built.vms), "VM"),
    )
    text = ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for n, word in counts)
    return f"{text}; store {built.store}, underlay {built.underlay}, proxy {built.proxy}"


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
        ("NODE", "KIND", "ADDRESS", "6PN", "STATE", "NOTES"),
        [
            tuple(n[key] for key in ("name", "kind", "address", "sixpn", "state", "notes"))
            for n in nodes
        ],
    )


def node_row(name: str, built: Lab) -> dict[str, str]:
    row = {"name": name, "namespace": built.namespaces()[name], "sixpn": ""}
    row["state"] = "up" if net.exists(row["namespace"]) else "missing"
    if client := built.clients.get(name):
        return {**row, "kind": "client", "address": client.address, "notes": ""}
    if host := built.hosts.get(name):
        mesh = f", fabric {host.fabric}" if host.fabric else ""
        notes = f"region {host.region}, Anycast {host.pool}{mesh}"
        if row["state"] == "up" and not process.alive(host.daemon):
            row["state"] = "no daemon"
        return {**row, "kind": "host", "address": host.address, "notes": notes}
    if vm := built.vms.get(name):
        notes = f"app {vm.app} on {vm.host}, machine {vm.machine}"
        if vm.process is not None and not process.alive(vm.process):
            row["state"] = "command ended"
        row["sixpn"] = vm.sixpn
        return {**row, "kind": "vm", "address": vm.private_ip, "notes": notes}
    if member := built.members.get(name):
        if row["state"] == "up":
            row["state"] = process.state(member.process)
        return {**row, "kind": "etcd", "address": member.address, "notes": ""}
    return {**row, "kind": "router", "address": "", "notes": ""}


@lab.command("exec", context_settings=PASS_ON)
@click.argument("node")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True, metavar="-- CMD…")
def exec_(node: str, command: tuple[str, ...]) -> None:
    """Run CMD in a node: a client, the router, a member of etcd, a host or a VM.

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


@lab.command()
def demo() -> None:
    """Send real requests through the sample and show what happens."""
    where, built = opened()
    demonstration.run(where, built)


for command in (cli_nodes.vm, cli_nodes.daemon, cli_nodes.etcd, cli_nodes.route):
    lab.add_command(command)
