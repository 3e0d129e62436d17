# SPDX-License-Identifier: Apache-2.0
"""How a process of the daemon's gives up its rights."""

from __future__ import annotations

import ctypes
import os
import pwd

from flyebpf.errors import UnavailableError

_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h


def drop(user: str, what: str) -> None:
    """Become ``user`` for good, where one is named and this is root; and whatever is
    executed from now on gains nothing (prctl(2), PR_SET_NO_NEW_PRIVS). ``what``: who
    is meant, for the message. Raises UnavailableError for a user that there is not."""
    if user and os.getuid() == 0:
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            raise UnavailableError(
                f"{what} cannot run as {user!r}: there is no such user", "create it"
            ) from None
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise UnavailableError(
            f"{what} cannot give up its rights: {os.strerror(ctypes.get_errno())}",
            "Linux has had PR_SET_NO_NEW_PRIVS since 3.5",
        )
