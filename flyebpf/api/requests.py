# SPDX-License-Identifier: Apache-2.0
"""Requests at the edge: what comes in is read, limited and checked here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from starlette.requests import Request

from flyebpf.api import schema
from flyebpf.api.backend import Backend
from flyebpf.api.schema import Components, Schema
from flyebpf.errors import FlyebpfError, InvalidError
from flyebpf.store.base import Store

MAX_BODY = 1 << 20
"""Bytes of a request body at most."""


class BadRequestError(FlyebpfError):
    """What was sent cannot be read at all."""

    code = "bad_request"
    http_status = 400


class TooLargeError(FlyebpfError):
    """The body is over MAX_BODY."""

    code = "too_large"
    http_status = 413


class GoneError(FlyebpfError):
    """What is asked for was there once and is no longer kept."""

    code = "gone"
    http_status = 410


@dataclass(frozen=True, slots=True)
class Call:
    """One checked request, as its handler gets it.

    ``store`` is the backend's, or for reading, while that is away, the copy that
    this host has of it. ``path`` and ``query`` are decoded strings; a query
    parameter that was not given is absent. ``body`` follows the route's schema.
    """

    backend: Backend
    store: Store
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)


async def read_body(request: Request) -> bytes:
    """The body, or TooLargeError as soon as it is known to be too long."""
    declared = request.headers.get("content-length", "0")
    if not re.fullmatch("[0-9]{1,18}", declared):
        raise BadRequestError(f"Content-Length {declared[:40]!r} is not a number")
    if int(declared) > MAX_BODY:
        raise _too_large()
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise _too_large()
    return bytes(body)


def _too_large() -> TooLargeError:
    return TooLargeError(
        f"the request body is over {MAX_BODY // 1024} KiB", "Send less in one request."
    )


def parse_json(body: bytes) -> object:
    """The JSON value in ``body``; strict about what JSON leaves open."""
    try:
        value = json.loads(
            body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
        if b"\\u" in body:  # half of a surrogate pair is no character and cannot be stored
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError as error:
        raise BadRequestError("the request body has half of a surrogate pair") from error
    except UnicodeDecodeError as error:
        raise BadRequestError(
            f"the request body is not UTF-8 (byte {error.start})", "Send JSON in UTF-8."
        ) from error
    except json.JSONDecodeError as error:
        raise BadRequestError(
            f"the request body is not JSON: {error.msg} (line {error.lineno}, "
            f"column {error.colno})",
            "Send a JSON object.",
        ) from error
    except RecursionError as error:
        raise BadRequestError("the request body is nested too deeply") from error
    except ValueError as error:  # an integer of thousands of digits
        raise BadRequestError(f"the request body is not JSON: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRequestError(f"the request body has the field {twice[:80]!r} twice")
    return result


def _no_constant(word: str) -> NoReturn:
    raise BadRequestError(f"the request body is not JSON: {word} is not a number in JSON")


def check_body(body: bytes, wanted: Schema | None, components: Components) -> dict[str, Any]:
    """The body as an object that follows ``wanted``; none is wanted when None."""
    if wanted is None:
        if body.strip() not in (b"", b"{}"):
            raise InvalidError("this request takes no body", "Send it without one.")
        return {}
    if not body.strip():
        raise BadRequestError("the request body is empty", "Send a JSON object.")
    value = parse_json(body)
    schema.check(value, wanted, components)
    if not isinstance(value, dict):
        raise InvalidError(f"body: expected an object, got {schema.type_name(value)}")
    return value


def check_query(request: Request, known: Mapping[str, Schema]) -> dict[str, str]:
    """The query parameters; unknown and repeated ones are errors."""
    result: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            remedy = f"Known: {', '.join(known)}." if known else "This request takes none."
            raise InvalidError(f"unknown query parameter {name[:80]!r}", remedy)
        if name in result:
            raise InvalidError(f"query parameter {name!r} is given twice")
        if known[name]["type"] == "integer" and not re.fullmatch("[0-9]{1,18}", value):
            raise InvalidError(
                f"query parameter {name}: {value[:80]!r} is not a whole number from 0 on"
            )
        result[name] = value
    return result
