# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from flyebpf.api.requests import BadRequestError, parse_json
from flyebpf.api.schema import (
    Schema,
    array,
    boolean,
    check,
    integer,
    mapping,
    nullable,
    obj,
    ref,
    string,
)
from flyebpf.errors import InvalidError

COMPONENTS: dict[str, Schema] = {"Point": obj({"x": integer()}, {"y": integer()})}

SCHEMA = obj(
    {"name": string(maxLength=5, minLength=1)},
    {
        "kind": string(enum=["a", "b"]),
        "count": integer(minimum=1, maximum=9),
        "on": boolean(),
        "point": ref("Point"),
        "points": array(ref("Point"), minItems=1),
        "labels": mapping(string()),
        "maybe": nullable(integer()),
        "hex": string(pattern="^[0-9a-f]+$"),
    },
)


@pytest.mark.parametrize(
    "value",
    [
        {"name": "x"},
        {"name": "x", "kind": "b", "count": 9, "on": False, "maybe": None},
        {"name": "x", "points": [{"x": 1}, {"x": 2, "y": 3}], "labels": {"any": "thing"}},
        {"name": "x", "maybe": 4, "hex": "0f"},
    ],
)
def test_what_follows_the_schema_passes(value: object) -> None:
    check(value, SCHEMA, COMPONENTS)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "body: expected an object, got a list"),
        (None, "body: expected an object, got null"),
        ({}, "name: missing"),
        ({"name": 7}, "name: expected a string, got an integer"),
        ({"name": ""}, "name: must not be empty"),
        ({"name": "123456"}, "name: longer than 5 characters"),
        ({"name": "x", "nmae": 1}, "nmae: unknown field"),
        ({"name": "x", "kind": "c"}, "kind: 'c' is not allowed"),
        ({"name": "x", "count": True}, "count: expected an integer, got true or false"),
        ({"name": "x", "count": 1.5}, "count: expected an integer, got a number"),
        ({"name": "x", "count": 0}, "count: 0 is less than 1"),
        ({"name": "x", "count": 10}, "count: 10 is more than 9"),
        ({"name": "x", "on": 1}, "on: expected true or false, got an integer"),
        ({"name": "x", "point": {}}, "point.x: missing"),
        ({"name": "x", "points": []}, "points: needs at least 1 item"),
        ({"name": "x", "points": [{"x": 1}, {"x": "1"}]}, "points[1].x: expected an integer"),
        ({"name": "x", "labels": {"a": 1}}, "labels.a: expected a string, got an integer"),
        ({"name": "x", "maybe": "4"}, "maybe: expected an integer, got a string"),
        ({"name": "x", "hex": "0g"}, "hex: '0g' does not match"),
    ],
)
def test_what_breaks_the_schema_is_named_by_its_path(value: object, message: str) -> None:
    with pytest.raises(InvalidError) as caught:
        check(value, SCHEMA, COMPONENTS)
    assert caught.value.message.startswith(message)


def test_an_unknown_field_gets_a_suggestion() -> None:
    with pytest.raises(InvalidError) as caught:
        check({"name": "x", "cuont": 1}, SCHEMA, COMPONENTS)
    assert "Did you mean 'count'?" in caught.value.remedy


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert parse_json(b'["\\ud83d\\ude00", "\\u00e9"]') == ["\U0001f600", "\u00e9"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"a": 1,}', "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff{}", "is not UTF-8 (byte 0)"),
        (b'{"a": 1, "a": 2}', "has the field 'a' twice"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a": ["\\ud800"]}', "half of a surrogate pair"),
        (b'{"\\udfff": 1}', "half of a surrogate pair"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
    ],
)
def test_bodies_that_are_not_json(body: bytes, message: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        parse_json(body)
    assert message in caught.value.message
