# SPDX-License-Identifier: Apache-2.0
"""The whole file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import Any

from flyebpf.errors import InvalidError
from flyebpf.flytoml.checks import named_checks
from flyebpf.flytoml.overlaps import check_overlaps
from flyebpf.flytoml.problems import Problems
from flyebpf.flytoml.section import Section
from flyebpf.flytoml.services import Groups, ParsedService, services
from flyebpf.model import names
from flyebpf.model.records import Check, Service

LARGEST = 64 * 1024  # characters
MOST_PORTS = 512  # the proxy of each host has a cluster for each of them
MOST_CHECKS = 50  # each of them is run for each machine, as often as once a second

_OF_OTHERS = (
    # Valid in a fly.toml, for whoever builds the image and runs the VM.
    "build",
    "console_command",
    "deploy",
    "env",
    "experimental",
    "files",
    "host_dedication_id",
    "kill_signal",
    "kill_timeout",
    "machine_config",
    "metrics",
    "mounts",
    "restart",
    "statics",
    "swap_size_mb",
    "vm",
)


@dataclass(frozen=True, slots=True)
class ParsedConfig:
    """A valid file. ``app`` and ``primary_region`` are empty when it names none.

    Every service has its process groups named. ``warnings`` are lines for the
    user, each with its key path.
    """

    app: str
    primary_region: str
    services: tuple[Service, ...]
    checks: tuple[Check, ...]
    processes: tuple[str, ...]
    warnings: tuple[str, ...]


def parse(text: str, *, strict: bool = False) -> ParsedConfig:
    """Read the text of a fly.toml.

    Raises InvalidError that lists everything wrong, each with its key path and
    line. Unknown keys are warnings, or with ``strict`` errors.
    """
    if len(text) > LARGEST:
        raise InvalidError(
            f"fly.toml has {len(text)} characters, more than {LARGEST}", "is it the right file?"
        )
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise InvalidError("fly.toml is nested too deeply", "write it flatter") from None
    except ValueError as error:  # TOMLDecodeError, and integers that are too long
        raise InvalidError(f"fly.toml is not valid TOML: {error}", "correct it") from error
    return parse_table(table, strict=strict, text=text)


def parse_table(table: dict[str, Any], *, strict: bool = False, text: str = "") -> ParsedConfig:
    """As :func:`parse`, from what the TOML says; ``text`` is for line numbers."""
    problems = Problems(text, strict=strict)
    document = Section(table, "", problems)
    groups = _groups(document)
    found = services(document, groups)
    checks = named_checks(document)
    check_overlaps(found, problems)
    _check_groups_of_checks(checks, groups, problems)
    _check_ports(found, problems)
    count = len(checks) + sum(len(parsed.service.checks) for parsed in found)
    if count > MOST_CHECKS:
        problems.error("checks", f"the app has {count} of them, more than {MOST_CHECKS}")
    app = document.named("app", names.app_name)
    region = document.named("primary_region", names.region)
    document.ignore(*_OF_OTHERS)
    document.finish()
    problems.raise_errors()
    return ParsedConfig(
        app=app,
        primary_region=region,
        services=tuple(parsed.service for parsed in found),
        checks=tuple(check for _, check in checks),
        processes=groups.names,
        warnings=tuple(problems.warnings),
    )


def _check_ports(found: list[ParsedService], problems: Problems) -> None:
    """A range without handlers is one for the proxy, too."""
    ports = [port for parsed in found for port in parsed.service.ports]
    count = sum(port.end - port.start + 1 if port.handlers else 1 for port in ports)
    if count > MOST_PORTS:
        problems.error(
            "services",
            f"have {count} ports, more than {MOST_PORTS}; a range without handlers counts as one",
        )


def _groups(document: Section) -> Groups:
    """The names of ``[processes]``; its values are commands, for the VM's maker."""
    section = document.section("processes")
    found: list[str] = []
    for name in document.raw("processes") if section is not None else ():
        assert section is not None
        section.string(name)
        try:
            found.append(names.group_name(name))
        except InvalidError as error:
            section.error(name, f"{error.message}; {error.remedy}")
    return Groups(tuple(found), declared=True) if found else Groups()


def _check_groups_of_checks(
    checks: list[tuple[str, Check]], groups: Groups, problems: Problems
) -> None:
    for path, check in checks:
        for name in check.processes:
            if name not in groups.names:
                hint = names.did_you_mean(name, groups.names)
                known = hint or f"there is {', '.join(groups.names)}"
                problems.error(
                    f"{path}.processes",
                    f"the app has no process group {names.quoted(name)}; {known}",
                )
