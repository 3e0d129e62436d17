# SPDX-License-Identifier: Apache-2.0
"""The UDP sockets of another process, as descriptors of this one (pidfd_getfd(2),
Linux 5.6)."""

from __future__ import annotations

import contextlib
import ctypes as ct
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

_PIDFD_GETFD = 438  # the same on every architecture


@contextlib.contextmanager
def udp_sockets(pid: int) -> Iterator[list[socket.socket]]:
    """Those that are bound to a port, for as long as the block lasts. Raises
    OSError: no such process, or it may not be looked into."""
    with contextlib.ExitStack() as stack:
        process = os.pidfd_open(pid)
        stack.callback(os.close, process)
        found = []
        for entry in list(Path(f"/proc/{pid}/fd").iterdir()):
            if not _is_socket(entry):
                continue
            number = _duplicate(process, int(entry.name))
            if number is None:
                continue
            one = stack.enter_context(socket.socket(fileno=number))
            if _is_bound_udp(one):
                found.append(one)
        yield found


def _is_socket(entry: Path) -> bool:
    try:
        return str(entry.readlink()).startswith("socket:")
    except FileNotFoundError:  # closed meanwhile
        return False


def _duplicate(process: int, number: int) -> int | None:
    """Ours of the descriptor ``number`` there; None when it was closed meanwhile."""
    libc = ct.CDLL(None, use_errno=True)
    found: int = libc.syscall(_PIDFD_GETFD, process, number, 0)
    if found >= 0:
        return found
    error = ct.get_errno()
    if error == errno.EBADF:
        return None
    raise OSError(error, os.strerror(error))


def _is_bound_udp(one: socket.socket) -> bool:
    if one.family not in (socket.AF_INET, socket.AF_INET6) or one.type != socket.SOCK_DGRAM:
        return False
    return bool(one.getsockname()[1])
