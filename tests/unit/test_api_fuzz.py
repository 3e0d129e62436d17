# SPDX-License-Identifier: Apache-2.0
"""Whatever is sent, the answer is a described one and never a fault of the daemon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flyebpf.api.components import COMPONENTS
from flyebpf.api.routes import ROUTES
from flyebpf.api.schema import REF_PREFIX, Schema
from flyebpf.api.table import Route
from tests.api import FLY_TOML, MACHINE, Api, machine_body, make_cluster
from tests.fakes_backend import serving

ACCEPTED = {200, 201, 400, 404, 405, 409, 410, 413, 422, 503}
"""503: a part of the host that the request needs is not there, such as the proxy."""

WORDS = st.sampled_from(
    ["acme", "web", "default", "tap1", "02:00:00:00:00:01", MACHINE, "198.51.100.1", "v4",
     "a", "-", "../..", "a/b", "", "\x00", "%00", "é", "a" * 300, FLY_TOML, "app = 1"]
)  # fmt: skip
TEXT = WORDS | st.text(max_size=20)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


def values(schema: Schema) -> st.SearchStrategy[Any]:
    """Values that mostly have the right shape, so that they get past the schema."""
    if "$ref" in schema:
        return values(COMPONENTS[schema["$ref"].removeprefix(REF_PREFIX)])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema["type"] != "object":
        inner = values(schema["items"]) if "items" in schema else st.nothing()
        by_type = {
            "integer": st.integers(),
            "string": TEXT,
            "boolean": st.booleans(),
            "array": st.lists(inner, max_size=3),
        }
        return by_type[schema["type"]]
    if "properties" not in schema:
        return st.dictionaries(TEXT, values(schema["additionalProperties"]), max_size=3)
    fields = {name: values(inner) for name, inner in schema["properties"].items()}
    required = {name: fields.pop(name) for name in schema["required"]}
    return st.fixed_dictionaries(required, optional=fields)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with serving(tmp_path_factory.mktemp("fuzz")) as (backend, path):
        api = Api(backend, path)
        api.ok("POST", "/v1/orgs", {"name": "acme"})
        api.ok("POST", "/v1/apps", {"name": "web", "org": "acme"})
        api.ok("POST", "/v1/apps/web/machines", machine_body(id=MACHINE))
        make_cluster(api)
        yield api


def target(route: Route, names: list[str]) -> str:
    path = route.path
    for parameter, name in zip(route.parameters, names, strict=False):
        path = path.replace(f"{{{parameter}}}", quote(name, safe=""))
    return path


FEW = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.body is not None], ids=lambda route: route.name
)
@FEW
@given(data=st.data())
def test_bodies(api: Api, route: Route, data: st.DataObject) -> None:
    assert route.body is not None
    name = {"app": "web", "machine": MACHINE, "host": "h1", "org": "acme"}
    where = target(route, [name[parameter] for parameter in route.parameters])
    body = data.draw(values(route.body) | ANY)
    status, answer = api.raw(route.method, where, json.dumps(body).encode())
    assert status in ACCEPTED, answer


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if route.parameters], ids=lambda route: route.name
)
@FEW
@given(names=st.lists(TEXT, min_size=1, max_size=1))
def test_names_in_paths(api: Api, route: Route, names: list[str]) -> None:
    if names[0] in ("web", MACHINE):
        return  # they exist, and are to stay
    status, answer = api.raw(route.method, target(route, names))
    assert status in ACCEPTED, answer


@pytest.mark.parametrize(
    "route",
    [route for route in ROUTES if route.query and not route.stream],
    ids=lambda route: route.name,
)
@FEW
@given(value=TEXT)
def test_query_parameters(api: Api, route: Route, value: str) -> None:
    for name in route.query:
        status, answer = api.raw("GET", f"{route.path}?{name}={quote(value)}")
        assert status in ACCEPTED, answer


@FEW
@given(body=st.binary(max_size=200))
def test_any_bytes(api: Api, body: bytes) -> None:
    status, answer = api.raw("POST", "/v1/orgs", body)
    assert status in ACCEPTED, answer
