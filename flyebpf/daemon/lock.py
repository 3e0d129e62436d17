# SPDX-License-Identifier: Apache-2.0
"""One daemon for one state folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path

from flyebpf.errors import ConflictError, UnavailableError


class StateLock:
    """Held until closed, or the process ends however it ends."""

    def __init__(self, state_dir: str) -> None:
        path = Path(state_dir) / "lock"
        try:
            Path(state_dir).mkdir(parents=True, exist_ok=True, mode=0o700)
            check_trusted(state_dir)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(path, flags, 0o600)
        except OSError as error:
            raise UnavailableError(
                f"cannot use the state folder {state_dir}: {error.strerror}",
                "Run as root, and check state_dir in the configuration.",
            ) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._fd, 32, 0).decode(errors="replace").strip()
            os.close(self._fd)
            raise ConflictError(
                f"another daemon (process {owner or 'unknown'}) uses the state folder {state_dir}",
                "Stop it first, or give this one its own state_dir.",
            ) from error
        with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        os.close(self._fd)


def check_trusted(folder: str) -> None:
    """Raises UnavailableError for a folder in which somebody else can put files
    of another's choice where the daemon expects its own."""
    info = os.stat(folder)
    if info.st_uid != os.geteuid() or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UnavailableError(
            f"the state folder {folder} can be written by others (owner {info.st_uid}, "
            f"mode {stat.S_IMODE(info.st_mode):04o})",
            f"Check what is in it, then: chown root {folder}; chmod 0700 {folder}",
        )
