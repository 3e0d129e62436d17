# SPDX-License-Identifier: Apache-2.0
"""What an answer of the program at a VM's interface costs, beside one of Knot DNS.

Both are asked by the same generator over the same veth, in turn: queries made in
the kernel of a VM (BPF_PROG_TEST_RUN with live frames), for one name or for 65,536
in scattered order; counted is what comes back with records, in the VM's driver.
Costs are CPU time, all of it but that of making the queries.

*program*: vm_tc and dns, everything on one core. *devices*: the same with a program
that sends queries back unseen. *Knot*: one worker, which has the other core, with
more queries than it can answer, where it is at its best; its own time, and for
each answer what the kernel does to receive a query on the generator's core. That
is too little, because most queries end there at a full queue: in Knot's favour.

Run as root: ``.venv/bin/python -m bench.knot [--json]``. It installs Debian's
package ``knot``, and starts no service.
"""

from __future__ import annotations

import ctypes as ct
import os
import socket
import statistics
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from bench import forward_world as world
from bench import rig
from bench.chain import inside, sh
from bench.dnsanswer import FRAME, NAMES, fill, letters
from bench.forward import run_time, softirq_thread
from flyebpf.bpf import compiler
from flyebpf.bpf.program import Program, XdpLink
from flyebpf.bpf.source import EXTRA_CFLAGS, ProgramSpec
from flyebpf.model.sixpn import NAMESERVER
from tests.bpf.dnsworld import opt, query

QUERIES = 400_000
ROUNDS = 5
SECONDS = 2.0
CASES = ((1, 1, False), (NAMES, 1, False), (NAMES, 8, True))  # names, addresses, EDNS
CHECKSUM, ID, LETTERS = 60, 62, 76
MACS = (world.mac(world.VM_A), world.mac(world.VIF_A))
STRIDE = 40503
CONFIG = """
server:
    rundir: {folder}
    listen: {server}@53
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
log:
  - target: stderr
    any: error
database:
    storage: {folder}
zone:
  - domain: internal.
    storage: {folder}
    file: internal.zone
    zonefile-sync: -1
    journal-content: none
"""


@contextmanager
def namespaces() -> Iterator[dict[str, str]]:
    """A VM and its host."""
    names = {role: f"bench-{role}-{os.getpid()}" for role in ("host", "vm")}
    host, vm = names.values()
    try:
        for name in names.values():
            sh(f"ip netns add {name} && ip -n {name} link set lo up")
            sh(f"ip netns exec {name} sysctl -qw net.ipv6.conf.all.disable_ipv6=0")
        world.pair(host, "vm0", (MACS[1], MACS[0]), vm, "eth0")
        sh(f"ip -n {host} addr add {NAMESERVER}/128 dev lo")
        sh(f"ip -n {host} route add {world.SOURCE}/128 dev vm0")
        sh(f"ip -n {host} neigh add {world.SOURCE} lladdr {MACS[0]} dev vm0")
        yield names
    finally:
        for name in names.values():
            subprocess.run(["ip", "netns", "del", name], check=False)


def asked(edns: bool) -> bytes:
    ip = IPv6(src=world.SOURCE, dst=NAMESERVER, hlim=64)
    message = query(f"n{letters(0)}.internal", edns=opt() if edns else None)
    return bytes(Ether(src=MACS[0], dst=MACS[1]) / ip / UDP(sport=40000, dport=53) / message)


def constant_sum(frame: bytes) -> int:
    """What the UDP checksum of all queries has in common (RFC 8200, 8.1), in the
    order of memory."""
    data = bytearray(frame[54:])
    for at, size in ((CHECKSUM, 2), (ID, 2), (LETTERS, 4)):
        data[at - 54 : at - 54 + size] = bytes(size)
    pseudo = frame[22:54] + struct.pack("!II", len(data), socket.IPPROTO_UDP)
    whole = pseudo + bytes(data) + bytes(len(data) % 2)
    total = sum(word for (word,) in struct.iter_unpack("=H", whole))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


class Flood:
    """The generator, and the count of answers."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names
        bpf = compiler.import_bcc()
        text = (rig.HERE / "bpf" / "dns_flood.c").read_text()
        source = ProgramSpec("flood", "xdp")
        self.module: Any = compiler.compile_program(bpf, source, {}, text)
        self.flood, self.alone, self.answered, self.bounce = (
            compiler.load_program(self.module, ProgramSpec(name, kind))
            for name, kind in (
                ("flood", "xdp"),
                ("flood_alone", "xdp"),
                ("answered", "xdp"),
                ("bounce", "tc"),
            )
        )
        self.softirqs = softirq_thread()
        self.frame = b""

    @contextmanager
    def counting(self) -> Iterator[None]:
        with inside(self.names["vm"]):
            link = XdpLink.create(self.answered, world.index(self.names["vm"], "eth0"), "native")
        yield
        link.close()

    def load(self, frame: bytes, names: int) -> None:
        """What is asked from now on."""
        self.frame = frame.ljust(FRAME, b"\0")
        leaf = self.module["floods"].Leaf(sum=constant_sum(frame), names=names, stride=STRIDE)
        leaf.ifindex = world.index(self.names["vm"], "eth0")
        ct.memmove(ct.addressof(leaf), self.frame, FRAME)
        self.module["floods"][ct.c_int(0)] = leaf

    def answers(self) -> int:
        return int(self.module["answers"][ct.c_int(0)].value)

    def took(self, source: Program) -> float:
        """ns of this core's CPU time for a query."""
        begun = time.thread_time_ns() + run_time(self.softirqs)
        with inside(self.names["vm"]):
            source.test_run_live(self.frame, QUERIES)
        ended = time.thread_time_ns()
        settled = -1
        while settled != (settled := self.answers()):
            time.sleep(0.01)
        return (ended + run_time(self.softirqs) - begun) / QUERIES

    def costs(self) -> float:
        """The same without that of making it."""
        return self.took(self.flood) - self.took(self.alone)


