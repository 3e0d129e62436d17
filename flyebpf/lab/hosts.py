# SPDX-License-Identifier: Apache-2.0
"""Hosts: a namespace with an uplink, and a real daemon in it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv6Network
from pathlib import Path

from flyebpf.api.client import Client as ApiClient
from flyebpf.errors import FlyebpfError, NotFoundError, UnavailableError
from flyebpf.lab import addressing, etcd, fabric, net, process
from flyebpf.lab.state import Host, Lab, Paths, save

SILENCE = 2.0  # seconds until a wait is explained
START_PATIENCE = 40.0  # seconds; a cold start compiles the programs

CONFIG = """\
# Written by `flyebpf lab up`.
host = "{name}"
region = "{region}"
uplinks = ["uplink"]
store = "{store}"
state_dir = "{directory}/state"
bpffs = "{directory}/bpffs"

[pools]
anycast_v4 = ["{pool}"]
anycast_v6 = ["{pool6}"]
shared_v4 = {shared}

[private]
prefix = "{prefix}"
block = "{block}"
alias = "{alias}"

[dataplane]
# Small: a lab's memory is that of the machine it runs on.
flows = 65536
services = 16384
machines = 4096
maglev_entries = 1048576
pool_addresses = 1024
pool6_addresses = 256

[egress]
# The lab's internet. Its addresses are reserved for documentation, so the
# data plane would not take them for public ones.
allow = ["{clients}"]

[api]
socket = "{socket}"
group = "root"
"""

ETCD = """
[etcd]
endpoints = {endpoints}
"""

MESH = """
[mesh]
underlay = "{underlay}"
endpoint = "{endpoint}"
# The lab's wires are all equally short: measured, they would decide nothing.
latency = {latency}
"""


PROXY = """
[proxy]
engine = "{proxy}"
workers = 1
"""

MACHINES = """
[machines]
# The lab's VMs: what runs in them is started, ended and frozen.
start = {start}
stop = {stop}
suspend = {suspend}
status = {status}
timeout = 20
drain = 10
"""


def machine_commands(where: Paths) -> str:
    """The table of commands that start and stop the lab's VMs."""
    driver = ["/usr/bin/env", f"PYTHONPATH={net.python_path()}", sys.executable, "-P"]
    driver += ["-m", "flyebpf.lab.driver", str(where.root)]
    verbs = ("start", "stop", "suspend", "status")
    return MACHINES.format(**{verb: json.dumps([*driver, verb, "{id}"]) for verb in verbs})


def write_config(where: Paths, lab: Lab, host: Host) -> Path:
    directory = where.host(host.name)
    path = directory / "flyebpf.toml"
    text = CONFIG.format(
        name=host.name,
        region=host.region,
        store=lab.store,
        directory=directory,
        pool=host.pool,
        pool6=pool6(lab, host),
        shared=json.dumps([str(addressing.SHARED)] if lab.proxy != "none" else []),
        prefix=addressing.PRIVATE,
        block=addressing.private_block(host.number),
        alias=addressing.ALIAS,
        clients=addressing.CLIENTS,
        socket=host.socket,
    )
    if lab.store == "etcd":
        endpoints = [etcd.client_url(member) for member in lab.members.values()]
        text += ETCD.format(endpoints=json.dumps(endpoints))
    if lab.underlay != "none":
        latency = json.dumps(addressing.latencies(addressing.MAX_HOSTS))
        endpoint = host.fabric if lab.underlay == "plain" else host.address
        text += MESH.format(underlay=lab.underlay, endpoint=endpoint, latency=latency)
    if lab.underlay == "plain":
        text += f'interface = "{fabric.INTERFACE}"\n'
    if lab.proxy != "none":
        text += PROXY.format(proxy=lab.proxy) + machine_commands(where)
    path.write_text(text)
    return path


def pool6(lab: Lab, host: Host) -> IPv6Network:
    """As with IPv4, hosts with one store have one pool; else each has its own."""
    if lab.store == "etcd":
        return addressing.ANYCAST6
    return addressing.anycast_pool6(host.number)


def create(where: Paths, lab: Lab, host: Host) -> None:
    """Its namespace, its link to the router, its bpffs and its configuration."""
    net.check_free(host.namespace)
    directory = where.host(host.name)
    directory.mkdir(mode=0o755)
    (directory / "state").mkdir(mode=0o700)
    lab.hosts[host.name] = host
    lab.ledger.namespaces.append(host.namespace)
    lab.ledger.mounts.append(str(directory / "bpffs"))
    save(where, lab)
    net.mount_bpffs(directory / "bpffs")
    net.add_namespace(host.namespace)
    link_uplink(lab.router, host, directory / "bpffs")
    if host.fabric:
        fabric.connect(lab.router, host.namespace, host.name, host.fabric)
    write_config(where, lab, host)


