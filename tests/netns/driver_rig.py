# SPDX-License-Identifier: Apache-2.0
"""A network namespace for a test, and the smallest programs there are."""

from __future__ import annotations

import ctypes as ct
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from flyebpf.bpf.program import Program
from flyebpf.bpf.syscalls import check, libbpf

CLONE_NEWNET = 0x40000000
TC, XDP, XDP_ATTACH = 3, 6, 37
XDP_PASS = 2


@contextmanager
def namespace() -> Iterator[None]:
    """This thread in a network namespace of its own; it ends with the block."""
    libc = ct.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ct.get_errno(), "unshare")
    try:
        sh("ip link set lo up")
        yield
    finally:
        if libc.setns(home, CLONE_NEWNET):
            raise OSError(ct.get_errno(), "setns")
        os.close(home)


def sh(command: str) -> str:
    """A shell command's output; it must succeed."""
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout


class LoadOpts(ct.Structure):
    """``struct bpf_prog_load_opts``, up to ``expected_attach_type``."""

    _fields_ = (("sz", ct.c_size_t), ("attempts", ct.c_int), ("attach", ct.c_uint32))


def program(kind: int, name: str, verdict: int = 0) -> Program:
    """A program that returns ``verdict``."""
    code = struct.pack("=BBhi", 0xB7, 0, 0, verdict) + struct.pack("=BBhi", 0x95, 0, 0, 0)
    opts = LoadOpts(ct.sizeof(LoadOpts), 0, XDP_ATTACH if kind == XDP else 0)
    fd = libbpf().bpf_prog_load(kind, name.encode(), b"GPL", code, ct.c_size_t(2), ct.byref(opts))
    return Program(check(fd, f"load {name}"))


def programs() -> dict[str, Program]:
    """Stand-ins for the data plane's."""
    return {
        "edge_xdp": program(XDP, "edge_xdp", XDP_PASS),
        "edge_tc": program(TC, "edge_tc"),
        "vm_tc": program(TC, "vm_tc"),
        "vm_out": program(TC, "vm_out"),
        "dns": program(TC, "dns"),
        "vm6_tc": program(TC, "vm6_tc"),
        "host_tc": program(TC, "host_tc"),
    }
