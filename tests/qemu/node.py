# SPDX-License-Identifier: Apache-2.0
"""A host guest with the real daemon in it, and the tiny VMs behind its NICs."""

from __future__ import annotations

import json
from typing import Any

from tests.qemu import images, kernels
from tests.qemu.harness import Guest
from tests.qemu.machine import Machine, Nic
from tests.qemu.world import python

CREATE = 1200.0  # seconds; 120 are usual under TCG
FOLDER = "/run/region"
CONFIG = """
host = "{name}"
region = "{region}"
uplinks = ["eth0"]
state_dir = "/run/region/state"
bpffs = "/run/region/bpffs"
store = "{store}"
[pools]
anycast_v4 = ["203.0.113.0/28"]
[private]
block = "{block}"
[dataplane]
flows = 65536
services = 1024
machines = 256
maglev_entries = 262144
pool_addresses = 64
[api]
socket = "/run/region/api.sock"
group = "root"
[metrics]
listen = ""
"""
FLY_TOML = """
app = "web"
[[services]]
protocol = "tcp"
internal_port = 8080
[[services.ports]]
port = 80
[[services]]
protocol = "udp"
internal_port = 5353
[[services.ports]]
port = 53
"""


class Node:
    """The daemon of a host guest. ``config``: the whole of its configuration."""

    def __init__(self, guest: Guest, config: str) -> None:
        self.guest = guest
        self.config = config

    def prepare(self) -> None:
        """Write the configuration."""
        self.guest.run(f"mkdir {FOLDER}")
        self.guest.write(f"{FOLDER}/flyebpf.toml", self.config.encode())

    def start_daemon(self) -> None:
        """Returns when it has applied everything."""
        self._inside("daemon")

    def kill_daemon(self) -> None:
        self.guest.run(f"kill -9 $(cat {FOLDER}/daemon.pid)")

    def settle(self) -> None:
        self._inside("settle")

    def api(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """What the daemon answers. ``method``: get, post or delete."""
        words = ["api", method, path, *([] if body is None else [json.dumps(body)])]
        return json.loads(self._inside(*words).splitlines()[-1])

    def drops(self) -> dict[str, int]:
        """Packets dropped so far, by reason."""
        return {drop["reason"]: drop["packets"] for drop in self.api("get", "/v1/drops")["items"]}

    def _inside(self, *words: str) -> str:
        argv = python("-m", "tests.qemu.inside.region", *words)
        return self.guest.run(argv, timeout=CREATE).output


def tap(name: str, queues: int = 1) -> str:
    several = f",queues={queues}" if queues > 1 else ""
    return f"tap,ifname={name},script=no,downscript=no,vhost=off{several}"


def tiny_vm(
    name: str, machine: dict[str, Any], nic: str, namespace: str, **parameters: str
) -> Machine:
    """The guest that is ``machine``, as the daemon has it, behind the tap ``nic``."""
    return Machine(
        name,
        images.build("tiny-vm", kernels.OLDEST),
        [Nic(machine["mac"], tap(nic))],
        {
            "private": machine["private_ip"],
            "services": machine["services_ip"],
            "gateway": "169.254.0.1",
            **parameters,
        },
        share_root=False,
        memory=192,
        cpus=1,
        namespace=namespace,
    )
