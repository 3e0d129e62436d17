# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI 3.1 description, made from the route table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flyebpf.api.schema import Components, ref, string
from flyebpf.api.table import ERROR_SCHEMA, Route

Json = dict[str, Any]

ERRORS = {
    "400": "The request could not be read.",
    "404": "Something that the request names does not exist.",
    "409": "It exists already, is in use, or nothing is left.",
    "410": "The changes asked for are no longer kept.",
    "413": "The body is too large.",
    "422": "The request is wrong; the message names the field.",
    "500": "A fault of the daemon; its log has the details.",
    "503": "Something that the request needs is not there now.",
}


def describe(routes: Sequence[Route], components: Components, version: str) -> Json:
    """The whole description as a JSON object."""
    paths: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "flyebpf",
            "version": version,
            "summary": "The API of a flyebpf host daemon, on its unix socket.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": {**components, "Error": ERROR_SCHEMA},
            "responses": {
                code: _content(text, ref("Error"), "application/json")
                for code, text in ERRORS.items()
            },
        },
    }


def _operation(route: Route) -> Json:
    media = "application/x-ndjson" if route.stream else "application/json"
    operation: Json = {
        "operationId": route.name,
        "summary": route.summary,
        "tags": [route.name.split("_")[0]],
        "responses": {
            str(route.status): _content("Done.", route.answer, media),
            **{code: {"$ref": f"#/components/responses/{code}"} for code in ERRORS},
        },
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": string()}
        for name in route.parameters
    ] + [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in route.query.items()
    ]
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": route.body}},
        }
    return operation


def _content(description: str, schema: Json, media: str) -> Json:
    return {"description": description, "content": {media: {"schema": schema}}}
