# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks of BPF programs share: a private bpffs with the real
programs, the wrapper that restores packets, and a table printer."""

from __future__ import annotations

import contextlib
import ctypes as ct
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flyebpf.bpf import compiler, layout, loader
from flyebpf.bpf.maps import map_specs
from flyebpf.bpf.program import Program
from flyebpf.bpf.source import ProgramSpec
from flyebpf.config import DaemonConfig, DataplaneConfig

HERE = Path(__file__).parent
TEMPLATE = 64
RUNS = 5
SECONDS = 0.5  # a run's length


class Plan(ct.Structure):
    """``struct plan`` of bpf/wrapper.c."""

    _fields_ = (
        ("template", ct.c_uint8 * TEMPLATE),
        ("clients", ct.c_uint32),
        ("next", ct.c_uint32),
        ("stride", ct.c_uint32),
        ("machine", ct.c_uint32),
    )


@contextlib.contextmanager
def programs(flows: int) -> Iterator[loader.Generation]:
    """The real programs and maps on a bpffs that goes away afterwards."""
    with tempfile.TemporaryDirectory(prefix="flyebpf-bench-") as folder:
        path = f"{folder}/bpffs"
        config = DaemonConfig(
            host="bench",
            region="bench",
            uplinks=("lo",),
            bpffs=path,
            dataplane=DataplaneConfig(flows=flows),
        )
        generation = loader.ensure(config)
        try:
            yield generation
        finally:
            generation.close()
            subprocess.run(["umount", path], check=True)


@dataclass
class Wrapper:
    """Runs programs through bench/bpf/wrapper.c."""

    kind: str  # "xdp" or "tc"
    nothing: Program
    module: Any = field(init=False)
    program: Program = field(init=False)

    def __post_init__(self) -> None:
        bpf = compiler.import_bcc()
        text = (HERE / "bpf" / "wrapper.c").read_text()
        spec = ProgramSpec(f"wrap_{self.kind}", self.kind)
        self.module = compiler.compile_program(bpf, spec, {}, text)
        self.program = compiler.load_program(self.module, spec)

    def measure(
        self,
        program: Program,
        frame: bytes,
        *,
        clients: int = 1,
        stride: int = 40503,
        warm: int = 0,
        machine: int = 0,
    ) -> float:
        """Median ns per packet over several runs, without what the wrapper costs
        around an empty program: that is timed in turn with every run.

        ``clients`` distinct (address, port) pairs, a power of two, or, of IPv6 in
        tc, 6PN machines from number ``machine`` on. ``warm`` packets go first,
        unmeasured.
        """
        plans = self.module["plans"]
        plan = Plan(clients=clients, stride=stride if clients > 1 else 0, machine=machine)
        padded = frame.ljust(TEMPLATE, b"\0")
        ct.memmove(plan.template, padded, TEMPLATE)
        plans[ct.c_int(0)] = plans.Leaf.from_buffer_copy(bytes(plan))
        if warm:
            self._time(program, padded, warm)
        rough = self._time(program, padded, 50_000)
        repeat = max(int(SECONDS * 1e9 / max(rough, 1.0)), 50_000)
        return statistics.median(
            self._time(program, padded, repeat) - self._time(self.nothing, padded, repeat)
            for _ in range(RUNS)
        )

    def _time(self, program: Program, frame: bytes, repeat: int) -> float:
        """ns per packet of this thread's CPU time: the kernel's own figure is a whole
        number, and counts what others do on this CPU meanwhile.

        Starting a test run takes some milliseconds (the kernel waits for RCU),
        so a run must be much longer than that.
        """
        self.module["measured"][ct.c_int(0)] = ct.c_int(program.fd)
        begun = time.thread_time_ns()
        self.program.test_run(frame, repeat=repeat)
        return (time.thread_time_ns() - begun) / repeat


def floors() -> dict[str, tuple[Program, Any]]:
    """The programs of bench/bpf/floor.c and the module that owns their map."""
    bpf = compiler.import_bcc()
    text = (HERE / "bpf" / "floor.c").read_text()
    names = (
        "floor_nothing",
        "floor_nothing_tc",
        "floor_sixpn_tc",
        "floor_deliver_tc",
        "floor_parse",
        "floor_lookup",
        "floor_rewrite",
    )
    module = compiler.compile_program(bpf, ProgramSpec("floor", "xdp"), _dummy_fds(), text)
    return {name: (compiler.load_program(module, spec_of(name)), module) for name in names}


def spec_of(name: str) -> ProgramSpec:
    return ProgramSpec(name, "tc" if name.endswith("_tc") else "xdp")


def _dummy_fds() -> dict[str, int]:
    """floor.c includes headers that name the real maps but uses none."""
    return {spec.name: 0 for spec in map_specs(DataplaneConfig())}


def report(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on standard output; with --json, one JSON object instead."""
    if "--json" in sys.argv:
        print(
            json.dumps({"title": title, "rows": [dict(zip(columns, r, strict=True)) for r in rows]})
        )
        return
    cells = [[str(c) for c in columns], *([cell(v) for v in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    print(f"\n{title}\n")
    for row in cells:
        print(
            "  ".join(
                v.ljust(w) if i == 0 else v.rjust(w)
                for i, (v, w) in enumerate(zip(row, widths, strict=True))
            )
        )


def cell(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def addr(ip: str) -> Any:
    """An IPv4 address as the maps hold it."""
    parts = [int(part) for part in ip.split(".")]
    return layout.Addr(*([0] * 10), 0xFF, 0xFF, *parts)


def install(package: str) -> None:
    """Debian's package of a peer, by the project's own installer, which starts no
    service."""
    script = 'set -euo pipefail; . scripts/lib.sh; packages=("$1"); install_packages >&2'
    subprocess.run(["bash", "-c", script, "install", package], cwd=HERE.parent, check=True)


def require_root() -> None:
    if os.geteuid() != 0:
        sys.exit("benchmarks of BPF programs need root: run with sudo")
