# SPDX-License-Identifier: Apache-2.0
"""How often clusters have slept, for the next daemon: Envoy goes on, and knows the
clients of each time by that number."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

log = logging.getLogger(__name__)


def read(path: Path) -> dict[str, int]:
    """Empty where there is nothing to be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): int(count) for name, count in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        log.warning("%s is not used: %s", path, error)
        return {}


def write(path: Path, naps: Mapping[str, int]) -> None:
    """Whole or not at all."""
    aside = path.with_name(f"{path.name}.new")
    try:
        aside.write_text(json.dumps(naps), encoding="utf-8")
        aside.rename(path)
    except OSError as error:
        log.warning("%s cannot be written: %s", path, error)
