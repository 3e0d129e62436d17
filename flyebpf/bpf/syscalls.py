# SPDX-License-Identifier: Apache-2.0
"""The functions of ``libbpf.so.1`` that are used, typed; and their errors.

Nothing here knows about flyebpf's maps or programs. libbpf 1.x functions return
a negative errno (documented in bpf/bpf.h of libbpf).
"""

from __future__ import annotations

import ctypes as ct
import errno
import os
from functools import cache

from flyebpf.errors import KernelError

BPF_ANY = 0
BPF_NOEXIST = 1
BPF_XDP = 37  # enum bpf_attach_type

NUMBER_OF_POSSIBLE_CPUS = "/sys/devices/system/cpu/possible"


class TestRunOpts(ct.Structure):
    """``struct bpf_test_run_opts`` (libbpf, bpf.h)."""

    _fields_ = (
        ("sz", ct.c_size_t),
        ("data_in", ct.c_void_p),
        ("data_out", ct.c_void_p),
        ("data_size_in", ct.c_uint32),
        ("data_size_out", ct.c_uint32),
        ("ctx_in", ct.c_void_p),
        ("ctx_out", ct.c_void_p),
        ("ctx_size_in", ct.c_uint32),
        ("ctx_size_out", ct.c_uint32),
        ("retval", ct.c_uint32),
        ("repeat", ct.c_int),
        ("duration", ct.c_uint32),
        ("flags", ct.c_uint32),
        ("cpu", ct.c_uint32),
        ("batch_size", ct.c_uint32),
    )


class MapCreateOpts(ct.Structure):
    """``struct bpf_map_create_opts``, up to ``map_flags``."""

    _fields_ = (
        ("sz", ct.c_size_t),
        ("btf_fd", ct.c_uint32),
        ("btf_key_type_id", ct.c_uint32),
        ("btf_value_type_id", ct.c_uint32),
        ("btf_vmlinux_value_type_id", ct.c_uint32),
        ("inner_map_fd", ct.c_uint32),
        ("map_flags", ct.c_uint32),
    )


class MapInfo(ct.Structure):
    """The first fields of ``struct bpf_map_info`` (linux/bpf.h)."""

    _fields_ = (
        ("type", ct.c_uint32),
        ("id", ct.c_uint32),
        ("key_size", ct.c_uint32),
        ("value_size", ct.c_uint32),
        ("max_entries", ct.c_uint32),
        ("map_flags", ct.c_uint32),
        ("name", ct.c_char * 16),
    )


class ProgramInfo(ct.Structure):
    """The first fields of ``struct bpf_prog_info``."""

    _fields_ = (
        ("type", ct.c_uint32),
        ("id", ct.c_uint32),
        ("tag", ct.c_uint8 * 8),
        ("jited_prog_len", ct.c_uint32),
        ("xlated_prog_len", ct.c_uint32),
        ("jited_prog_insns", ct.c_uint64),
        ("xlated_prog_insns", ct.c_uint64),
        ("load_time", ct.c_uint64),
        ("created_by_uid", ct.c_uint32),
        ("nr_map_ids", ct.c_uint32),
        ("map_ids", ct.c_uint64),
        ("name", ct.c_char * 16),
    )


class ProgLoadOpts(ct.Structure):
    """``struct bpf_prog_load_opts``, up to ``log_buf``."""

    _fields_ = (
        ("sz", ct.c_size_t),
        ("attempts", ct.c_int),
        ("expected_attach_type", ct.c_uint32),
        ("prog_btf_fd", ct.c_uint32),
        ("prog_flags", ct.c_uint32),
        ("prog_ifindex", ct.c_uint32),
        ("kern_version", ct.c_uint32),
        ("attach_btf_id", ct.c_uint32),
        ("attach_prog_fd", ct.c_uint32),
        ("attach_btf_obj_fd", ct.c_uint32),
        ("fd_array", ct.c_void_p),
        ("func_info", ct.c_void_p),
        ("func_info_cnt", ct.c_uint32),
        ("func_info_rec_size", ct.c_uint32),
        ("line_info", ct.c_void_p),
        ("line_info_cnt", ct.c_uint32),
        ("line_info_rec_size", ct.c_uint32),
        ("log_level", ct.c_uint32),
        ("log_size", ct.c_uint32),
        ("log_buf", ct.c_void_p),
    )


class LinkInfo(ct.Structure):
    """``struct bpf_link_info`` of an XDP link."""

    _fields_ = (
        ("type", ct.c_uint32),
        ("id", ct.c_uint32),
        ("prog_id", ct.c_uint32),
        ("pad", ct.c_uint32),
        ("ifindex", ct.c_uint32),
        ("rest", ct.c_uint8 * 44),
    )


class LinkCreateOpts(ct.Structure):
    """``struct bpf_link_create_opts``, up to ``flags``."""

    _fields_ = (("sz", ct.c_size_t), ("flags", ct.c_uint32), ("pad", ct.c_uint32))


class BatchOpts(ct.Structure):
    """``struct bpf_map_batch_opts``."""

    _fields_ = (("sz", ct.c_size_t), ("elem_flags", ct.c_uint64), ("flags", ct.c_uint64))


@cache
def libbpf() -> ct.CDLL:
    """The shared library, loaded once."""
    try:
        library = ct.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise KernelError(
            f"cannot load libbpf.so.1: {error}", "Install it: apt-get install libbpf1"
        ) from error
    library.libbpf_set_print(None)
    return library


def check(result: int, operation: str, remedy: str = "") -> int:
    """A call's result, or a KernelError that says what failed and why."""
    if result < 0:
        raise KernelError(
            f"{operation}: {os.strerror(-result)}", remedy or hint(-result), number=-result
        )
    return result


def hint(number: int) -> str:
    """What an errno of bpf(2) usually means for an operator."""
    return {
        errno.EPERM: "Run as root (CAP_BPF and CAP_NET_ADMIN).",
        errno.ENOSPC: "The map is full: raise its size under [dataplane].",
        errno.E2BIG: "The map is full: raise its size under [dataplane].",
        errno.ENOMEM: "The kernel has no memory for it: lower the sizes under [dataplane].",
    }.get(number, "")


@cache
def possible_cpus() -> int:
    """How many CPUs the kernel keeps per-CPU values for."""
    with open(NUMBER_OF_POSSIBLE_CPUS, encoding="ascii") as file:
        last = file.read().strip().split(",")[-1]
    return int(last.split("-")[-1]) + 1
