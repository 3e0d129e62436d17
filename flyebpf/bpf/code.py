# SPDX-License-Identifier: Apache-2.0
"""Compiled programs: code that names its maps, and its way into the kernel.

An instruction that loads a map's address holds, until the code is loaded, the
map's place in ``Code.maps`` where the kernel wants a descriptor. So compiling
needs neither the maps nor the kernel that will run the code.
"""

from __future__ import annotations

import base64
import ctypes as ct
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flyebpf.bpf.program import Program
from flyebpf.bpf.source import TYPES, ProgramSpec
from flyebpf.bpf.syscalls import ProgLoadOpts, libbpf
from flyebpf.errors import KernelError

INSTRUCTION = struct.Struct("<BBhi")  # struct bpf_insn: opcode, src << 4 | dst, offset, value
LOAD_64 = 0x18  # BPF_LD | BPF_IMM | BPF_DW: two instructions
PSEUDO_MAP_FD = 1  # its source register when the value is a map's descriptor
LICENSE = b"Dual BSD/GPL"  # of bpf/*.c
LOG_SIZE = 1 << 24  # bytes, for the whole log of a verifier
LAST = 40  # lines of it that are shown


@dataclass(frozen=True, slots=True)
class Code:
    """``instructions``: an array of struct bpf_insn, with places in ``maps``."""

    maps: tuple[str, ...]
    instructions: bytes

    def bound(self, descriptors: Mapping[str, int]) -> bytes:
        """The instructions with the descriptors of these maps.

        Raises KeyError for a map that is not there.
        """
        bound = bytearray(self.instructions)
        step = INSTRUCTION.size
        at = 0
        while at < len(bound):
            opcode, registers, offset, value = INSTRUCTION.unpack_from(bound, at)
            if opcode == LOAD_64 and registers >> 4 == PSEUDO_MAP_FD:
                descriptor = descriptors[self.maps[value]]
                INSTRUCTION.pack_into(bound, at, opcode, registers, offset, descriptor)
            at += 2 * step if opcode == LOAD_64 else step
        return bytes(bound)

    def to_json(self) -> dict[str, Any]:
        return {
            "maps": list(self.maps),
            "instructions": base64.b64encode(self.instructions).decode(),
        }

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Code:
        """Raises KeyError, TypeError or ValueError for anything else."""
        instructions = base64.b64decode(given["instructions"], validate=True)
        if not instructions or len(instructions) % INSTRUCTION.size:
            raise ValueError(f"{len(instructions)} bytes are no instructions")
        return cls(tuple(given["maps"]), instructions)


def load(spec: ProgramSpec, instructions: bytes) -> Program:
    """Into the kernel, under the name of ``spec``. ``instructions``: bound.

    Raises KernelError with the end of the verifier's log.
    """
    result = _load(spec, instructions, None)
    if result < 0:
        log = ct.create_string_buffer(LOG_SIZE)
        result = _load(spec, instructions, log)
        if result < 0:
            lines = log.value.decode(errors="replace").splitlines()[-LAST:]
            raise KernelError(
                "\n".join([f"the kernel refused {spec.name}: {os.strerror(-result)}", *lines]),
                number=-result,
            )
    return Program(result)


def _load(spec: ProgramSpec, instructions: bytes, log: ct.Array[ct.c_char] | None) -> int:
    kind, attach = TYPES[spec.type]
    opts = ProgLoadOpts(sz=ct.sizeof(ProgLoadOpts), expected_attach_type=attach)
    if log is not None:
        opts.log_level = 1
        opts.log_size = len(log)
        opts.log_buf = ct.cast(log, ct.c_void_p)
    result: int = libbpf().bpf_prog_load(
        kind,
        spec.name.encode(),
        LICENSE,
        instructions,
        ct.c_size_t(len(instructions) // INSTRUCTION.size),
        ct.byref(opts),
    )
    return result
