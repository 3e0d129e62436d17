# SPDX-License-Identifier: Apache-2.0
"""``[http_service]`` and ``[[services]]``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from flyebpf.flytoml import options
from flyebpf.flytoml.checks import service_checks
from flyebpf.flytoml.ports import ports
from flyebpf.flytoml.section import Section
from flyebpf.model.names import DEFAULT_GROUP, did_you_mean, quoted
from flyebpf.model.records import Check, Concurrency, Port, Service

_DEFAULT_INTERNAL_PORT = 8080
_DEFAULT_SOFT_LIMIT = 20
_AUTO_STOP = ("off", "stop", "suspend")
_OLDER_CONCURRENCY = re.compile(r"\s*([1-9][0-9]{0,8})\s*,\s*([1-9][0-9]{0,8})\s*")


@dataclass(frozen=True, slots=True)
class Groups:
    """The app's process groups. ``declared``: it has a ``[processes]``."""

    names: tuple[str, ...] = (DEFAULT_GROUP,)
    declared: bool = False


@dataclass(frozen=True, slots=True)
class ParsedService:
    """``port_paths``: the key path of each of the service's ports."""

    path: str
    service: Service
    port_paths: tuple[str, ...]


def services(document: Section, groups: Groups) -> list[ParsedService]:
    """All services of the file, ``[http_service]`` first."""
    found = []
    section = document.section("http_service")
    if section is not None:
        found.append(_http_service(section, groups))
    found.extend(_service(section, groups) for section in document.sections("services"))
    return found


def named_groups(section: Section, groups: Groups) -> tuple[str, ...]:
    """The groups that ``processes`` names, all of them known; empty: none named."""
    named = section.strings("processes") or ()
    for name in named:
        if name not in groups.names:
            hint = did_you_mean(name, groups.names) or f"there is {', '.join(groups.names)}"
            section.error("processes", f"the app has no process group {quoted(name)}; {hint}")
    return named


def _http_service(section: Section, groups: Groups) -> ParsedService:
    http = options.http_options(section)
    force_https = section.boolean("force_https", False)
    tls = options.tls_options(section)
    both = (
        Port(80, 80, ("http",), force_https, http_options=http),
        Port(443, 443, ("http", "tls"), tls_options=tls, http_options=http),
    )
    service = _common(section, groups, "tcp", both, service_checks(section, "checks", "http"))
    section.finish()
    return ParsedService(section.path, service, (section.path, section.path))


def _service(section: Section, groups: Groups) -> ParsedService:
    protocol = section.choice("protocol", ("tcp", "udp"), "tcp")
    found = ports(section, protocol)
    checks = (
        *service_checks(section, "tcp_checks", "tcp"),
        *service_checks(section, "http_checks", "http"),
    )
    service = _common(section, groups, protocol, tuple(port for _, port in found), checks)
    section.finish()
    return ParsedService(section.path, service, tuple(path for path, _ in found))


def _common(
    section: Section,
    groups: Groups,
    protocol: str,
    ports: tuple[Port, ...],
    checks: tuple[Check, ...],
) -> Service:
    section.ignore("machine_checks")  # run by whoever makes the VMs
    return Service(
        protocol,
        section.port("internal_port") or _DEFAULT_INTERNAL_PORT,
        ports,
        processes=_groups_of(section, groups),
        concurrency=_concurrency(section, protocol),
        auto_stop=_auto_stop(section),
        auto_start=section.boolean("auto_start_machines", True),
        min_machines_running=section.integer("min_machines_running", 0) or 0,
        checks=checks,
    )


def _groups_of(section: Section, groups: Groups) -> tuple[str, ...]:
    named = named_groups(section, groups)
    if not named and groups.declared:
        if not isinstance(section.raw("processes"), list) or section.raw("processes") == []:
            section.error(
                "processes",
                f"is missing: the app has process groups, name those of {section.path} "
                f"({', '.join(groups.names)})",
            )
        return groups.names
    return named or groups.names


def _auto_stop(section: Section) -> str:
    value = section.raw("auto_stop_machines")
    if isinstance(value, bool):
        return "stop" if value else "off"
    return section.choice("auto_stop_machines", _AUTO_STOP, "off")


def _concurrency(section: Section, protocol: str) -> Concurrency:
    value = section.raw("concurrency")
    if isinstance(value, str):
        found = _older_concurrency(section, value)
    elif (table := section.section("concurrency")) is not None:
        found = _concurrency_table(table)
    else:
        found = Concurrency()
    if protocol == "udp" and found.type == "requests":
        section.error("concurrency", "a udp service has no requests to count; use type connections")
    return found


def _concurrency_table(table: Section) -> Concurrency:
    unit = table.choice("type", ("connections", "requests"), "connections")
    soft, hard = table.integer("soft_limit", 1), table.integer("hard_limit", 1)
    if soft is not None and hard is not None and soft > hard:
        table.error("soft_limit", f"{soft} is above hard_limit {hard}")
    table.finish()
    if soft is None:
        soft = _DEFAULT_SOFT_LIMIT if hard is None else min(_DEFAULT_SOFT_LIMIT, hard)
    return Concurrency(unit, soft, hard)


def _older_concurrency(section: Section, text: str) -> Concurrency:
    """``"20,25"``: requests, soft and hard limit."""
    limits = _OLDER_CONCURRENCY.fullmatch(text)
    if limits is None:
        section.error(
            "concurrency", f'must be a table, or "SOFT,HARD" such as "20,25", not {quoted(text)}'
        )
        return Concurrency()
    soft, hard = int(limits[1]), int(limits[2])
    if soft > hard:
        section.error("concurrency", f"the soft limit {soft} is above the hard limit {hard}")
    return Concurrency("requests", soft, hard)
