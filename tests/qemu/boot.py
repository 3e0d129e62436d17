# SPDX-License-Identifier: Apache-2.0
"""A guest in this terminal: ``python3 -m tests.qemu.boot host-guest``.

Ctrl-a x ends it, Ctrl-a c is QEMU's own prompt.
"""

from __future__ import annotations

import argparse
import os

from tests.qemu import images, kernels
from tests.qemu.accel import accel
from tests.qemu.machine import NATIVE, Machine, Nic, command_line

PARAMETERS = {
    "host-guest": {},
    "tiny-vm": {"private": "172.16.0.2", "services": "172.16.0.3", "gateway": "169.254.0.1"},
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m tests.qemu.boot", description=__doc__)
    parser.add_argument("recipe", choices=sorted(PARAMETERS))
    names = [kernel.name for kernel in kernels.KERNELS]
    parser.add_argument("--kernel", choices=names, default=names[0])
    parser.add_argument(
        "--netdev", default="user,restrict=on", help="QEMU's -netdev, without its id"
    )
    parser.add_argument("--mac", default="02:00:00:00:00:01")
    parser.add_argument("--pcap", metavar="FILE", help="what passes the NIC goes to this file")
    parser.add_argument("--memory", type=int, default=1536, help="MiB")
    given = parser.parse_args()
    kernel = next(kernel for kernel in kernels.KERNELS if kernel.name == given.kernel)
    machine = Machine(
        "by-hand",
        images.build(given.recipe, kernel),
        [Nic(given.mac, given.netdev, NATIVE)],
        {**PARAMETERS[given.recipe], "terminal": "1"},
        share_root=given.recipe == "host-guest",
        memory=given.memory,
    )
    argv = [*command_line(machine, accel()), "-serial", "mon:stdio"]
    if given.pcap:
        argv += ["-object", f"filter-dump,id=dump,netdev=net0,file={given.pcap}"]
    os.execv(argv[0], argv)


if __name__ == "__main__":
    main()
