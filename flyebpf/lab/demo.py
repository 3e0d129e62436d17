# SPDX-License-Identifier: Apache-2.0
"""A tour of the sample: real requests, and what became of them."""

from __future__ import annotations

import os
import subprocess
import time

import click

from flyebpf.errors import UnavailableError
from flyebpf.lab import addressing, demo_cluster, hosts, net, routes, sample, state
from flyebpf.lab.command import line
from flyebpf.lab.demo_steps import check_seen, flyebpf, run_in, show, step
from flyebpf.lab.state import Lab, Paths

LOAD = 4  # seconds of requests
OUTAGE = 1.5  # seconds of these that the daemon stays dead


def run(where: Paths, lab: Lab) -> None:
    """All steps; raises UnavailableError at the first that does not work."""
    client, host = next(iter(lab.clients)), next(iter(lab.hosts))
    web, echo = sample.address_of(lab, "web"), sample.address_of(lab, "echo")
    cluster = len(lab.hosts) > 1 and lab.store == "etcd"
    if cluster:  # what is counted is then counted there
        routes.send(lab, str(addressing.ANYCAST), [host])
    with step("A real nginx in a VM, through an Anycast address"):
        address = lab.clients[client].address
        click.echo(f"  {client} is {address}; nothing rewrites that on the way to the VM.")
        for _ in range(3):
            answer = run_in(lab, client, ["curl", "-sS", "-m", "5", f"http://{web}/"])
            check_seen(answer, address)
    with step("UDP: port 7777 outside is port 5000 on fly-global-services in the VM"):
        target = f"UDP4:{echo}:{sample.ECHO_PORT}"
        command = f"echo hello | socat -t 0.3 - {target}"
        check_seen(run_in(lab, client, ["sh", "-c", command]), address)
    with step("What the host counted"):
        flyebpf(lab, host, "services", "list", "--all")
        curl_closed(lab, client, web)
        flyebpf(lab, host, "drops")
    if cluster:
        demo_cluster.run(where, lab)
    with step(f"kill -9 of the daemon of {host}, while requests go on"):
        outage(where, lab, client, host, web)
    goodbye(client, host, web)


def curl_closed(lab: Lab, client: str, web: str) -> None:
    """A port without a service: nothing answers, and the reason is counted."""
    click.echo("  Port 81 has no service: default deny, with its reason counted.")
    command = ["curl", "-sS", "-m", "0.5", f"http://{web}:81/"]
    done = subprocess.run(
        net.exec_argv(lab.namespaces()[client], command),
        capture_output=True,
        text=True,
        check=False,
    )
    show(client, command, done.stdout + done.stderr)
    if done.returncode == 0:
        raise UnavailableError(f"{web}:81 answered, although no service is there")


def outage(where: Paths, lab: Lab, client: str, host: str, web: str) -> None:
    command = ["wrk", "-t1", "-c20", f"-d{LOAD}s", f"http://{web}/"]
    load = subprocess.Popen(
        net.exec_argv(lab.namespaces()[client], command),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        time.sleep(0.5)
        node = lab.hosts[host]
        with state.locked(where):
            hosts.stop_daemon(where, lab, node, kill=True)
            click.echo("  The daemon is dead. New connections meanwhile:")
            run_in(lab, client, ["curl", "-sS", "-m", "5", f"http://{web}/"])
            time.sleep(OUTAGE)
            hosts.start_daemon(where, lab, node, line)
        click.echo("  The daemon is back and has adopted the programs. The load of this time:")
        output, _ = load.communicate(timeout=20)
    finally:
        load.kill()
        load.wait()
    show(client, command, output)
    if "Requests/sec" not in output or "Socket errors" in output or "Non-2xx" in output:
        raise UnavailableError("requests failed while the daemon was dead")


def goodbye(client: str, host: str, web: str) -> None:
    click.echo()
    click.secho("The lab stays up. To go on:", bold=True)
    names = ("FLYEBPF_LAB_NAME", "FLYEBPF_LAB_DIR")  # else it would be about another lab
    settings = [f"{name}={os.environ[name]} " for name in names if os.environ.get(name)]
    for text in (
        f"flyebpf lab exec {client} -- curl http://{web}/",
        f"flyebpf lab exec {host} -- flyebpf status",
        f"flyebpf lab exec {host} -- flyebpf machines list --all",
        "flyebpf lab exec web1 -- cat /etc/hosts",
        f"flyebpf lab vm add --host {host} --app web -- python3 -m http.server 8080",
        "flyebpf lab list",
        "flyebpf lab down",
    ):
        click.echo(f"  sudo {''.join(settings)}.venv/bin/{text}")
