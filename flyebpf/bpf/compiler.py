# SPDX-License-Identifier: Apache-2.0
"""Compiles and loads the programs with bcc. The only importer of bcc.

Runs as a process of its own (``python -m flyebpf.bpf.compiler``), so that LLVM
is never in the daemon: it gets a job as JSON on standard input, pins each
program into the job's folder, and prints JSON about them. Errors are plain
text on standard error, exit code 1.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flyebpf.bpf import asserts
from flyebpf.bpf.libbpf import Map
from flyebpf.bpf.program import Program
from flyebpf.bpf.source import PROGRAMS, ProgramSpec, cflags, source_dir
from flyebpf.errors import FlyebpfError, KernelError, UnavailableError

KERNEL_SOURCE = "BCC_KERNEL_SOURCE"


def import_bcc() -> Any:
    """bcc, told to use our stand-in for a kernel source tree."""
    os.environ[KERNEL_SOURCE] = str(source_dir() / "kernel")
    try:
        import bcc  # noqa: PLC0415 - LLVM is loaded only where it is used
    except ImportError as error:
        raise UnavailableError(
            f"cannot import bcc: {error}",
            "Install it with apt-get install python3-bpfcc, and use a Python"
            " environment made with --system-site-packages.",
        ) from error
    return bcc.BPF


def compile_program(
    bpf: Any, spec: ProgramSpec, maps: Mapping[str, int], text: str | None = None
) -> Any:
    """Compile ``bpf/<name>.c`` (or ``text``) against maps by descriptor; returns
    bcc's module."""
    source = (source_dir() / f"{spec.name}.c").read_text() if text is None else text
    flags = [*cflags(), *(f"-DFD_{name}={fd}" for name, fd in maps.items())]
    with tempfile.NamedTemporaryFile("w", suffix=".h", encoding="ascii") as header:
        header.write(asserts.text())
        header.flush()
        try:
            return bpf(text=f'{source}\n#include "{header.name}"\n', cflags=flags)
        except Exception as error:
            raise KernelError(f"cannot compile bpf/{spec.name}.c: {error}") from error


def load_program(bpf: Any, module: Any, spec: ProgramSpec) -> Program:
    """Load it; the returned object owns a descriptor of its own."""
    kind, attach = (bpf.XDP, 37) if spec.type == "xdp" else (bpf.SCHED_CLS, -1)
    try:
        function = module.load_func(spec.name, kind, attach_type=attach)
    except Exception as error:
        raise KernelError(f"the kernel refused {spec.name}: {error}") from error
    return Program(os.dup(function.fd))


def run(job: dict[str, Any]) -> dict[str, Any]:
    """``job``: {"maps": {name: pin path}, "pins": folder}."""
    bpf = import_bcc()
    maps = {name: Map.open(path) for name, path in job["maps"].items()}
    fds = {name: opened.fd for name, opened in maps.items()}
    folder = Path(job["pins"])
    report: dict[str, Any] = {}
    for spec in PROGRAMS:
        begun = time.monotonic()
        program = load_program(bpf, compile_program(bpf, spec, fds), spec)
        program.pin(folder / spec.name)
        report[spec.name] = {"seconds": time.monotonic() - begun, "id": program.id}
    return report


def main() -> int:
    try:
        json.dump(run(json.load(sys.stdin)), sys.stdout)
    except FlyebpfError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
