# SPDX-License-Identifier: Apache-2.0
"""Processes that outlive the command that starts them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from flyebpf.errors import UnavailableError
from flyebpf.lab.state import Process

# Python ignores these; what it starts shall not.
_RESTORED = (signal.SIGPIPE, signal.SIGXFSZ)


def start(argv: Sequence[str], environment: Mapping[str, str], log: Path) -> Process:
    """Start ``argv`` detached, in a session of its own, writing to ``log``."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    try:
        pid = os.posix_spawnp(
            argv[0],
            list(argv),
            dict(environment),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigdef=_RESTORED,
        )
    except OSError as error:
        raise UnavailableError(f"{argv[0]} cannot be started: {error.strerror}") from error
    return Process(pid, _start_time(pid) or 0)


def alive(process: Process | None) -> bool:
    """Whether it is this very process that runs (a zombie does not)."""
    return process is not None and _start_time(process.pid) == process.started


def stop(process: Process | None, patience: float = 5.0) -> bool:
    """End it and what it started: SIGTERM, then SIGKILL after ``patience`` s.

    Returns whether it was running. Never signals another process that has
    got its pid.
    """
    if process is None or not alive(process):
        return False
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return True
        if wait_gone(process, patience):
            return True
    return True


def kill(process: Process) -> None:
    """SIGKILL, and wait until it is gone."""
    if alive(process):
        os.kill(process.pid, signal.SIGKILL)
        wait_gone(process, 5.0)


def wait_gone(process: Process, patience: float) -> bool:
    """Wait up to ``patience`` seconds for its end."""
    deadline = time.monotonic() + patience
    while alive(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def tail(log: Path, lines: int = 20) -> str:
    """The last lines of a log, indented for an error message."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 16_384))
            text = file.read().decode(errors="replace")
    except OSError as error:
        return f"    (no log: {error})"
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:]) or "    (it is empty)"


def _start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat; None when there is no such live process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name, in parentheses, may hold spaces and parentheses itself.
    rest = stat.rpartition(")")[2].split()
    return None if rest[0] in "ZX" else int(rest[19])
