# SPDX-License-Identifier: Apache-2.0
"""The world of the packet tests between real NICs::

    wires.uplink ── up0 ─┐ host guest ├─ vm1 (tap) ─ relay ─ eth1 ── wires.vm ── tiny VM
                         │  programs  ├─ vm3 ───────────────────── wires.slow

The test is the router and its clients, and the cable between host and VM; the
VM has a real TCP stack.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import packets as p
from tests.qemu import images, kernels
from tests.qemu.harness import Guest
from tests.qemu.machine import NATIVE, Machine, Nic
from tests.qemu.wires import Wire

TREE = Path(__file__).resolve().parents[2]
START = 1200.0  # seconds; 120 are usual under TCG: the programs are compiled


def python(*arguments: str) -> list[str]:
    """The interpreter of this test, in a guest, in the tree."""
    tree = ["env", "-C", str(TREE), "PYTHONDONTWRITEBYTECODE=1"]
    return [*tree, sys.executable, "-u", "-W", "ignore", *arguments]


@dataclass
class World:
    """Both guests and the cables. ``mode``: of XDP."""

    host: Guest
    vm: Guest
    uplink: Wire
    cable: Wire
    vm_end: Wire
    slow: Wire
    mode: str = ""

    def start(self, mode: str) -> None:
        """Programs and maps anew, XDP in ``mode``."""
        self.background("world", python("-m", "tests.qemu.inside.world", mode))
        self.mode = mode

    def end(self) -> None:
        self.ask("end")

    def background(self, name: str, argv: list[str]) -> None:
        """Start a program of ``inside`` in the host guest; it says when it is ready."""
        words = " ".join(argv)
        log = f"/run/{name}.log"
        self.host.run(
            f"{words} >{log} 2>&1 & pid=$!\n"
            f"until grep -q ready {log}; do\n"
            f"    kill -0 $pid || {{ cat {log}; exit 1; }}\n"
            "    sleep 0.1\n"
            "done",
            timeout=START,
        )

    def ask(self, what: str = "counters") -> str:
        return self.host.run(
            f"echo {what} >/run/world.ask; cat /run/world.say", show=lambda _: None
        ).output

    def drops(self) -> dict[str, int]:
        """Packets dropped so far, by the reason's name."""
        answer: dict[str, int] = json.loads(self.ask())["drops"]
        return answer

    def reset(self) -> None:
        """The maps as they were at the start: no flows, counters at zero."""
        self.ask("reset")


@contextmanager
def booted(folder: Path, accel: str) -> Iterator[World]:
    """Both guests, the relay running; no programs yet."""
    names = ("uplink", "cable", "vm", "slow")
    uplink, cable, vm_end, slow = wires = [Wire(folder, name) for name in names]
    cable.forward_to(vm_end)
    vm_end.forward_to(cable)
    nics = [
        Nic(p.HOST_MAC, uplink.backend, NATIVE),
        Nic("02:ee:00:00:00:01", cable.backend),
        Nic("02:ee:00:00:00:03", slow.backend),
    ]
    kernel = kernels.OLDEST
    host = Machine("world", images.build("host-guest", kernel), nics)
    vm = Machine(
        "vm",
        images.build("tiny-vm", kernel),
        [Nic(p.vm_mac(1), vm_end.backend)],
        {
            "private": p.private_ip(1),
            "services": p.services_ip(1),
            "gateway": "169.254.0.1",
        },
        share_root=False,
        memory=192,
        cpus=1,
    )
    try:
        with Guest(host, accel) as host_guest, Guest(vm, accel) as vm_guest:
            world = World(host_guest, vm_guest, uplink, cable, vm_end, slow)
            relay = ["-m", "tests.qemu.inside.relay", "eth1", "vm1", p.gateway_mac(1)]
            world.background("relay", python(*relay))
            yield world
    finally:
        for wire in wires:
            wire.close()
