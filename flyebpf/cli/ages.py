# SPDX-License-Identifier: Apache-2.0
"""How long ago something was."""

from __future__ import annotations

from datetime import UTC, datetime

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def ago(text: str, now: datetime | None = None) -> str:
    """``12 s ago`` of an RFC 3339 time; ``never`` of an empty text."""
    if not text:
        return "never"
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return text
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    seconds = max(int(((now or datetime.now(UTC)) - moment).total_seconds()), 0)
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"
