# SPDX-License-Identifier: Apache-2.0
"""Records to JSON objects and back.

The types of each dataclass's fields are resolved once and turned into
functions, so that decoding costs a few microseconds a record. A key that is
missing takes the field's default (the record was written by an older version);
a key that is unknown is an error (it was written by a newer one, and dropping
what it says would be a guess).
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any

from flyebpf.errors import InvalidError
from flyebpf.model.names import quoted
from flyebpf.model.records import KINDS, AnyRecord, Service

Json = dict[str, Any]
Convert = Callable[[Any], Any]

_SHARED_MAX = 4096  # values that are kept for sharing
_NAMING_KEYS = ("id", "name", "address", "app", "interface", "number")
_REMEDY = "another version of flyebpf or a hand wrote it: use that version or make it anew"


class _DecodeError(Exception):
    """A value that does not fit; carries the path inside the record."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.path = path

    def within(self, step: str) -> _DecodeError:
        dot = "." if self.path and not self.path.startswith("[") else ""
        return _DecodeError(self.message, step + dot + self.path)


def encode(record: AnyRecord) -> Json:
    """The record's JSON object: every field, defaults included."""
    encoded: Json = _encoder(typing.cast("type", type(record)))(record)
    return encoded


def decode(kind: str, body: Json) -> AnyRecord:
    """The record that :func:`encode` made ``body`` from.

    Raises InvalidError, which names the record, for an unknown kind, unknown
    or missing keys and values of the wrong type.
    """
    cls = KINDS.get(kind)
    if cls is None:
        raise InvalidError(f"record of unknown kind {quoted(kind)}", _REMEDY)
    try:
        record: AnyRecord = _decoder(cls)(body)
    except _DecodeError as error:
        where = f": {error.path}" if error.path else ""
        raise InvalidError(f"{describe(kind, body)}{where}: {error.message}", _REMEDY) from None
    return record


def describe(kind: str, body: object) -> str:
    """The record's kind and what of its body names it, for messages."""
    if not isinstance(body, dict):
        return f"stored {kind}"
    found = [body[key] for key in _NAMING_KEYS if isinstance(body.get(key), str | int)]
    return f"stored {kind} {quoted(found[0])}" if found else f"stored {kind}"


@cache
def _encoder(cls: type) -> Convert:
    hints = typing.get_type_hints(cls)
    plan = tuple((field.name, _value_encoder(hints[field.name])) for field in fields(cls))
    plain = tuple(name for name, convert in plan if convert is None)
    other = tuple((name, convert) for name, convert in plan if convert is not None)

    def encode_fields(record: Any) -> Json:
        body = {name: getattr(record, name) for name in plain}
        for name, convert in other:
            body[name] = convert(getattr(record, name))
        return body

    return encode_fields


def _value_encoder(hint: Any) -> Convert | None:
    """What turns a value of this type into JSON; None when it is JSON already."""
    inner, optional = _without_none(hint)
    if inner in (str, int, bool):
        return None
    convert: Convert
    if is_dataclass(inner):
        convert = _encoder(typing.cast("type", inner))
    elif isinstance(inner, type) and issubclass(inner, Enum):
        convert = _enum_value
    elif typing.get_origin(inner) is dict:
        convert = dict
    else:
        convert = _tuple_encoder(inner)
    return (lambda value: None if value is None else convert(value)) if optional else convert


def _enum_value(value: Enum) -> Any:
    return value.value


def _tuple_encoder(hint: Any) -> Convert:
    items = [_value_encoder(item) for item in typing.get_args(hint) if item is not Ellipsis]
    if all(item is None for item in items):
        return list
    if typing.get_args(hint)[-1] is Ellipsis:
        (one,) = items
        assert one is not None
        return lambda value: [one(item) for item in value]
    return lambda value: [
        item if convert is None else convert(item)
        for convert, item in zip(items, value, strict=True)
    ]


def _without_none(hint: Any) -> tuple[Any, bool]:
    """``X | None`` as ``(X, True)``; any other type as ``(it, False)``."""
    if isinstance(hint, types.UnionType):
        (inner,) = (arg for arg in typing.get_args(hint) if arg is not types.NoneType)
        return inner, True
    return hint, False


