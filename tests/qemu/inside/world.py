# SPDX-License-Identifier: Apache-2.0
"""Runs in a host guest: the world of the packet tests over real NICs.

``python -m tests.qemu.inside.world MODE`` attaches the programs and fills the
maps as tests/bpf/world.py has them, with XDP in ``native`` or ``generic`` mode:

========  ====================================================================
``up0``   an uplink: the guest's first NIC
``vm1``   machine 1: a tap with a VM at its other end (relay.py)
``vm3``   machine 3: the guest's third NIC, delivered to by way of tc
others    dummies
========  ====================================================================

It answers every line that comes in over the FIFO ``/run/world.ask`` with one
over ``/run/world.say``: the counters, as JSON.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

from flyebpf.bpf import loader
from flyebpf.bpf.loader import Generation
from flyebpf.bpf.program import XdpLink
from flyebpf.config import DaemonConfig
from flyebpf.model.reasons import DropReason
from tests.bpf import namespace, world
from tests.bpf.conftest import SIZES
from tests.bpf.rig import Rig
from tests.bpf.test_live import attach_tc
from tests.packets import gateway_mac

ASK, SAY = Path("/run/world.ask"), Path("/run/world.say")
DUMMIES = ("up1", "lan0", "vm2", "vm4")
BPFFS = "/run/world.bpffs"


class Devices:
    """What a :class:`Rig` wants of a namespace."""

    def __init__(self) -> None:
        self.ifindex = {
            name: socket.if_nametoindex(name)
            for name in ("up0", "up1", "lan0", "vm1", "vm2", "vm3", "vm4")
        }


def main() -> None:
    mode = sys.argv[1]
    if not Path("/sys/class/net/up0").exists():
        make_devices()
    generation = loader.ensure(DaemonConfig("guest", "ams", ("up0",), bpffs=BPFFS, dataplane=SIZES))
    rig = Rig(generation, cast(Any, Devices()))
    rig.reset()
    world.build(rig)
    links = attach(rig, generation, mode)
    for fifo in (ASK, SAY):
        fifo.unlink(missing_ok=True)
        os.mkfifo(fifo)
    print("ready", flush=True)
    while (line := ASK.read_text()).strip() != "end":
        if line.strip() == "reset":
            rig.reset()
            world.build(rig)
        SAY.write_text(json.dumps({"drops": drops(rig), "flows": len(rig.flows())}) + "\n")
    for link in links:
        link.close()
    for name in ("up0", "vm1", "vm2", "vm3", "vm4"):
        subprocess.run(["tc", "qdisc", "del", "dev", name, "clsact"], check=True)
    generation.close()
    SAY.write_text("ended\n")


def make_devices() -> None:
    """The NICs and dummies by the names and with the routes of the packet tests."""
    namespace.quiet(forward=True)
    for name in ("all", "eth0", "eth1", "eth2", "vm1"):
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
    for old, new in (("eth0", "up0"), ("eth2", "vm3")):
        namespace.ip("link", "set", old, "down")
        namespace.ip("link", "set", old, "name", new)
    for name in DUMMIES:
        namespace.ip("link", "add", name, "type", "dummy")
    for name in (*DUMMIES, "up0", "vm1", "vm3"):
        namespace.ip("link", "set", name, "up")
    for line in namespace.SETUP.strip().splitlines():
        namespace.ip(*line.split())
    namespace.ip("link", "set", "vm3", "address", gateway_mac(3))


def attach(rig: Rig, generation: Generation, mode: str) -> list[XdpLink]:
    """Programs as tests/bpf/test_live.py attaches them."""
    attach_tc(rig, "edge_tc", "up0")
    for number in (1, 2, 3, 4):
        attach_tc(rig, "vm_tc", f"vm{number}")
    return [XdpLink.create(generation.programs["edge_xdp"], rig.ifindex["up0"], mode)]


def drops(rig: Rig) -> dict[str, int]:
    return {reason.name: rig.drops(reason) for reason in DropReason if rig.drops(reason)}


if __name__ == "__main__":
    main()
