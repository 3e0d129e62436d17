# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all, and never in the place of others."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from flyebpf.errors import ConflictError, FlyebpfError, UnavailableError

_MODE = 0o600


class Staged:
    """Files written beside where they belong, with mode 0600, under names of no
    meaning. All that can fail for want of space or permission fails on the way
    in; :meth:`publish` only gives them their names. What has none at the end is
    removed."""

    def __init__(self, files: Mapping[Path, str]) -> None:
        self._files = files
        self._staged: dict[Path, Path] = {}
        self._published: list[Path] = []

    def __enter__(self) -> Staged:
        try:
            for path, text in self._files.items():
                if not _is_there(path, text):
                    self._staged[path] = _write_beside(path, text)
        except BaseException:
            self._clean()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._clean()

    def publish(self) -> None:
        """Give the files their names, in order, all or none. ConflictError when
        somebody else has made one of them meanwhile."""
        for path, staged in self._staged.items():
            try:
                os.link(staged, path)  # fails where there is one, unlike a rename
            except OSError as error:
                for published in self._published:
                    published.unlink(missing_ok=True)
                raise _trouble(path, error) from error
            self._published.append(path)

    def _clean(self) -> None:
        for staged in self._staged.values():
            staged.unlink(missing_ok=True)


def write_new(path: Path, text: str) -> None:
    """Write a file that is not there yet; mode 0600. Raises FlyebpfError."""
    with Staged({path: text}) as staged:
        staged.publish()


def _is_there(path: Path, text: str) -> bool:
    """Whether the file is there with this text already; ConflictError when it
    is there with another one."""
    try:
        if path.read_bytes() == text.encode():
            return True
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _trouble(path, error) from error
    raise _exists(path)


def _write_beside(path: Path, text: str) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise _trouble(path, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), _MODE)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise _trouble(path, error) from error
    return Path(name)


def _trouble(path: Path, error: OSError) -> FlyebpfError:
    if isinstance(error, FileExistsError):
        return _exists(path)
    remedy = "run this as root" if isinstance(error, PermissionError) else "name another file"
    return UnavailableError(f"cannot write {path}: {error.strerror}", remedy)


def _exists(path: Path) -> ConflictError:
    return ConflictError(
        f"{path} is there already and is not overwritten", "move it away, or name another file"
    )
