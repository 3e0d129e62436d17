# SPDX-License-Identifier: Apache-2.0
"""Messages to the service manager (sd_notify(3)); silent without one."""

from __future__ import annotations

import contextlib
import os
import socket
import time


def notify(*assignments: str) -> None:
    """Send ``READY=1`` and the like to ``$NOTIFY_SOCKET``."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel,
        contextlib.suppress(OSError),  # a manager that is gone must not stop the daemon
    ):
        channel.sendto("\n".join(assignments).encode(), address)


def reloading() -> None:
    """The configuration is being read again; READY=1 ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
