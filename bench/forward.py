# SPDX-License-Identifier: Apache-2.0
"""A private network's packets from VM to VM on one core: by the programs, and
routed by the kernel behind an nftables filter that asks the same (:mod:`bench.forward_world`).

Over real veths, in turn, in the same namespaces; frames are made in the sending
VM as in :mod:`bench.chain`. Paths:

- ``same host``: vm_tc, then vm_out; counted in the receiving VM, by its driver
  (XDP: the host's work ends there) or its kernel (tc).
- ``to the mesh``: vm_tc with the addresses swapped; counted where a device
  without Ethernet headers, as WireGuard's, would take the packet.
- ``host to host``: vm_tc, a plain underlay, mesh_tc, vm_out: two hosts' work.

``devices``: the same path with a program that sends everything on unseen, which
is what the devices and socket buffers cost alone.

Run as root: ``.venv/bin/python -m bench.forward [--json]``.
"""

from __future__ import annotations

import ctypes as ct
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from bench import forward_world as world
from bench import rig
from bench.forward_world import EGRESS, FAR, HERE, INGRESS, MACHINES, MESH, filters, index, mac
from flyebpf.bpf import compiler
from flyebpf.bpf.program import Program, XdpLink
from flyebpf.bpf.source import ProgramSpec
from flyebpf.lab.net import inside

MACHINE_AT = 50  # in the frame: the low half of the destination's machine number
PACKETS = 300_000
ROUNDS = 5

# -- the two ends ------------------------------------------------------------------


class Ends:
    def __init__(self, names: dict[str, str]) -> None:
        self.names = names
        bpf = compiler.import_bcc()
        text = (rig.HERE / "bpf" / "chain.c").read_text()
        self.module: Any = compiler.compile_program(
            bpf, ProgramSpec("chain_source", "xdp"), {}, text
        )
        self.source, self.source_alone, self.sink_tc, self.sink_xdp, *self.hops = (
            compiler.load_program(self.module, ProgramSpec(name, kind))
            for name, kind in (
                ("chain_source", "xdp"),
                ("chain_source_alone", "xdp"),
                ("chain_sink_tc", "tc"),
                ("chain_sink_xdp", "xdp"),
                ("chain_hop", "tc"),
                ("chain_hop_on", "tc"),
            )
        )
        self.ifindex = index(names["a"], "eth0")
        self.softirqs = softirq_thread()

    @contextmanager
    def sink(self, role: str, where: str) -> Iterator[None]:
        """Count what arrives in a VM, in its "driver" or its "kernel"."""
        devices = [f"eth{i}" for i in range(MACHINES)] if role == "b" else ["eth0"]
        if where == "kernel":
            with filters(self.names[role], [(d, INGRESS, self.sink_tc) for d in devices]):
                yield
            return
        with inside(self.names[role]), IPRoute() as ipr:
            indexes = [ipr.link_lookup(ifname=device)[0] for device in devices]
            links = [XdpLink.create(self.sink_xdp, i, "native") for i in indexes]
        yield
        for link in links:
            link.close()

    def run(self, dst: str, machines: int) -> tuple[float, float]:
        """ns per packet that arrived, without those of making it, and the part
        (0 to 1) that arrived."""
        alone = self.timed(self.source_alone, dst, machines)
        before = self.received()
        took = self.timed(self.source, dst, machines)
        arrived = self.received() - before
        return (took - alone) / max(arrived, 1), arrived / PACKETS

    def timed(self, source: Program, dst: str, machines: int) -> int:
        """ns of this CPU that PACKETS frames take: this thread's, in which most
        softirqs run, and those of the kernel's thread for the others."""
        ip = IPv6(src=world.SOURCE, dst=dst, hlim=64)
        made = (
            Ether(src=mac(world.VM_A), dst=mac(world.VIF_A))
            / ip
            / UDP(sport=9, dport=9)
            / (b"x" * 22)
        )
        frame = bytes(made)
        leaf = self.module["traffics"].Leaf(
            clients=machines, ifindex=self.ifindex, varied=MACHINE_AT
        )
        ct.memmove(ct.addressof(leaf), frame, rig.TEMPLATE)
        self.module["traffics"][ct.c_int(0)] = leaf
        with inside(self.names["a"]):
            begun = time.thread_time_ns() + run_time(self.softirqs)
            source.test_run_live(frame, PACKETS)
            ended = time.thread_time_ns()
            self.settle()
            return ended + run_time(self.softirqs) - begun

    def settle(self) -> None:
        """Until what is still in queues has arrived."""
        seen = -1
        while seen != (seen := self.received()):
            time.sleep(0.01)

    def received(self) -> int:
        return int(self.module["received"][ct.c_int(0)].value)


def softirq_thread() -> Path:
    """The kernel's thread for softirqs of CPU 0."""
    for comm in Path("/proc").glob("[0-9]*/comm"):
        if comm.read_text().strip() == "ksoftirqd/0":
            return comm.parent
    raise SystemExit("ksoftirqd/0 is not in /proc: run this in the host's PID namespace")


