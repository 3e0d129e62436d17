# SPDX-License-Identifier: Apache-2.0
"""What tells this machine from another one that has been given its name."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from flyebpf.errors import UnavailableError
from flyebpf.join.files import write_new

NAME = "host-id"


def identity(folder: Path) -> str:
    """Sixteen hex digits, made at the first start and kept in ``folder``, the
    daemon's state. Raises FlyebpfError."""
    path = folder / NAME
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        text = secrets.token_hex(8)
        write_new(path, f"{text}\n")
    except OSError as error:
        raise UnavailableError(
            f"{path} cannot be read: {error.strerror}", "run the daemon as root"
        ) from error
    if not re.fullmatch("[0-9a-f]{16}", text):
        raise UnavailableError(f"{path} is damaged", f"remove it, and a new one is made: rm {path}")
    return text
