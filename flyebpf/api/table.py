# SPDX-License-Identifier: Apache-2.0
"""The route table: every request that the API answers, described once.

The application is built from it, and so is the OpenAPI description.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flyebpf.api.requests import Call
from flyebpf.api.schema import Schema, obj, ref, string

Handler = Callable[[Call], object]
"""Runs in a worker thread and returns what follows the route's schema."""

ERROR_SCHEMA: Schema = obj(
    {
        "error": obj(
            {
                "code": string("A stable word for programs."),
                "message": string("What went wrong, and with what."),
                "remedy": string("What to do next; may be empty."),
            }
        )
    }
)


@dataclass(frozen=True, slots=True)
class Route:
    """``body`` and ``answer`` are schemas; ``stream``: the answer is a stream of
    such objects, one a line, and ``handler`` is not used."""

    method: str
    path: str
    name: str
    summary: str
    handler: Handler
    answer: Schema
    body: Schema | None = None
    query: Mapping[str, Schema] = field(default_factory=dict)
    status: int = 200
    stream: bool = False

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the path's parameters, in order."""
        return tuple(re.findall(r"{(\w+)}", self.path))


def items(name: str) -> Schema:
    """The schema of a list answer: ``{"items": [...]}`` of a named component."""
    return obj({"items": {"type": "array", "items": ref(name)}})


def page(entries: object) -> dict[str, object]:
    """A list answer."""
    return {"items": entries}
