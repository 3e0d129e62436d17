# SPDX-License-Identifier: Apache-2.0
"""How far the programs are from the verifier's limits.

Older kernels prune less: a program that only just loads here does not load on
Linux 6.1. So a quarter of the limit is the most that is allowed.
"""

from __future__ import annotations

import ctypes as ct

import pytest

from flyebpf.bpf.libbpf import read_info
from flyebpf.bpf.loader import Generation
from flyebpf.bpf.source import PROGRAMS

LIMIT = 1_000_000  # BPF_COMPLEXITY_LIMIT_INSNS
MOST_CODE = 64 * 1024  # bytes of machine code; twice a usual L1 cache


class Info(ct.Structure):
    """``struct bpf_prog_info`` (linux/bpf.h) up to ``verified_insns``."""

    _fields_ = (
        ("head", ct.c_uint8 * 16),
        ("jited_prog_len", ct.c_uint32),
        ("between", ct.c_uint8 * 196),
        ("verified_insns", ct.c_uint32),
        ("end", ct.c_uint32),
    )


@pytest.mark.parametrize("name", [spec.name for spec in PROGRAMS])
def test_programs_are_small(generation: Generation, name: str) -> None:
    info = Info()
    read_info(generation.programs[name].fd, info, name)
    print(f"{name}: {info.verified_insns} instructions verified, {info.jited_prog_len} bytes")
    assert 0 < info.verified_insns < LIMIT // 2
    assert 0 < info.jited_prog_len < MOST_CODE
