# SPDX-License-Identifier: Apache-2.0
"""Files with secrets that commands write."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flyebpf.errors import ConflictError, InvalidError


@contextmanager
def claim(path: Path) -> Iterator[Callable[[str], None]]:
    """A function that writes the text of a new file, mode 0600.

    The file is made at once, so that what is to be in it is not asked for in
    vain; when that fails, it is removed. ConflictError when there is one.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise ConflictError(
            f"{path} is there already and is not overwritten; nothing was done",
            "name another file, or move it away",
        ) from None
    except OSError as error:
        raise InvalidError(
            f"cannot write {path}: {error.strerror}; nothing was done", "name another file"
        ) from error

    def write(text: str) -> None:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())

    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, 0o600)
            yield write
    except BaseException:
        path.unlink(missing_ok=True)
        raise
