# SPDX-License-Identifier: Apache-2.0
"""The bpf() system call, as little of it as the lab itself needs.

Standard library only: the kernel is probed before anything is installed.
"""

from __future__ import annotations

import ctypes as ct
import os
import platform
import struct

BPF_MAP_CREATE = 0
BPF_PROG_LOAD = 5
BPF_OBJ_PIN = 6
BPF_LINK_CREATE = 28

MAP_TYPES = {"hash": 1, "array": 2, "percpu_array": 6, "lru_hash": 9, "lpm_trie": 11}
PROG_TYPE_SCHED_CLS = 3
PROG_TYPE_XDP = 6
ATTACH_XDP = 37
XDP_PASS = 2
XDP_DRIVER_MODE = 1 << 2

_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
_ATTR_SIZE = 144


def bpf(command: int, attributes: bytes) -> int:
    """Call bpf(2); returns its result (often a descriptor). Raises OSError."""
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(f"the number of bpf() on {platform.machine()} is not known here")
    libc = ct.CDLL(None, use_errno=True)
    buffer = ct.create_string_buffer(attributes, max(_ATTR_SIZE, len(attributes)))
    result: int = libc.syscall(number, command, buffer, len(buffer))
    if result < 0:
        code = ct.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def create_map(kind: str) -> int:
    """A small map of the kind named; returns its descriptor."""
    no_prealloc = 1 if kind == "lpm_trie" else 0
    key = 8 if kind == "lpm_trie" else 4
    return bpf(BPF_MAP_CREATE, struct.pack("=5I", MAP_TYPES[kind], key, 8, 4, no_prealloc))


def load_return(program_type: int, value: int, attach_type: int = 0) -> int:
    """A program that returns ``value`` and does nothing else; its descriptor."""
    code = struct.pack("=BBhi", 0xB7, 0, 0, value) + struct.pack("=BBhi", 0x95, 0, 0, 0)
    instructions = ct.create_string_buffer(code, len(code))
    licence = ct.create_string_buffer(b"GPL")
    head = struct.pack("=IIQQ", program_type, 2, ct.addressof(instructions), ct.addressof(licence))
    # log level, size and buffer, kernel version, flags, name, ifindex
    middle = struct.pack("=IIQII16sI", 0, 0, 0, 0, 0, b"flyebpf_lab", 0)
    return bpf(BPF_PROG_LOAD, head + middle + struct.pack("=I", attach_type))


def pin(descriptor: int, path: str) -> None:
    """Pin an object on a bpffs."""
    name = ct.create_string_buffer(os.fsencode(path))
    bpf(BPF_OBJ_PIN, struct.pack("=QII", ct.addressof(name), descriptor, 0))


def link_xdp(program: int, ifindex: int) -> int:
    """Attach an XDP program natively by a bpf_link; returns its descriptor."""
    return bpf(BPF_LINK_CREATE, struct.pack("=4I", program, ifindex, ATTACH_XDP, XDP_DRIVER_MODE))
