# SPDX-License-Identifier: Apache-2.0
"""HTTP header names and values in fly.toml.

What is accepted here is sent as it is, so nothing that could end a header line
gets through (RFC 9110, section 5).
"""

from __future__ import annotations

import re
from typing import Any

from flyebpf.flytoml.section import Section
from flyebpf.model.names import quoted

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_PAIR_KEYS = {"name", "value"}
_LONGEST_NAME, _LONGEST_VALUE = 256, 4096  # bytes of a response header
_MOST = 100  # response headers of a port


def request_headers(section: Section, key: str) -> tuple[tuple[str, str], ...]:
    """A check's headers, in order.

    A table of name to value or values; the older forms are a list of
    ``"Name: value"`` or of tables.
    """
    value = section.raw(key)
    if isinstance(value, dict):
        pairs = [(name, item) for name, items in value.items() for item in _as_list(items)]
    elif isinstance(value, list):
        pairs = [pair for item in value for pair in _older_form(section, key, item)]
    else:
        if value is not None:
            section.error(key, f"must be a table of header names, not {quoted(value)}")
        pairs = []
    return tuple(pair for pair in pairs if is_header(section, key, *pair))


def response_headers(section: Section, key: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Name to values; ``false`` removes the header: no values."""
    table = section.raw(key)
    if table is None:
        return ()
    if not isinstance(table, dict):
        section.error(key, f"must be a table of header names, not {quoted(table)}")
        return ()
    headers = []
    for name, value in table.items():
        if value is True:
            section.error(f"{key}.{name}", "must be false to remove it, or a string or a list")
            continue
        values = () if value is False else tuple(_as_list(value))
        path = f"{key}.{name}"
        if all(_is_response_header(section, path, name, item) for item in values or ("",)):
            headers.append((name, values))
    count = sum(len(values) or 1 for _, values in headers)
    if count > _MOST:
        section.error(key, f"has {count} headers, more than {_MOST}")
    return tuple(headers)


def _is_response_header(section: Section, key: str, name: object, value: object) -> bool:
    """As :func:`is_header`, and Envoy takes it: one that it does not take would have it
    refuse all apps' routes."""
    if not is_header(section, key, name, value):
        return False
    text, size = str(name), len(str(value).encode())
    if text.lower() == "host" or len(text) > _LONGEST_NAME:
        section.error(key, f"{quoted(text)} is no header of an answer")
        return False
    if size > _LONGEST_VALUE:
        section.error(key, f"the value of {text} has {size} bytes, more than {_LONGEST_VALUE}")
        return False
    return True


def is_header(section: Section, key: str, name: object, value: object) -> bool:
    """Whether it can be sent; reports an error at ``key`` if not."""
    if not isinstance(name, str) or not TOKEN.fullmatch(name):
        section.error(key, f"{quoted(name)} is not a header name")
        return False
    if not isinstance(value, str) or not _VALUE.fullmatch(value):
        section.error(key, f"the value of {name} must be a string of one line, not {quoted(value)}")
        return False
    return True


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _older_form(section: Section, key: str, item: Any) -> list[tuple[Any, Any]]:
    if isinstance(item, str) and ":" in item:
        name, _, value = item.partition(":")
        return [(name.strip(), value.strip())]
    if isinstance(item, dict) and item.keys() == _PAIR_KEYS:
        return [(item["name"], item["value"])]
    if isinstance(item, dict):
        return list(item.items())
    section.error(key, f'must have items such as "Name: value", not {quoted(item)}')
    return []
