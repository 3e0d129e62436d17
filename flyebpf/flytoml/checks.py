# SPDX-License-Identifier: Apache-2.0
"""Health checks: those of services and ``[checks.NAME]``."""

from __future__ import annotations

import re
from dataclasses import replace

from flyebpf.errors import InvalidError
from flyebpf.flytoml.headers import TOKEN, request_headers
from flyebpf.flytoml.section import Section
from flyebpf.model import names
from flyebpf.model.names import quoted
from flyebpf.model.records import Check

_SHORTEST, _LONGEST = 1_000, 60_000  # milliseconds
_HTTP_KEYS = ("method", "path", "protocol", "headers", "tls_skip_verify", "tls_server_name")
_PATH = re.compile(r"/[!-~]*")
_SERVER_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_TYPES = ("tcp", "http")


def service_checks(service: Section, key: str, type: str) -> tuple[Check, ...]:
    """The checks of one type under ``key``."""
    checks = []
    for section in service.sections(key):
        checks.append(_check(section, type))
        section.finish()
    return tuple(checks)


def named_checks(document: Section) -> list[tuple[str, Check]]:
    """Every ``[checks.NAME]``, with its key path."""
    table = document.section("checks")
    if table is None:
        return []
    sections = [(name, table.section(name)) for name in document.raw("checks")]
    return [(s.path, _named_check(name, s)) for name, s in sections if s is not None]


def _named_check(name: str, section: Section) -> Check:
    try:
        names.check_name(name)
    except InvalidError as error:
        section.problems.error(section.path, f"{error.message}; {error.remedy}")
    if "type" not in section:
        section.error("type", "is missing: a check is tcp or http")
    if "port" not in section:
        section.error("port", "is missing: name the port in the VM to check")
    check = _check(section, section.choice("type", _TYPES, "tcp"))
    check = replace(
        check, name=name, port=section.port("port"), processes=section.strings("processes") or ()
    )
    section.finish()
    return check


def _check(section: Section, type: str) -> Check:
    section.ignore("restart_limit", "name")
    check = Check(
        type,
        interval=section.duration("interval", 15_000, _SHORTEST, _LONGEST),
        timeout=section.duration("timeout", 2_000, _SHORTEST, _LONGEST),
        grace_period=section.duration("grace_period", 1_000, _SHORTEST, _LONGEST),
    )
    if type == "tcp":
        section.ignore(*_HTTP_KEYS)
        section.warn_useless(_HTTP_KEYS, "type http")
        return check
    return replace(
        check,
        method=_method(section),
        path=_matching(section, "path", "/", _PATH, "start with / and have no spaces"),
        protocol=section.choice("protocol", ("http", "https"), "http"),
        headers=request_headers(section, "headers"),
        tls_skip_verify=section.boolean("tls_skip_verify", False),
        tls_server_name=_matching(section, "tls_server_name", "", _SERVER_NAME, "be a host name"),
    )


def _method(section: Section) -> str:
    return _matching(section, "method", "GET", TOKEN, "be an HTTP method").upper()


def _matching(section: Section, key: str, default: str, pattern: re.Pattern[str], rule: str) -> str:
    value = section.string(key, default)
    if value == default or pattern.fullmatch(value):
        return value
    section.error(key, f"must {rule}, not {quoted(value)}")
    return default