def run_time(thread: Path) -> int:
    """ns that a thread has run."""
    return int((thread / "schedstat").read_text().split()[0])


# -- paths -------------------------------------------------------------------------


class Bench:
    def __init__(self, names: dict[str, str], here: Any, there: Any) -> None:
        self.names = names
        self.ends = Ends(names)
        self.here, self.there = here, there
        host, other = names["host"], names["other"]
        machines = [(world.SENDER, index(host, "vma"), mac(world.VM_A), mac(world.VIF_A))]
        for i in range(MACHINES):
            machines.append(
                (world.FIRST + i, index(host, f"vmb{i}"), mac(world.VM_B, i), mac(world.VIF_B, i))
            )
        world.fill(here.maps, world.HOST, machines)
        world.fill(
            there.maps,
            world.OTHER,
            [(world.FIRST, index(other, "vmc"), mac(world.VM_C), mac(world.VIF_C))],
        )
        self.plain = bytes.fromhex("fe80".ljust(31, "0") + "2")
        world.mesh_by(there.maps, world.HOST, index(other, "under"), self.plain)

    @contextmanager
    def programs(self, way: str) -> Iterator[None]:
        """``way``: the device to other hosts."""
        host, other = self.names["host"], self.names["other"]
        next_hop = self.plain if way == "under" else bytes(16)
        world.mesh_by(self.here.maps, world.OTHER, index(host, way), next_hop)
        one, two = self.here.programs, self.there.programs
        sending = [("vma", INGRESS, one["vm_tc"]), ("vma", EGRESS, one["vm_out"])]
        sending += [(f"vmb{i}", EGRESS, one["vm_out"]) for i in range(MACHINES)]
        receiving = [("under", INGRESS, two["mesh_tc"]), ("vmc", EGRESS, two["vm_out"])]
        with filters(host, sending), filters(other, receiving):
            yield

    @contextmanager
    def bare(self, way: str) -> Iterator[None]:
        """Nobody asks anything. ``way``: the device that vma's packets go to."""
        host, other = self.names["host"], self.names["other"]
        hops = self.ends.module["hops"]
        for number, (name, to) in enumerate(((host, way), (other, "vmc"))):
            hops[ct.c_int(number)] = ct.c_uint32(index(name, to))
        one, two = self.ends.hops
        with filters(host, [("vma", INGRESS, one)]), filters(other, [("under", INGRESS, two)]):
            yield

    def row(self, name: str, dst: str, machines: int, way: str) -> list[Any]:
        """All in turn, so that a drift of the machine hits all. ``way``: the
        device that packets leave the sender's host by."""
        kernel = f"dev {MESH}" if way == MESH else "via fe80::2 dev under"
        mesh = way if way in (MESH, "under") else "under"
        bare, ours, theirs = [], [], []
        for _ in range(ROUNDS):
            with self.bare(way):
                bare.append(self.ends.run(dst, machines))
            with self.programs(mesh):
                ours.append(self.ends.run(dst, machines))
            with world.routed(self.names, kernel):
                theirs.append(self.ends.run(dst, machines))
        floor, one, other = (statistics.median(r[0] for r in rs) for rs in (bare, ours, theirs))
        lost = [min(r[1] for r in results) for results in (ours, theirs)]
        rates = [1e3 / one, 1e3 / other]
        spread: object = "-" if machines > 1 else floor  # its packets go to one VM
        return [name, machines, spread, one, lost[0], other, lost[1], *rates, other / one]

    def rows(self) -> Iterator[list[Any]]:
        for where in ("driver", "kernel"):
            with self.ends.sink("b", where):
                for machines in (1, MACHINES):
                    yield self.row(f"same host, {where}", HERE[0], machines, "vmb0")
        with filters(self.names["host"], [(MESH, EGRESS, self.ends.sink_tc)]):
            yield self.row("to the mesh", FAR, 1, MESH)
        for where in ("driver", "kernel"):
            with self.ends.sink("c", where):
                yield self.row(f"host to host, {where}", FAR, 1, "under")


def main() -> None:
    rig.require_root()
    os.sched_setaffinity(0, {0})
    with ExitStack() as stack:
        names = stack.enter_context(world.namespaces())
        stack.enter_context(world.mesh_device(names["host"]))
        world.routes(names)
        here = stack.enter_context(rig.programs(world.FLOWS))
        there = stack.enter_context(rig.programs(world.FLOWS))
        rows = list(Bench(names, here, there).rows())
    rig.report(
        "6PN from VM to VM on one core, ns per packet (median of rounds), millions a second",
        (
            "path, counted by",
            "machines",
            "devices",
            "programs",
            "arrived",
            "kernel",
            "its arrived",
            "M/s",
            "its M/s",
            "times",
        ),
        rows,
    )


if __name__ == "__main__":
    main()