@contextmanager
def filters(namespace: str, programs: Sequence[Program]) -> Iterator[None]:
    """At the VM's interface, one after the other."""
    with inside(namespace), IPRoute() as ipr:
        (index,) = ipr.link_lookup(ifname="vm0")
        ipr.tc("add", "clsact", index)
        for place, program in enumerate(programs, 1):
            ipr.tc("add-filter", "bpf", index, ":1", fd=program.fd, name=program.name,
                   parent=world.INGRESS, prio=place, classid=1, direct_action=True)  # fmt: skip
    yield
    with inside(namespace), IPRoute() as ipr:
        ipr.tc("del", "clsact", index)


def by_program(flood: Flood, programs: dict[str, Program]) -> tuple[float, float]:
    """ns for an answer, and of them those of the devices."""
    host = flood.names["host"]
    whole, devices = [], []
    for _ in range(ROUNDS):
        with filters(host, [flood.bounce]):
            devices.append(flood.costs())
        before = flood.answers()
        with filters(host, [programs["vm_tc"], programs["dns"]]):
            whole.append(flood.costs())
        share = (flood.answers() - before) / QUERIES
        if share < 0.999:
            raise RuntimeError(f"the program answered {share:.1%}")
    return statistics.median(whole), statistics.median(devices)


# -- Knot ------------------------------------------------------------------------------


@dataclass
class Knot:
    process: subprocess.Popen[bytes]

    def cpu(self) -> int:
        """ns that its threads have run."""
        return sum(run_time(task) for task in Path(f"/proc/{self.process.pid}/task").iterdir())


@contextmanager
def knot(namespace: str, folder: Path, cpu: int, addresses: int) -> Iterator[Knot]:
    """On one core, with the names that the program has."""
    (folder / "internal.zone").write_text(zone(addresses))
    config = folder / "knot.conf"
    config.write_text(CONFIG.format(folder=folder, server=NAMESERVER))
    command = ["ip", "netns", "exec", namespace, "taskset", "-c", str(cpu), "knotd", "-c", config]
    process = subprocess.Popen(command)
    try:
        wait_for_answer(namespace, process)
        yield Knot(process)
    finally:
        process.terminate()
        process.wait(20)


def zone(addresses: int) -> str:
    lines = ["$TTL 5", "@ SOA _api hostmaster 1 3600 600 86400 1", "@ NS _api", "_api AAAA fdaa::3"]
    for number in range(NAMES):
        lines += [f"n{letters(number)} AAAA ::{last:x}" for last in range(1, addresses + 1)]
    return "\n".join(lines) + "\n"


def wait_for_answer(namespace: str, process: subprocess.Popen[bytes]) -> None:
    """Until it knows the last of the names."""
    with inside(namespace):
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with sock:
        sock.settimeout(0.2)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and process.poll() is None:
            sock.sendto(query(f"n{letters(NAMES - 1)}.internal"), (NAMESERVER, 53))
            try:
                answer = sock.recv(4096)
            except OSError:
                time.sleep(0.1)
                continue
            if answer[6:8] != b"\0\0":
                return
    raise RuntimeError("Knot does not answer")


def by_knot(flood: Flood, server: Knot) -> tuple[float, float]:
    """ns of its CPU time for an answer, and of the generator's core to receive a
    query for it."""
    received, sent = [], 0
    before, used, begun = flood.answers(), server.cpu(), time.monotonic()
    while time.monotonic() < begun + SECONDS:
        received.append(flood.costs())
        sent += QUERIES
    answers = flood.answers() - before
    if answers > sent / 2:
        raise RuntimeError("Knot was not asked for more than it can answer")
    return (server.cpu() - used) / answers, statistics.median(received)


def row(
    flood: Flood, generation: Any, folder: Path, case: tuple[int, int, bool]
) -> tuple[object, ...]:
    names, addresses, edns = case
    flood.load(asked(edns), names)
    fill(generation.maps, addresses)
    whole, devices = by_program(flood, generation.programs)
    with knot(flood.names["host"], folder, 1, addresses) as server:
        own, received = by_knot(flood, server)
    theirs = own + received
    what = f"{names:,} names, addresses: {addresses}{', EDNS' if edns else ''}"
    rates = (1e9 / whole, 1e9 / theirs)
    beyond = (theirs - devices) / (whole - devices)
    return (what, devices, whole, own, theirs, *rates, theirs / whole, beyond)


def main() -> None:
    rig.require_root()
    rig.install("knot")
    os.sched_setaffinity(0, {0})
    os.environ[EXTRA_CFLAGS] = "-DDNS_PER_PERIOD=0x7fffffff"
    with ExitStack() as stack:
        names = stack.enter_context(namespaces())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flyebpf-bench-")))
        generation = stack.enter_context(rig.programs(world.FLOWS))
        machine = (world.SENDER, world.index(names["host"], "vm0"), *MACS)
        world.fill(generation.maps, world.HOST, [machine])
        flood = Flood(names)
        stack.enter_context(flood.counting())
        rows = [row(flood, generation, folder, case) for case in CASES]
    columns = (
        "asked for", "devices", "program", "Knot itself", "Knot",
        "a core's answers/s", "its answers/s", "times", "beyond the devices",
    )  # fmt: skip
    rig.report("an answer, ns", columns, rows)


if __name__ == "__main__":
    main()
