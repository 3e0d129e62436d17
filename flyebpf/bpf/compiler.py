# SPDX-License-Identifier: Apache-2.0
"""Compiles the programs with bcc. The only importer of bcc.

Runs as a process of its own (``python -m flyebpf.bpf.compiler``), so that LLVM
is never in the daemon: it gets a job as JSON on standard input and prints the
code as JSON (see flyebpf.bpf.code). It needs no privilege. Errors are plain text
on standard error, exit code 1.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from flyebpf.bpf import asserts
from flyebpf.bpf.code import Code, load
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
    """Compile ``bpf/<name>.c`` (or ``text``). ``maps``: numbers to stand for maps,
    which are descriptors if the module's code is to be loaded as it is. Returns
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


def load_program(module: Any, spec: ProgramSpec) -> Program:
    """Load a function of a module that was compiled against maps."""
    return load(spec, module.dump_func(spec.name))


def run(job: dict[str, Any]) -> dict[str, Any]:
    """``job``: {"programs": [names], "maps": [names]}; returns {name: code}."""
    bpf = import_bcc()
    names = tuple(job["maps"])
    places = {name: place for place, name in enumerate(names)}
    code = {}
    for spec in PROGRAMS:
        if spec.name in job["programs"]:
            module = compile_program(bpf, spec, places)
            code[spec.name] = Code(names, module.dump_func(spec.name)).to_json()
            module.cleanup()
    return code


def main() -> int:
    try:
        json.dump(run(json.load(sys.stdin)), sys.stdout)
    except FlyebpfError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
