# SPDX-License-Identifier: Apache-2.0
"""Loaded programs, and the links that attach them, through libbpf."""

from __future__ import annotations

import ctypes as ct
import os
from dataclasses import dataclass

from flyebpf.bpf.libbpf import Descriptor, read_info
from flyebpf.bpf.syscalls import (
    BPF_XDP,
    LinkCreateOpts,
    LinkInfo,
    ProgramInfo,
    TestRunOpts,
    check,
    libbpf,
)

BPF_LINK_TYPE_XDP = 6  # enum bpf_link_type
BPF_LINK_TYPE_NETNS = 5
BPF_SK_LOOKUP = 36  # enum bpf_attach_type
XDP_FLAGS_SKB_MODE = 1 << 1
XDP_FLAGS_DRV_MODE = 1 << 2
TEST_XDP_LIVE_FRAMES = 1 << 1
TEST_RUN_ROOM = 512  # bytes that a program may add to a packet in a test run


@dataclass(frozen=True, slots=True)
class TestRun:
    """What BPF_PROG_TEST_RUN returned; ``duration`` in ns per run."""

    verdict: int
    data: bytes
    duration: int
    context: bytes = b""


class Program(Descriptor):
    """A loaded program."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        info = ProgramInfo()
        read_info(fd, info, "a program")
        self.id: int = info.id
        self.type: int = info.type
        self.name: str = info.name.decode()
        self.tag = bytes(info.tag).hex()

    def test_run(
        self, data: bytes, *, repeat: int = 1, context: bytes = b"", flags: int = 0
    ) -> TestRun:
        """Run it on a frame (Ethernet on). ``context``: struct xdp_md or __sk_buff.

        The kernel does not restore the packet between repeats.
        """
        out = ct.create_string_buffer(len(data) + TEST_RUN_ROOM)
        given = ct.create_string_buffer(data, max(len(data), 1))
        ctx_in = ct.create_string_buffer(context, max(len(context), 1))
        ctx_out = ct.create_string_buffer(max(len(context), 1))
        opts = TestRunOpts(
            sz=ct.sizeof(TestRunOpts),
            data_in=ct.cast(given, ct.c_void_p),
            data_out=ct.cast(out, ct.c_void_p),
            data_size_in=len(data),
            data_size_out=len(out),
            repeat=repeat,
            flags=flags,
        )
        if context:
            opts.ctx_in = ct.cast(ctx_in, ct.c_void_p)
            opts.ctx_out = ct.cast(ctx_out, ct.c_void_p)
            opts.ctx_size_in = opts.ctx_size_out = len(context)
        check(
            libbpf().bpf_prog_test_run_opts(self.fd, ct.byref(opts)),
            f"test run of {self.name} with {len(data)} bytes",
        )
        seen = ctx_out.raw if context else b""
        return TestRun(opts.retval, out.raw[: opts.data_size_out], opts.duration, seen)

    def test_lookup(self, context: bytes) -> tuple[int, bytes]:
        """Run an sk_lookup program on a struct bpf_sk_lookup (kernel 5.13 on): verdict,
        and the cookie of the socket that it chose, zeros for none."""
        given = ct.create_string_buffer(context, len(context))
        opts = TestRunOpts(
            sz=ct.sizeof(TestRunOpts),
            ctx_in=ct.cast(given, ct.c_void_p),
            ctx_out=ct.cast(given, ct.c_void_p),
            ctx_size_in=len(context),
            ctx_size_out=len(context),
            repeat=1,
        )
        check(
            libbpf().bpf_prog_test_run_opts(self.fd, ct.byref(opts)),
            f"test run of {self.name}",
        )
        return int(opts.retval), given.raw[:8]

    def test_run_live(
        self, data: bytes, repeat: int, batch: int = 64, *, context: bytes = b""
    ) -> None:
        """Run it ``repeat`` times on frames that really go where it says
        (BPF_F_TEST_XDP_LIVE_FRAMES; XDP programs, kernel 5.18 on). ``context``: struct
        xdp_md; without one the frames come in on no device."""
        given = ct.create_string_buffer(data, len(data))
        ctx_in = ct.create_string_buffer(context, max(len(context), 1))
        opts = TestRunOpts(
            sz=ct.sizeof(TestRunOpts),
            data_in=ct.cast(given, ct.c_void_p),
            data_size_in=len(data),
            repeat=repeat,
            flags=TEST_XDP_LIVE_FRAMES,
            batch_size=batch,
        )
        if context:
            opts.ctx_in = ct.cast(ctx_in, ct.c_void_p)
            opts.ctx_size_in = len(context)
        result = libbpf().bpf_prog_test_run_opts(self.fd, ct.byref(opts))
        check(result, f"live test run of {self.name}")


class Link(Descriptor):
    """A ``bpf_link``, or what a pin holds in place of one."""

    def update(self, program: Program) -> None:
        """Swap the program in place: no packet passes without one."""
        result = libbpf().bpf_link_update(self.fd, program.fd, None)
        check(result, f"swap in {program.name}")

    def is_of(self, kind: int) -> bool:
        """Whether it is a link of this kind (enum bpf_link_type) at all: a pin can
        hold anything. The info of a program or a map, read as a link's, would make
        some sense."""
        if "link" not in os.readlink(f"/proc/self/fd/{self.fd}"):
            return False
        return int(self.info.type) == kind

    @property
    def info(self) -> LinkInfo:
        info = LinkInfo()
        read_info(self.fd, info, "a link")
        return info

    @property
    def program_id(self) -> int:
        return int(self.info.prog_id)


class XdpLink(Link):
    """A ``bpf_link`` that attaches an XDP program to an interface."""

    @classmethod
    def create(cls, program: Program, ifindex: int, mode: str) -> XdpLink:
        """``mode``: "native" or "generic"."""
        flags = XDP_FLAGS_DRV_MODE if mode == "native" else XDP_FLAGS_SKB_MODE
        opts = LinkCreateOpts(sz=ct.sizeof(LinkCreateOpts), flags=flags)
        fd = libbpf().bpf_link_create(program.fd, ifindex, BPF_XDP, ct.byref(opts))
        return cls(check(fd, f"attach {program.name} to interface {ifindex} ({mode} XDP)"))

    @property
    def is_xdp_link(self) -> bool:
        return self.is_of(BPF_LINK_TYPE_XDP)

    @property
    def ifindex(self) -> int:
        """The interface, or 0 when it is gone."""
        return int(self.info.ifindex)


class NetnsLink(Link):
    """A ``bpf_link`` that attaches an sk_lookup program to a network namespace.
    ``info.ifindex`` holds the inode of the namespace, 0 when that is gone."""

    @classmethod
    def create(cls, program: Program) -> NetnsLink:
        """To this thread's own."""
        opts = LinkCreateOpts(sz=ct.sizeof(LinkCreateOpts))
        with open("/proc/thread-self/ns/net", "rb") as namespace:
            fd = libbpf().bpf_link_create(
                program.fd, namespace.fileno(), BPF_SK_LOOKUP, ct.byref(opts)
            )
        return cls(check(fd, f"attach {program.name} to the network namespace"))

    @property
    def is_netns_link(self) -> bool:
        return self.is_of(BPF_LINK_TYPE_NETNS)

    @property
    def is_here(self) -> bool:
        """Whether it is attached to this thread's network namespace."""
        return int(self.info.ifindex) == os.stat("/proc/thread-self/ns/net").st_ino
