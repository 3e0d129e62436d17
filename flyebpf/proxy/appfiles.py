# SPDX-License-Identifier: Apache-2.0
"""The folder with a file of each app, which Envoy's Lua reads (``lua/apps.lua``).

Files and not resources of Envoy's: a machine that starts changes a file of one app,
and no route that all apps are in. Each is replaced as a whole.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

SUFFIX = ".json"


class Cached:
    """The folder with a file of each app for which Lua remembers where requests were
    replayed to (``lua/cache.lua``): a generation, and until when, in seconds since 1970."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)

    def apps(self, now: float) -> list[str]:
        """Those with anything to remember, sorted. Files of others go."""
        found = []
        self._folder.mkdir(mode=0o700, exist_ok=True)  # whoever took it away
        for entry in list(self._folder.iterdir()):
            if "." in entry.name:
                continue  # being written
            with contextlib.suppress(OSError, ValueError, IndexError):
                if float(entry.read_text().splitlines()[1]) > now:
                    found.append(entry.name)
                else:
                    entry.unlink(missing_ok=True)
        return sorted(found)


class AppFiles:
    """Written by one process at a time; what another one left is replaced."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: set[str] = set()

    def put(self, name: str, body: object) -> None:
        """Raises OSError."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        aside = self._folder / f".{name}.{os.getpid()}"
        aside.write_text(json.dumps(body, separators=(",", ":")))
        aside.rename(self._folder / (name + SUFFIX))
        self._names.add(name)

    def remove(self, name: str) -> None:
        self._names.discard(name)
        (self._folder / (name + SUFFIX)).unlink(missing_ok=True)

    def complete(self) -> None:
        """All that there are have been put: others are gone."""
        wanted = {name + SUFFIX for name in self._names}
        with contextlib.suppress(FileNotFoundError):
            for entry in list(self._folder.iterdir()):
                if entry.name not in wanted:
                    entry.unlink(missing_ok=True)
