# SPDX-License-Identifier: Apache-2.0
"""Runs in a host guest: loads every program with maps of several sizes,
attaches them, and prints a JSON line for each.

``python -m tests.qemu.inside.programs``
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys

from flyebpf.bpf.code import load
from flyebpf.bpf.libbpf import Map, read_info
from flyebpf.bpf.loader import find_code
from flyebpf.bpf.maps import map_specs
from flyebpf.bpf.program import NetnsLink, Program, XdpLink
from flyebpf.bpf.shelf import Shelf
from flyebpf.bpf.source import PROGRAMS
from flyebpf.config import CACHE_DIR, DataplaneConfig
from flyebpf.errors import FlyebpfError
from tests.bpf.test_limits import Info

SIZES = {
    "default": DataplaneConfig(),
    "small": DataplaneConfig(
        flows=64, services=2, machines=2, maglev_entries=16, pool_addresses=1, fragments=64
    ),
}


def main() -> None:
    for name, sizes in SIZES.items():
        specs = map_specs(sizes)
        code, _ = find_code(Shelf(CACHE_DIR, complain), specs, complain)
        maps = {spec.name: Map.create(spec) for spec in specs}
        descriptors = {key: opened.fd for key, opened in maps.items()}
        for spec in PROGRAMS:
            report: dict[str, object] = {"program": spec.name, "maps": name}
            try:
                program = load(spec, code[spec.name].bound(descriptors))
                report |= described(program, spec.name) | attached(program, spec.type)
            except FlyebpfError as error:
                report |= {"error": error.message}
            print(json.dumps(report), flush=True)
        for opened in maps.values():
            opened.close()


def complain(text: str) -> None:
    print(text, file=sys.stderr)


def described(program: Program, name: str) -> dict[str, object]:
    info = Info()
    read_info(program.fd, info, name)
    return {"verified": info.verified_insns, "machine_code": info.jited_prog_len}


def attached(program: Program, kind: str) -> dict[str, object]:
    """Which ways of attaching it work on the guest's first NIC."""
    device = "eth0"
    subprocess.run(["ip", "link", "set", device, "up"], check=True)
    if kind == "sk_lookup":
        NetnsLink.create(program).close()
    if kind != "xdp":
        return {"modes": []}
    for mode in ("native", "generic"):
        XdpLink.create(program, socket.if_nametoindex(device), mode).close()
    return {"modes": ["native", "generic"]}


if __name__ == "__main__":
    main()
