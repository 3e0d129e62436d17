# SPDX-License-Identifier: Apache-2.0
"""The API as an ASGI application: the route table on Starlette."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route as StarletteRoute

from flyebpf.api.backend import Backend
from flyebpf.api.client import REMEMBERED
from flyebpf.api.components import COMPONENTS
from flyebpf.api.events import EventStreams
from flyebpf.api.requests import Call, check_body, check_query, read_body
from flyebpf.api.routes import ROUTES
from flyebpf.api.table import Route
from flyebpf.errors import FlyebpfError
from flyebpf.store.base import StoreUnavailableError

log = logging.getLogger(__name__)

HEALTH = "/healthz"

Endpoint = Callable[[Request], Awaitable[Response]]


def build(backend: Backend) -> Starlette:
    """The application for one daemon.

    ``app.state.events.closing`` is to be set before the server is stopped, so
    that open event streams end.
    """
    streams = EventStreams(backend.store)
    app = Starlette(
        routes=[
            StarletteRoute(
                route.path,
                _stream_endpoint(route, streams) if route.stream else _endpoint(route, backend),
                methods=[route.method],
                name=route.name,
            )
            for route in ROUTES
        ],
        exception_handlers={HTTPException: _http_error},
    )
    app.router.redirect_slashes = False
    app.state.events = streams
    return app


def _endpoint(route: Route, backend: Backend) -> Endpoint:
    """Reads and checks the request, then runs the handler in a worker thread:
    it may block on the store, and big answers take time to encode."""

    async def endpoint(request: Request) -> Response:
        query = check_query(request, route.query)
        body = await read_body(request)

        def work() -> tuple[bytes, int | None]:
            checked = check_body(body, route.body, COMPONENTS)
            call = Call(backend, backend.store, request.path_params, query, checked)
            answer, revision = answered(route, call)
            return json.dumps(answer, separators=(",", ":")).encode(), revision

        content, revision = await run_in_threadpool(work)
        if route.method not in ("GET", "HEAD"):
            log.info("%s %s", route.method, request.url.path)
        headers = {} if revision is None else {REMEMBERED: str(revision)}
        return Response(content, route.status, headers, media_type="application/json")

    return _guarded(endpoint)


def answered(route: Route, call: Call) -> tuple[object, int | None]:
    """What the handler answers. While the store is away, questions are answered
    from what this host read last; then the revision of that is the second value."""
    looks = route.method == "GET"
    try:
        if looks and route.path != HEALTH and call.backend.reads_copy():
            return route.handler(call), call.store.revision()
        return route.handler(call), None
    except StoreUnavailableError:
        copy = call.backend.remembered() if looks else None
        if copy is None or route.path == HEALTH:
            raise
        return route.handler(replace(call, store=copy)), copy.revision()


def _stream_endpoint(route: Route, streams: EventStreams) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        query = check_query(request, route.query)
        lines = await streams.open(int(query["since"]) if "since" in query else None)
        return StreamingResponse(lines, route.status, media_type="application/x-ndjson")

    return _guarded(endpoint)


def _guarded(endpoint: Endpoint) -> Endpoint:
    """Errors become answers; what nobody expected goes to the log, not out."""

    async def guarded(request: Request) -> Response:
        try:
            return await endpoint(request)
        except FlyebpfError as error:
            return error_response(error.http_status, error.code, error.message, error.remedy)
        except HTTPException:
            raise
        except Exception:
            incident = secrets.token_hex(4)
            log.exception("%s %s failed (%s)", request.method, request.url.path, incident)
            return error_response(
                500,
                "internal",
                f"the daemon failed at {request.method} {request.url.path}",
                f"Its log has the details under {incident}.",
            )

    return guarded


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors: no such path, or not with this method."""
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path[:200]}"
    if error.status_code == 405:
        code, message = "method_not_allowed", f"{what}: the resource has no such method"
    elif error.status_code == 404:
        code, message = "no_such_resource", f"{what}: no such resource"
    else:
        code, message = "http", f"{what}: {error.detail}"
    response = error_response(
        error.status_code, code, message, "GET /v1/openapi.json describes every resource."
    )
    response.headers.update(error.headers or {})
    return response


def error_response(status: int, code: str, message: str, remedy: str) -> JSONResponse:
    return JSONResponse(
        {"error": {"code": code, "message": message, "remedy": remedy}}, status_code=status
    )
