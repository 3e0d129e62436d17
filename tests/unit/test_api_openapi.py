# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI description says what the application does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from flyebpf.api import openapi
from flyebpf.api.components import COMPONENTS
from flyebpf.api.routes import ROUTES
from flyebpf.api.schema import REF_PREFIX
from flyebpf.api.table import Route

DOCUMENT = openapi.describe(ROUTES, COMPONENTS, "1.2.3")


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "$ref":
                yield item
            else:
                yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_every_route_is_described(route: Route) -> None:
    operation = DOCUMENT["paths"][route.path][route.method.lower()]
    assert operation["operationId"] == route.name
    assert operation["summary"].endswith(".")
    assert str(route.status) in operation["responses"]
    named = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
    assert named == set(route.parameters)
    asked = {p["name"] for p in operation.get("parameters", []) if p["in"] == "query"}
    assert asked == set(route.query)
    assert ("requestBody" in operation) == (route.body is not None)


def test_nothing_else_is_described() -> None:
    described = {(path, verb) for path, verbs in DOCUMENT["paths"].items() for verb in verbs}
    assert described == {(route.path, route.method.lower()) for route in ROUTES}
    assert DOCUMENT["openapi"] == "3.1.0"
    assert DOCUMENT["info"]["version"] == "1.2.3"


def test_names_of_operations_are_unique() -> None:
    names = [route.name for route in ROUTES]
    assert len(names) == len(set(names))


def test_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    responses = DOCUMENT["components"]["responses"]
    used = set(references(DOCUMENT))
    for target in used:
        kind, name = target.removeprefix("#/components/").split("/")
        assert name in (schemas if kind == "schemas" else responses), target
    assert {REF_PREFIX + name for name in schemas} <= used
