# SPDX-License-Identifier: Apache-2.0
"""What the tour shows of several hosts: one cluster, private networks, edges."""

from __future__ import annotations

import subprocess

import click

from flyebpf.errors import UnavailableError
from flyebpf.lab import etcd, net, routes, sample, state, vms
from flyebpf.lab.demo_steps import check_seen, flyebpf, run_in, show, step
from flyebpf.lab.state import Lab, Paths

CROSSED = {"wireguard": "WireGuard", "plain": "the fabric, unencrypted"}


def run(where: Paths, lab: Lab) -> None:
    """All steps; raises UnavailableError at the first that does not work."""
    first, last = next(iter(lab.hosts)), list(lab.hosts)[-1]
    with step(f"{len(lab.hosts)} hosts, one cluster"):
        flyebpf(lab, last, "hosts", "list")
    with step("A private network over several hosts"):
        web2 = vms.find(lab, "web2")
        click.echo(f"  web2 is on {web2.host}; the packets cross {CROSSED[lab.underlay]}.")
        command = ["ping", "-c", "2", "-i", "0.2", "-W", "5", web2.sixpn]
        run_in(lab, "web1", command)
    with step("Another tenant's VM on the same host"):
        refused(lab, web2.sixpn)
        flyebpf(lab, vms.find(lab, sample.STRANGER).host, "drops")
    with step("An edge without a machine of the service"):
        edges(lab, first, last)
    with step("The whole store is killed, and requests go on"):
        without_store(where, lab)


def refused(lab: Lab, address: str) -> None:
    command = ["ping", "-c", "1", "-W", "1", address]
    done = subprocess.run(
        net.exec_argv(lab.namespaces()[sample.STRANGER], command),
        capture_output=True,
        text=True,
        check=False,
    )
    show(sample.STRANGER, command, done.stdout + done.stderr)
    if done.returncode == 0:
        raise UnavailableError(f"{address} answered a VM of another tenant")


def edges(lab: Lab, first: str, last: str) -> None:
    """The echo server is on the last host; its clients may come in anywhere."""
    client = next(iter(lab.clients))
    address = sample.address_of(lab, "echo")
    for host in dict.fromkeys((first, last)):
        routes.send(lab, address, [host])
        click.echo(f"  flyebpf lab route {address} via {host}")
        command = f"echo hello | socat -t 1 - UDP4:{address}:{sample.ECHO_PORT}"
        answer = run_in(lab, client, ["sh", "-c", command])
        check_seen(answer, lab.clients[client].address)


def without_store(where: Paths, lab: Lab) -> None:
    client = next(iter(lab.clients))
    web = sample.address_of(lab, "web")
    with state.locked(where):
        for member in lab.members.values():
            etcd.stop(where, lab, member, kill=True)
        try:
            click.echo(f"  {', '.join(lab.members)}: killed")
            run_in(lab, client, ["curl", "-sS", "-m", "5", f"http://{web}/"])
        finally:
            for member in lab.members.values():
                etcd.start(where, lab, member)
            etcd.wait_healthy(where, lab)
    click.echo(f"  {', '.join(lab.members)}: back")