@cache
def _decoder(cls: type) -> Convert:
    hints = typing.get_type_hints(cls)
    plan = tuple(_field_plan(field, hints[field.name]) for field in fields(cls))
    known = frozenset(name for name, *_ in plan)

    def decode_fields(body: Any) -> Any:
        if type(body) is not dict:
            raise _DecodeError(f"must be an object, not {quoted(body)}")
        values = []
        missing = 0
        name = ""
        try:
            for name, exact, convert, default in plan:
                value = body.get(name, MISSING)
                if type(value) is exact:
                    values.append(value)
                elif value is MISSING:
                    missing += 1
                    values.append(default())
                else:
                    values.append(convert(value))
        except _DecodeError as error:
            raise error.within(name) from None
        if len(body) + missing != len(plan):
            unknown = ", ".join(quoted(key) for key in body if key not in known)
            raise _DecodeError(f"unknown key {unknown}")
        return cls(*values)

    return decode_fields


def _field_plan(
    field: Field[Any], hint: Any
) -> tuple[str, type | None, Convert, Callable[[], Any]]:
    """Key, the JSON type that needs no conversion, conversion, default."""
    exact = hint if hint in (str, int, bool) else None
    convert = _value_decoder(hint)
    if field.metadata.get("secret"):
        convert = _silent(convert)
    return field.name, exact, convert, _default(field)


def _silent(convert: Convert) -> Convert:
    """As ``convert``, but what is wrong is not quoted."""

    def decode_secret(value: Any) -> Any:
        try:
            return convert(value)
        except _DecodeError:
            raise _DecodeError("is not what it must be; it is secret and not shown") from None

    return decode_secret


def _default(field: Field[Any]) -> Callable[[], Any]:
    if field.default is not MISSING:
        value = field.default
        return lambda: value
    if field.default_factory is not MISSING:
        return field.default_factory

    def required() -> Any:
        raise _DecodeError("this key is missing")

    return required


def _value_decoder(hint: Any) -> Convert:
    inner, optional = _without_none(hint)
    convert: Convert
    if inner in (str, int, bool):
        convert = _exact_decoder(inner)
    elif is_dataclass(inner):
        convert = _decoder(typing.cast("type", inner))
        if inner is Service:
            convert = _shared(convert)
    elif isinstance(inner, type) and issubclass(inner, Enum):
        convert = _enum_decoder(inner)
    elif typing.get_origin(inner) is dict:
        convert = _dict_decoder(inner)
    else:
        convert = _tuple_decoder(inner)
    return (lambda value: None if value is None else convert(value)) if optional else convert


def _shared(convert: Convert) -> Convert:
    """Equal values become one object: most apps have much the same services,
    all in memory, and each takes a kilobyte."""
    known: dict[Any, Any] = {}

    def decode_shared(value: Any) -> Any:
        made = convert(value)
        if len(known) >= _SHARED_MAX:
            known.clear()
        return known.setdefault(made, made)

    return decode_shared


def _exact_decoder(expected: type) -> Convert:
    def decode_exact(value: Any) -> Any:
        if type(value) is not expected:  # so that true is not taken for 1
            raise _DecodeError(f"must be {expected.__name__}, not {quoted(value)}")
        return value

    return decode_exact


def _enum_decoder(enum: type[Enum]) -> Convert:
    members = {member.value: member for member in enum}

    def decode_enum(value: Any) -> Any:
        member = members.get(value) if isinstance(value, str) else None
        if member is None:
            allowed = ", ".join(members)
            raise _DecodeError(f"must be one of {allowed}, not {quoted(value)}")
        return member

    return decode_enum


def _dict_decoder(hint: Any) -> Convert:
    _, value_hint = typing.get_args(hint)
    convert = _value_decoder(value_hint)

    def decode_dict(value: Any) -> Any:
        if type(value) is not dict:
            raise _DecodeError(f"must be an object, not {quoted(value)}")
        return {key: convert(item) for key, item in value.items()}

    return decode_dict


def _tuple_decoder(hint: Any) -> Convert:
    args = typing.get_args(hint)
    converts = [_value_decoder(arg) for arg in args if arg is not Ellipsis]
    return _list_decoder(converts[0]) if args[-1] is Ellipsis else _fixed_decoder(converts)


def _list_decoder(convert: Convert) -> Convert:
    """Of a list of any length, all items of one type."""

    def decode_list(value: Any) -> Any:
        if type(value) is not list:
            raise _DecodeError(f"must be a list, not {quoted(value)}")
        items: list[Any] = []
        try:
            for item in value:
                items.append(convert(item))
        except _DecodeError as error:
            raise error.within(f"[{len(items)}]") from None
        return tuple(items)

    return decode_list


def _fixed_decoder(converts: list[Convert]) -> Convert:
    """Of a list with one type for each of its items."""

    def decode_fixed(value: Any) -> Any:
        if type(value) is not list or len(value) != len(converts):
            raise _DecodeError(f"must be a list of {len(converts)} items, not {quoted(value)}")
        return tuple(convert(item) for convert, item in zip(converts, value, strict=True))

    return decode_fixed
