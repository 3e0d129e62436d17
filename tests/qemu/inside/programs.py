# SPDX-License-Identifier: Apache-2.0
"""Runs in a host guest: compiles and loads every program with maps of several
sizes, attaches them, and prints a JSON line for each.

``python -m tests.qemu.inside.programs``
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flyebpf.bpf.compiler import compile_program, import_bcc, load_program
from flyebpf.bpf.libbpf import Map, read_info
from flyebpf.bpf.maps import map_specs
from flyebpf.bpf.program import Program, XdpLink
from flyebpf.bpf.source import PROGRAMS
from flyebpf.config import DataplaneConfig
from flyebpf.errors import FlyebpfError
from tests.bpf.test_limits import Info

SIZES = {
    "default": DataplaneConfig(),
    "small": DataplaneConfig(
        flows=64, services=2, machines=2, maglev_entries=16, pool_addresses=1, fragments=64
    ),
}


def main() -> None:
    bpf = import_bcc()
    for name, sizes in SIZES.items():
        maps = {spec.name: Map.create(spec) for spec in map_specs(sizes)}
        descriptors = {key: opened.fd for key, opened in maps.items()}
        for spec in PROGRAMS:
            report: dict[str, object] = {"program": spec.name, "maps": name}
            with stderr_to_file() as complaint:
                try:
                    program = load_program(bpf, compile_program(bpf, spec, descriptors), spec)
                    report |= described(program, spec.name) | attached(program, spec.type)
                except FlyebpfError as error:
                    report |= {"error": error.message, "log": complaint()[-2000:]}
            print(json.dumps(report), flush=True)
        for opened in maps.values():
            opened.close()


def described(program: Program, name: str) -> dict[str, object]:
    info = Info()
    read_info(program.fd, info, name)
    return {"verified": info.verified_insns, "machine_code": info.jited_prog_len}


def attached(program: Program, kind: str) -> dict[str, object]:
    """Which ways of attaching it work on the guest's first NIC."""
    device = "eth0"
    subprocess.run(["ip", "link", "set", device, "up"], check=True)
    if kind == "tc":
        return {"modes": []}
    for mode in ("native", "generic"):
        XdpLink.create(program, socket.if_nametoindex(device), mode).close()
    return {"modes": ["native", "generic"]}


@contextmanager
def stderr_to_file() -> Iterator[Callable[[], str]]:
    """What bcc prints about a program that the verifier refuses; it prints past
    Python."""
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile("w+", errors="replace") as file:
        os.dup2(file.fileno(), 2)

        def text() -> str:
            file.seek(0)
            return file.read()

        try:
            yield text
        finally:
            os.dup2(real, 2)
            os.close(real)


if __name__ == "__main__":
    main()
