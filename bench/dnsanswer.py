# SPDX-License-Identifier: Apache-2.0
"""ns per DNS query that the program at a machine's interface answers, and what the
names of its map cost.

``sudo python -m bench.dnsanswer [--json]``. A wrapper restores the query before each
run; what that costs around an empty program is taken off. The limit of each interface
is compiled out of the way.
"""

from __future__ import annotations

import ctypes as ct
import os
import statistics
import struct
import time
from socket import AF_INET6, inet_pton
from typing import Any

from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from bench import rig
from bench.dataplane import put
from bench.sixpn import HOST, LO, MAC, MACHINE, NETWORK, behind, slot_of, u32
from flyebpf.bpf import compiler, layout
from flyebpf.bpf.libbpf import Map
from flyebpf.bpf.program import Program
from flyebpf.bpf.source import EXTRA_CFLAGS, ProgramSpec
from flyebpf.drivers.map_names import NamePart
from flyebpf.model.namehash import name_hash
from flyebpf.model.reasons import Count
from flyebpf.model.rows import NameRow
from flyebpf.model.sixpn import NAMESERVER, machine_address
from tests.bpf.dnsworld import opt, query

FRAME = 112
NAMES = 65_536
NETWORKS = 1_000
ALL_NAMES = 100_000
CHANGES = 200
REPEAT = 400_000


class Plan(ct.Structure):
    """``struct plan`` of bpf/dns_wrapper.c."""

    _fields_ = (
        ("frame", ct.c_uint8 * FRAME),
        ("length", ct.c_uint32),
        ("names", ct.c_uint32),
        ("next", ct.c_uint32),
        ("stride", ct.c_uint32),
    )


class Wrapper:
    def __init__(self, nothing: Program) -> None:
        bpf = compiler.import_bcc()
        text = (rig.HERE / "bpf" / "dns_wrapper.c").read_text()
        spec = ProgramSpec("wrap_dns", "tc")
        self._nothing = nothing
        self._module = compiler.compile_program(bpf, spec, {}, text)
        self._program = compiler.load_program(self._module, spec)

    def measure(self, program: Program, frame: bytes, names: int) -> float:
        """Median ns of CPU time for each query."""
        padded = frame.ljust(FRAME, b"\0")
        plan = Plan(length=max(len(frame), FRAME), names=names, stride=40503 if names > 1 else 0)
        ct.memmove(plan.frame, padded, FRAME)
        plans = self._module["plans"]
        plans[ct.c_int(0)] = plans.Leaf.from_buffer_copy(bytes(plan))
        self._time(program, padded, 4 * names)
        return statistics.median(
            self._time(program, padded, REPEAT) - self._time(self._nothing, padded, REPEAT)
            for _ in range(rig.RUNS)
        )

    def _time(self, program: Program, frame: bytes, repeat: int) -> float:
        self._module["measured"][ct.c_int(0)] = ct.c_int(program.fd)
        begun = time.thread_time_ns()
        self._program.test_run(frame, repeat=repeat)
        return (time.thread_time_ns() - begun) / repeat


def letters(number: int) -> str:
    return "".join(chr(ord("a") + (number >> 4 * i & 15)) for i in range(4))


def asked(edns: bytes | None = None) -> bytes:
    """A query for ``n<letters>.internal``, whose letters are at byte 76."""
    source = machine_address(NETWORK, HOST, MACHINE)
    ip = IPv6(src=source, dst=NAMESERVER, hlim=64)
    frame = Ether(src=MAC, dst=MAC) / ip / UDP(sport=40000, dport=53)
    return bytes(frame / query(f"n{letters(0)}.internal", edns=edns))


def row(network: int, name: str, count: int) -> NameRow:
    labels = name.split(".")
    wired = b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"
    hosts = (machine_address(network, HOST, number) for number in range(1, count + 1))
    addresses = tuple(inet_pton(AF_INET6, address) for address in hosts)
    return NameRow(network, name_hash(wired), wired, addresses)


