# SPDX-License-Identifier: Apache-2.0
"""Bodies of records as text, the same in every store."""

from __future__ import annotations

import json

from flyebpf.store.base import Json


def to_text(body: Json) -> str:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False)


def from_text(text: str) -> Json:
    """One body; a broken one becomes what no record can be decoded from, so
    that it is reported under its id and does not stop the others."""
    try:
        body = json.loads(text)
        if may_be_unwritable(text):
            to_text(body).encode()
    except (ValueError, RecursionError):
        body = None
    return body if isinstance(body, dict) else unreadable(text)


def may_be_unwritable(text: str) -> bool:
    """Whether there may be half a character in it (RFC 8259, section 8.2): no
    file or store takes that, so a record of it could not be copied."""
    return "\\ud" in text or "\\uD" in text


def unreadable(text: str) -> Json:
    """What stands for a body that is none."""
    return {"unreadable": text}
