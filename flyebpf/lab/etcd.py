# SPDX-License-Identifier: Apache-2.0
"""The cluster's store: three real members of etcd, each in a namespace.

They are on the network between hosts and nowhere else. Their data is in the
lab's folder.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from pathlib import Path

from flyebpf.errors import NotFoundError, UnavailableError
from flyebpf.lab import addressing, fabric, net, process
from flyebpf.lab.state import Lab, Member, Paths, save

PATIENCE = 30.0  # seconds until the members have elected a leader


def new_member(lab: str, number: int) -> Member:
    name = f"etcd{number}"
    address = str(addressing.etcd_address(number))
    return Member(name, number, f"{lab}-{name}", address)


def client_url(member: Member) -> str:
    return f"http://{member.address}:{addressing.ETCD_CLIENT_PORT}"


def peer_url(member: Member) -> str:
    return f"http://{member.address}:{addressing.ETCD_PEER_PORT}"


def create(where: Paths, lab: Lab, member: Member) -> None:
    """Its namespace, its folder and its link."""
    if not net.tool("etcd"):
        raise UnavailableError(
            "etcd, which several hosts share, is not installed",
            "Install it (apt install etcd-server), or give each host a store of its own: "
            "--store sqlite.",
        )
    net.check_free(member.namespace)
    where.member(member.name).mkdir(mode=0o700)
    lab.members[member.name] = member
    lab.ledger.namespaces.append(member.namespace)
    save(where, lab)
    net.add_namespace(member.namespace)
    fabric.connect(lab.router, member.namespace, member.name, member.address)


def argv(lab: Lab, member: Member, directory: Path) -> list[str]:
    cluster = ",".join(f"{other.name}={peer_url(other)}" for other in lab.members.values())
    options = {
        "name": member.name,
        "data-dir": str(directory / "data"),
        "listen-client-urls": client_url(member),
        "advertise-client-urls": client_url(member),
        "listen-peer-urls": peer_url(member),
        "initial-advertise-peer-urls": peer_url(member),
        "initial-cluster": cluster,
        "initial-cluster-token": lab.name,
        "initial-cluster-state": "new",
        # Old revisions go soon, as in a cluster that has run for months.
        "auto-compaction-mode": "revision",
        "auto-compaction-retention": "1000",
        "logger": "zap",
        "log-level": "warn",
    }
    return ["etcd", *(f"--{key}={value}" for key, value in options.items())]


def start(where: Paths, lab: Lab, member: Member) -> bool:
    """Start it, or let it go on when it is paused. Whether it was not running."""
    if member.process is not None and process.alive(member.process):
        return process.resume(member.process)
    directory = where.member(member.name)
    environment = {**os.environ, "PATH": net.tool_path()}
    command = net.exec_argv(member.namespace, argv(lab, member, directory))
    member.process = process.start(command, environment, directory / "log")
    save(where, lab)
    return True


def stop(where: Paths, lab: Lab, member: Member, *, kill: bool = False) -> bool:
    """End it; its data stays. Whether it was running."""
    running = process.alive(member.process)
    if running and member.process is not None:
        if kill:
            process.kill(member.process)
        else:
            process.stop(member.process)
    member.process = None
    save(where, lab)
    return running


def wait_healthy(where: Paths, lab: Lab) -> None:
    """Wait until the members have a leader: any of them says so."""
    member = next(iter(lab.members.values()))
    deadline = time.monotonic() + PATIENCE
    while not healthy(member):
        log = where.member(member.name) / "log"
        if not process.alive(member.process) or time.monotonic() > deadline:
            raise UnavailableError(
                f"etcd has no leader; the end of the log of {member.name}:\n{process.tail(log)}",
                f"The whole log is {log}.",
            )
        time.sleep(0.1)


def healthy(member: Member) -> bool:
    """Whether it answers, and a majority with it.

    Asked from inside its namespace: the machine has no way to the fabric.
    """
    with net.inside(member.namespace):
        try:
            with urllib.request.urlopen(f"{client_url(member)}/health", timeout=2) as answer:
                return bool(json.load(answer)["health"] == "true")
        except (OSError, ValueError, KeyError, urllib.error.URLError):
            return False


def find(lab: Lab, name: str) -> Member:
    member = lab.members.get(name)
    if member is None:
        known = ", ".join(sorted(lab.members))
        raise NotFoundError(
            f"the lab has no member of etcd {name!r}",
            f"Its members: {known}." if known else "Each host of this lab has a store of its own.",
        )
    return member
