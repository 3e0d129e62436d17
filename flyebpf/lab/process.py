# SPDX-License-Identifier: Apache-2.0
"""Processes that outlive the command that starts them."""

from __future__ import annotations

import contextlib
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


def pause(process: Process) -> None:
    """SIGSTOP: it holds what it has and answers nobody."""
    os.kill(process.pid, signal.SIGSTOP)


def freeze(process: Process) -> None:
    """SIGSTOP to it and to what it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGSTOP)


def thaw(process: Process) -> None:
    """Let it and what it has started go on."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGCONT)


def state(process: Process | None) -> str:
    """ "up", "paused" or "ended"."""
    if process is None or not alive(process):
        return "ended"
    return "paused" if _state(process.pid) == "T" else "up"


def resume(process: Process) -> bool:
    """Let it go on. Whether it was paused."""
    paused = _state(process.pid) == "T"
    if paused:
        os.kill(process.pid, signal.SIGCONT)
    return paused


def end_all(pids: Sequence[int], patience: float = 3.0) -> int:
    """End processes that are known by their pids alone, so the caller has just
    found them: SIGTERM, then SIGKILL. How many there were."""
    found = [Process(pid, started) for pid in pids if (started := _start_time(pid)) is not None]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in filter(alive, found):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)
        deadline = time.monotonic() + patience
        while any(map(alive, found)) and time.monotonic() < deadline:
            time.sleep(0.01)
    return len(found)


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


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat from field 3 on; empty when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    # The name, in parentheses, may hold spaces and parentheses itself.
    return stat.rpartition(")")[2].split()


def _state(pid: int) -> str:
    return (_stat(pid) or ["X"])[0]


def _start_time(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat; None when there is no such live process."""
    rest = _stat(pid)
    return None if not rest or rest[0] in "ZX" else int(rest[19])