def link_uplink(router: str, host: Host, bpffs: Path) -> None:
    """The link between router and host.

    XDP at the uplink must see what a network card would deliver: whole
    checksums and segments no longer than the MTU. So the router's end leaves
    nothing to offload. It also gets an XDP program that passes everything,
    without which veth drops what the uplink sends back by XDP_TX.
    """
    link, link6 = addressing.host_link(host.number), addressing.host_link6(host.number)
    net.add_veth(router, host.name, host.namespace, "uplink")
    net.offload(router, host.name, tx=False, tso=False, gso=False)
    net.pass_xdp(router, host.name, bpffs)
    net.batch(
        router,
        f"address add {link.router}/{link.prefixlen} dev {host.name}",
        f"address add {link6.router}/{link6.prefixlen} dev {host.name} nodad",
        f"link set {host.name} up",
    )
    net.batch(
        host.namespace,
        f"address add {link.node}/{link.prefixlen} dev uplink",
        f"address add {link6.node}/{link6.prefixlen} dev uplink nodad",
        "link set uplink up",
        f"route add default via {link.router}",
        f"route add default via {link6.router}",
    )


def find(lab: Lab, name: str) -> Host:
    host = lab.hosts.get(name)
    if host is None:
        raise NotFoundError(
            f"the lab has no host {name!r}", f"Its hosts: {', '.join(sorted(lab.hosts))}."
        )
    return host


def environment(host: Host) -> dict[str, str]:
    """For what runs on the host: its daemon's socket, and ``flyebpf`` in PATH."""
    return {**os.environ, "PATH": net.tool_path(), "FLYEBPF_SOCKET": host.socket}


def api(host: Host) -> ApiClient:
    return ApiClient(host.socket)


def start_daemon(where: Paths, lab: Lab, host: Host, say: Callable[[str], None]) -> None:
    """Start the host's daemon and wait until its API answers."""
    start_daemons(where, lab, [host], say)


def start_daemons(
    where: Paths, lab: Lab, nodes: Sequence[Host], say: Callable[[str], None]
) -> None:
    """Several at once, those that do not run; waits until all answer."""
    started = [host for host in nodes if not process.alive(host.daemon)]
    for host in started:
        launch(where, lab, host)
    for host in started:
        patience = START_PATIENCE * len(started)
        wait_ready(host, where.host(host.name) / "daemon.log", say, patience)


def launch(where: Paths, lab: Lab, host: Host) -> None:
    directory = where.host(host.name)
    daemon = [sys.executable, "-P", "-m", "flyebpf", "daemon"]
    argv = [*daemon, "--config", str(directory / "flyebpf.toml")]
    env = {**environment(host), "PYTHONPATH": net.python_path(), "PYTHONUNBUFFERED": "1"}
    env.pop("NOTIFY_SOCKET", None)
    log = directory / "daemon.log"
    host.daemon = process.start(net.exec_argv(host.namespace, argv), env, log)
    save(where, lab)


def wait_ready(host: Host, log: Path, say: Callable[[str], None], patience: float) -> None:
    begun = time.monotonic()
    deadline = begun + patience
    said = False
    while True:
        if not said and time.monotonic() > begun + SILENCE:
            say(f"{host.name}    is still starting; what it does is in {log}")
            said = True
        if not process.alive(host.daemon):
            why = "ended"
            break
        try:
            api(host).get("/v1/status")
            return
        except FlyebpfError as error:
            why = f"does not answer ({error.message})"
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    raise UnavailableError(
        f"the daemon of {host.name} {why}; the end of its log:\n{process.tail(log)}",
        f"The whole log is {log}.",
    )


def wait_synced(host: Host, patience: float = 10.0) -> None:
    """Wait until the kernel holds what the store says."""
    deadline = time.monotonic() + patience
    while True:
        status = api(host).get("/v1/status")
        if status["in_sync"] and not status["pending"]:
            return
        if time.monotonic() > deadline:
            found = [f"{p['object']}: {p['message']}" for p in status["problems"]]
            raise UnavailableError(
                f"{host.name} has not applied everything within {patience:g} s",
                "Its status: " + ("; ".join(found) or "no problem reported"),
            )
        time.sleep(0.02)


def stop_daemon(where: Paths, lab: Lab, host: Host, *, kill: bool = False) -> bool:
    """End the daemon; the data plane goes on. Whether it was running."""
    running = process.alive(host.daemon)
    if running and host.daemon is not None:
        if kill:
            process.kill(host.daemon)
        else:
            process.stop(host.daemon, patience=10.0)
    host.daemon = None
    save(where, lab)
    return running
