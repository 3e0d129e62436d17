# SPDX-License-Identifier: Apache-2.0
"""Test runs by the hundred thousand."""

from __future__ import annotations

import ctypes as ct
import os
import struct

from scapy.packet import Packet

from flyebpf.bpf import syscalls
from flyebpf.bpf.syscalls import libbpf, possible_cpus
from flyebpf.model.reasons import Count
from tests.bpf.rig import Outcome, Rig, Tc, is_left_to_vm6

ROOM = 2048
XDP_MD = 24  # bytes of struct xdp_md
SK_BUFF = 192  # and of struct __sk_buff
BEHIND = {"vm_tc": "vm6_tc", "mesh_tc": "mesh6_tc"}
"""What a program leaves to the filter behind it."""


class Fast:
    """Test runs of one program, with buffers that are made once."""

    def __init__(self, rig: Rig, program: str, context: bytes) -> None:
        self._in = ct.create_string_buffer(ROOM)
        self._out = ct.create_string_buffer(ROOM)
        self._ctx = ct.create_string_buffer(context, len(context))
        self._is_xdp = len(context) == XDP_MD
        self._opts = syscalls.TestRunOpts(
            sz=ct.sizeof(syscalls.TestRunOpts),
            data_in=ct.addressof(self._in),
            data_out=ct.addressof(self._out),
            ctx_in=ct.addressof(self._ctx),
            repeat=1,
        )
        self._fd = rig.programs[program].fd
        behind = BEHIND.get(program, "")
        self._behind = rig.programs[behind].fd if behind else 0
        self._is_vm = program == "vm_tc"
        self._run = libbpf().bpf_prog_test_run_opts
        self._run.argtypes = (ct.c_int, ct.c_void_p)
        self._lookup = libbpf().bpf_map_lookup_elem
        self._drops = rig.maps["drops"]
        self._key = ct.create_string_buffer(4)
        self._value = ct.create_string_buffer(self._drops.value_size)
        self._seen: dict[int, int] = {}

    @classmethod
    def xdp(cls, rig: Rig) -> Fast:
        """edge_xdp on the first uplink."""
        return cls(rig, "edge_xdp", struct.pack("=6I", 0, 0, 0, rig.ifindex["up0"], 0, 0))

    @classmethod
    def vm(cls, rig: Rig, number: int) -> Fast:
        """vm_tc on the interface of machine ``number``."""
        context = bytearray(SK_BUFF)
        struct.pack_into("=I", context, 40, rig.ifindex[f"vm{number}"])
        return cls(rig, "vm_tc", bytes(context))

    @classmethod
    def mesh(cls, rig: Rig) -> Fast:
        """mesh_tc on ``lan0``."""
        context = bytearray(SK_BUFF)
        struct.pack_into("=I", context, 40, rig.ifindex["lan0"])
        return cls(rig, "mesh_tc", bytes(context))

    def run(self, frame: bytes) -> tuple[int, bytes]:
        verdict, data = self._run_one(self._fd, frame)
        left = is_left_to_vm6(verdict, frame) if self._is_vm else verdict == Tc.UNSPEC
        return self._run_one(self._behind, frame) if self._behind and left else (verdict, data)

    def _run_one(self, program: int, frame: bytes) -> tuple[int, bytes]:
        size = len(frame)
        ct.memmove(self._in, frame, size)
        if self._is_xdp:
            struct.pack_into("=I", self._ctx, 4, size)  # data_end
        opts = self._opts
        opts.data_size_in, opts.data_size_out, opts.ctx_size_in = size, ROOM, len(self._ctx)
        error = self._run(program, ct.addressof(opts))
        assert error == 0, f"test run of {size} bytes: {os.strerror(-error)}"
        return opts.retval, self._out.raw[: opts.data_size_out]

    def dropped(self, reason: int) -> int:
        """How many packets were dropped for this since the last call."""
        struct.pack_into("=I", self._key, 0, reason)
        self._lookup(self._drops.fd, self._key, self._value)
        numbers = struct.unpack(f"={possible_cpus() * 2}Q", self._value.raw)
        now = sum(numbers[::2])
        before, self._seen[reason] = self._seen.get(reason, 0), now
        return now - before


def flooded(rig: Rig, packet: Packet) -> Outcome:
    """What becomes of a packet after many of them. A new period of the limit may
    have begun meanwhile: then once more."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [min(cpus)])
    try:
        fast = Fast.vm(rig, 1)
        for _ in range(20):
            for _ in range(100):
                fast.run(bytes(packet))
            got = rig.vm(1, packet)
            if Count.ICMP_LIMITED in got.counts:
                break
        return got
    finally:
        os.sched_setaffinity(0, cpus)
