# SPDX-License-Identifier: Apache-2.0
"""What the table [acme] must satisfy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from flyebpf.config import DaemonConfig
from flyebpf.configrules import Problem


def check(config: DaemonConfig) -> list[Problem]:
    """Everything that is wrong with the values."""
    return list(_values(config))


def check_files(config: DaemonConfig) -> list[Problem]:
    """Whether the file that it names is there."""
    path = config.acme.ca_file
    if path and not Path(path).is_file():
        return [Problem("acme.ca_file", f"{path!r} is no file", "correct the path")]
    return []


def _values(config: DaemonConfig) -> Iterator[Problem]:
    acme = config.acme
    if acme.directory:
        parts = urlsplit(acme.directory)
        if parts.scheme != "https" or not parts.hostname:
            yield Problem(
                "acme.directory",
                f"{acme.directory!r} is no https URL",
                "use the directory of the authority, as in "
                "https://acme-v02.api.letsencrypt.org/directory",
            )
    elif acme.email or acme.ca_file:
        yield Problem("acme.directory", "is missing", "set it, or remove the table [acme]")
    if acme.email and ("@" not in acme.email or any(c.isspace() or c == "," for c in acme.email)):
        yield Problem(
            "acme.email", f"{acme.email!r} is no address", "write one as name@example.com"
        )
    if acme.ca_file and not acme.ca_file.startswith("/"):
        yield Problem("acme.ca_file", f"{acme.ca_file!r} is not absolute", "start it with /")