def fill(maps: dict[str, Map], count: int) -> None:
    """The names that queries are for, with so many addresses each."""
    rows = [row(NETWORK, f"n{letters(n)}.internal", count) for n in range(NAMES)]
    assert NamePart(maps["names"]).apply(rows, []) == []


def kernel(maps: dict[str, Map], programs: dict[str, Program], floor: tuple[Program, Any]) -> None:
    settings = layout.Settings(host=HOST, vm_buckets=maps["vm_slots"].shape.max_entries)
    put(maps["settings"], 0, settings)
    maps["slots"].update(u32(0), slot_of(MACHINE))
    behind(maps, 0)
    table = floor[1]["floor_machines"]
    table[table.Key(0, 0)] = table.Leaf(ifindex=LO)
    wrapper = Wrapper(programs["floor_nothing_tc"])
    least = wrapper.measure(floor[0], asked(), 1)
    before = answered(maps)
    rows: list[tuple[str, float, float]] = [("parse, one hash lookup", least, 1.0)]
    for count in (1, 8):
        fill(maps, count)
        for what, edns in (("", None), (", EDNS", opt())):
            for names in (1, NAMES):
                took = wrapper.measure(programs["dns"], asked(edns), names)
                rows.append((f"{count} addresses of {names:,} names{what}", took, took / least))
    if answered(maps) - before < (len(rows) - 1) * rig.RUNS * REPEAT:
        raise RuntimeError("not every query was answered")
    shown = [(name, round(took, 1), round(times, 2)) for name, took, times in rows]
    rig.report("DNS answers of the program, ns per query", ("case", "ns", "of the floor"), shown)


def answered(maps: dict[str, Map]) -> int:
    """Queries that the program has answered so far."""
    raw = maps["counts"].lookup(u32(Count.DNS_ANSWER)) or b""
    return sum(value for (value,) in struct.iter_unpack("=Q", raw))


def cost(names: Map) -> None:
    """Of many names: their memory as the kernel counts it, writing all, one change."""
    begun = time.perf_counter()
    made = [row(n % NETWORKS + 1, f"app{n}.internal", 2) for n in range(ALL_NAMES)]
    hashed = time.perf_counter()
    part = NamePart(names)
    before = memory(names)
    alone = one_change(part)
    started = time.perf_counter()
    assert part.apply(made, []) == []
    written = time.perf_counter()
    rig.report(
        f"{ALL_NAMES:,} names of {NETWORKS:,} networks",
        ("what", "value"),
        [
            ("rows made and hashed, s", hashed - begun),
            ("written, s", written - started),
            ("memory of the map, MB", (memory(names) - before) / 1e6),
            ("one change among them, µs", one_change(part)),
            ("one change among none, µs", alone),
        ],
    )


def one_change(part: NamePart) -> float:
    """Median µs."""
    times = []
    for number in range(CHANGES):
        again = row(number % NETWORKS + 1, f"app{number}.internal", 3)
        start = time.perf_counter()
        part.apply([again], [])
        times.append(time.perf_counter() - start)
    return 1e6 * statistics.median(times)


def memory(opened: Map) -> int:
    """Bytes that the kernel says the map takes (fdinfo)."""
    with open(f"/proc/self/fdinfo/{opened.fd}", encoding="ascii") as lines:
        found = dict(line.split(":", 1) for line in lines)
    return int(found["memlock"])


def main() -> None:
    rig.require_root()
    os.environ[EXTRA_CFLAGS] = "-DDNS_PER_PERIOD=0x7fffffff"
    with rig.programs(1024) as generation:
        floors = rig.floors()
        programs = {**generation.programs, "floor_nothing_tc": floors["floor_nothing_tc"][0]}
        kernel(generation.maps, programs, floors["floor_sixpn_tc"])
        part = NamePart(generation.maps["names"])
        part.apply([], list(part.read()))
        cost(generation.maps["names"])


if __name__ == "__main__":
    main()
