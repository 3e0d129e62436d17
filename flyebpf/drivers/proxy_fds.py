# SPDX-License-Identifier: Apache-2.0
"""Another process's listening sockets, as descriptors of our own (pidfd_getfd(2))."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

SYS_PIDFD_GETFD = 438  # on every architecture but alpha
Address = tuple[str, int]
Pair = tuple[Address, Address]


def pidfd_getfd(pidfd: int, number: int) -> int:
    """Raises OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    found: int = library.syscall(SYS_PIDFD_GETFD, pidfd, number, 0)
    if found < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return found


def sockets_of(pid: int, wanted: Mapping[str, Pair]) -> dict[str, tuple[int, int]]:
    """Descriptors of the sockets of process ``pid`` that listen at these addresses.
    Names of which one is missing are left out. The caller closes them."""
    found = dict(listening(pid, {address for pair in wanted.values() for address in pair}))
    result = {
        name: (found.pop(first), found.pop(second))
        for name, (first, second) in wanted.items()
        if first in found and second in found
    }
    for descriptor in found.values():
        os.close(descriptor)
    return result


def listening(pid: int, wanted: set[Address]) -> Iterator[tuple[Address, int]]:
    """One descriptor for each of these addresses at which the process listens. Of
    several sockets at one (a worker each) any will do: the kernel chooses among them."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        left = set(wanted)
        for number in _socket_numbers(pid):
            with contextlib.suppress(OSError):
                descriptor = pidfd_getfd(pidfd, number)
                address = _listens_at(descriptor)
                if address in left:
                    left.discard(address)
                    yield address, descriptor
                else:
                    os.close(descriptor)
    finally:
        os.close(pidfd)


def _socket_numbers(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(entry).startswith("socket:"):
                    yield int(entry.name)


def _listens_at(descriptor: int) -> Address | None:
    """The address of a listening TCP socket, else None."""
    found = socket.socket(fileno=os.dup(descriptor))
    try:
        if found.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        if not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return None
        name = found.getsockname()
        return str(name[0]), int(name[1])
    finally:
        found.close()
