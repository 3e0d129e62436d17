# SPDX-License-Identifier: Apache-2.0
"""JSON Schema, the part of it that the API uses: builders and a checker.

One schema serves three ends: it is published in the OpenAPI description, it
checks what clients send, and the tests check with it what the API answers.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any

from flyebpf.errors import InvalidError

Schema = dict[str, Any]
Components = Mapping[str, Schema]

REF_PREFIX = "#/components/schemas/"


def string(description: str = "", **keywords: Any) -> Schema:
    """A string; ``keywords`` such as ``enum``, ``pattern``, ``maxLength``."""
    return _described({"type": "string", **keywords}, description)


def integer(description: str = "", **keywords: Any) -> Schema:
    return _described({"type": "integer", **keywords}, description)


def number(description: str = "") -> Schema:
    return _described({"type": "number"}, description)


def boolean(description: str = "") -> Schema:
    return _described({"type": "boolean"}, description)


def array(items: Schema, description: str = "", **keywords: Any) -> Schema:
    return _described({"type": "array", "items": items, **keywords}, description)


def mapping(values: Schema, description: str = "") -> Schema:
    """An object whose keys are free and whose values follow ``values``."""
    return _described({"type": "object", "additionalProperties": values}, description)


def obj(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """An object with these fields and no other."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def ref(name: str) -> Schema:
    """A reference to a named component."""
    return {"$ref": REF_PREFIX + name}


def _described(schema: Schema, description: str) -> Schema:
    return {**schema, "description": description} if description else schema


_TYPES: dict[str, tuple[Callable[[object], bool], str]] = {
    "string": (lambda v: isinstance(v, str), "a string"),
    "integer": (lambda v: isinstance(v, int) and not isinstance(v, bool), "an integer"),
    "number": (lambda v: isinstance(v, int | float) and not isinstance(v, bool), "a number"),
    "boolean": (lambda v: isinstance(v, bool), "true or false"),
    "array": (lambda v: isinstance(v, list), "a list"),
    "object": (lambda v: isinstance(v, dict), "an object"),
    "null": (lambda v: v is None, "null"),
}


def type_name(value: object) -> str:
    """What a JSON value is, in words."""
    for name in ("boolean", "integer", "number", "string", "array", "object", "null"):
        is_type, words = _TYPES[name]
        if is_type(value):
            return words
    return type(value).__name__


def check(value: object, schema: Schema, components: Components, path: str = "") -> None:
    """Raise InvalidError, naming the path, where ``value`` breaks ``schema``."""
    if "$ref" in schema:
        check(value, components[schema["$ref"].removeprefix(REF_PREFIX)], components, path)
        return
    if "anyOf" in schema:
        _check_any(value, schema["anyOf"], components, path)
        return
    kind = schema.get("type")
    if kind is not None:
        is_type, words = _TYPES[kind]
        if not is_type(value):
            raise InvalidError(f"{_where(path)}: expected {words}, got {type_name(value)}")
    if isinstance(value, str):
        _check_string(value, schema, path)
    elif isinstance(value, dict):
        _check_object(value, schema, components, path)
    elif isinstance(value, list):
        _check_list(value, schema, components, path)
    elif isinstance(value, int | float):
        _check_number(value, schema, path)


def _where(path: str) -> str:
    return path or "body"


def _check_any(value: object, choices: list[Schema], components: Components, path: str) -> None:
    errors = []
    for choice in choices:
        try:
            check(value, choice, components, path)
            return
        except InvalidError as error:
            errors.append(error)
    # The first choice is what the field is for; the others are exceptions to it.
    raise errors[0]


def _check_string(value: str, schema: Schema, path: str) -> None:
    allowed = schema.get("enum")
    if allowed is not None and value not in allowed:
        raise InvalidError(
            f"{_where(path)}: {value[:80]!r} is not allowed", f"Use one of: {', '.join(allowed)}."
        )
    limit = schema.get("maxLength")
    if limit is not None and len(value) > limit:
        raise InvalidError(f"{_where(path)}: longer than {limit} characters")
    if len(value) < schema.get("minLength", 0):
        raise InvalidError(f"{_where(path)}: must not be empty")
    pattern = schema.get("pattern")
    if pattern is not None and not re.search(pattern, value):
        raise InvalidError(f"{_where(path)}: {value[:80]!r} does not match {pattern}")


def _check_number(value: float, schema: Schema, path: str) -> None:
    if "minimum" in schema and value < schema["minimum"]:
        raise InvalidError(f"{_where(path)}: {value} is less than {schema['minimum']}")
    if "maximum" in schema and value > schema["maximum"]:
        raise InvalidError(f"{_where(path)}: {value} is more than {schema['maximum']}")


def _check_list(value: list[Any], schema: Schema, components: Components, path: str) -> None:
    if len(value) < schema.get("minItems", 0):
        raise InvalidError(f"{_where(path)}: needs at least {schema['minItems']} item")
    for index, item in enumerate(value):
        check(item, schema.get("items", {}), components, f"{path}[{index}]")


def _check_object(value: dict[str, Any], schema: Schema, components: Components, path: str) -> None:
    properties: dict[str, Schema] = schema.get("properties", {})
    extra = schema.get("additionalProperties", True)
    for name in schema.get("required", ()):
        if name not in value:
            raise InvalidError(
                f"{_join(path, name)}: missing", f"Required: {', '.join(schema['required'])}."
            )
    for name, item in value.items():
        if name in properties:
            check(item, properties[name], components, _join(path, name))
        elif extra is False:
            raise InvalidError(f"{_join(path, name[:80])}: unknown field", _known(name, properties))
        elif isinstance(extra, dict):
            check(item, extra, components, _join(path, name))


def _known(name: str, properties: Mapping[str, Schema]) -> str:
    close = difflib.get_close_matches(name, properties, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known fields: {', '.join(properties)}." if properties else "No field is known."


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
