# SPDX-License-Identifier: Apache-2.0
"""The folder in which compiled programs are kept: a start that has no pins, after
a boot or with other sizes of maps, then needs no compiler.

A file is named after the hash of everything that its contents depend on. It is
read only where nobody else could have written it.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from flyebpf.bpf.code import Code
from flyebpf.errors import UnavailableError

KEPT = 8  # versions of the sources
Log = Callable[[str], None]


class Shelf:
    """``folder``: made if need be, root's. What is wrong with it is logged and
    costs time only: programs are compiled when they cannot be kept."""

    def __init__(self, folder: str, log: Log = lambda _: None) -> None:
        self._folder = Path(folder)
        self._log = log

    def take(self, digest: str) -> dict[str, Code] | None:
        """The programs of these sources by name, or None."""
        path = self._path(digest)
        try:
            check_own(self._folder)
            check_own(path)
            given = json.loads(path.read_bytes())
            found = {name: Code.from_json(code) for name, code in given.items()}
        except FileNotFoundError:
            return None
        except (
            OSError,
            UnavailableError,
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
        ) as error:
            self._log(f"the compiled programs {path} are not used: {error}")
            return None
        with suppress(OSError):
            os.utime(path)
        return found

    def put(self, digest: str, programs: Mapping[str, Code]) -> None:
        """Keep them; the oldest versions go."""
        path = self._path(digest)
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        text = json.dumps({name: code.to_json() for name, code in programs.items()})
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_own(self._folder)
            with open(aside, "x", encoding="ascii", opener=_private) as file:
                file.write(text)
            aside.replace(path)
            self._forget_oldest()
        except (OSError, UnavailableError) as error:
            self._log(f"the compiled programs cannot be kept in {self._folder}: {error}")
            with suppress(OSError):
                aside.unlink()

    def _path(self, digest: str) -> Path:
        return self._folder / f"programs-{digest}.json"

    def _forget_oldest(self) -> None:
        kept = sorted(self._folder.glob("programs-*.json"), key=lambda path: path.stat().st_mtime)
        for path in kept[:-KEPT]:
            path.unlink(missing_ok=True)


def check_own(path: Path) -> None:
    """Raises UnavailableError for what somebody else can write, OSError for what
    is not there."""
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
        raise UnavailableError(
            f"{path} can be written by others (owner {info.st_uid}, "
            f"mode {stat.S_IMODE(info.st_mode):04o})",
            f"Remove it: rm -r {path}",
        )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
