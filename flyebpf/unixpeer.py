# SPDX-License-Identifier: Apache-2.0
"""Who listens at a unix socket: how processes that outlive the daemon are found."""

from __future__ import annotations

import os
import socket
import struct

CREDENTIALS = struct.Struct("=3i")  # struct ucred: pid, uid, gid


def listener(path: str | os.PathLike[str], timeout: float | None = None) -> int:
    """The process's id as this PID namespace knows it; 0 when there is none.
    ``timeout``: seconds to wait for a listener with a full backlog; None: as long
    as it takes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(os.fspath(path))
            raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        except OSError:
            return 0
    return int(CREDENTIALS.unpack(raw)[0])


def same_network(pid: int) -> bool:
    """Whether it is in this thread's network namespace: a host's may have been
    made anew since it was started."""
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat("/proc/thread-self/ns/net").st_ino
    except OSError:
        return False
