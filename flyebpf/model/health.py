# SPDX-License-Identifier: Apache-2.0
"""Health checks: what they are called, and what the store holds of their results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from flyebpf.model.records import Check, Deployment


@dataclass(frozen=True, slots=True)
class CheckResult:
    """``output``: why it fails, "" while it passes. ``since``: when it began to,
    RFC 3339, UTC."""

    name: str
    passing: bool
    output: str = ""
    since: str = ""


@dataclass(frozen=True, slots=True)
class MachineChecks:
    """The results of a machine's checks, by name; its host writes them, when one has
    changed. A check without a result has not been run yet."""

    kind: ClassVar[str] = "machine_checks"
    machine: str
    results: tuple[CheckResult, ...] = ()

    @property
    def ident(self) -> str:
        return self.machine

    def fails(self, names: Iterable[str]) -> bool:
        """Whether one of these checks does."""
        wanted = set(names)
        return any(result.name in wanted and not result.passing for result in self.results)


@dataclass(frozen=True, slots=True)
class NamedCheck:
    """``service``: the number of the service that it belongs to, whose traffic follows
    from it; None for one that is only reported. ``port``: in the VM."""

    name: str
    check: Check
    port: int
    service: int | None = None


def check_groups(deployment: Deployment, named: NamedCheck) -> tuple[str, ...]:
    """The process groups whose machines the check is for."""
    if named.service is None:
        return named.check.processes or deployment.processes
    processes = deployment.services[named.service].processes
    if processes:
        return processes
    return deployment.processes if len(deployment.processes) == 1 else ()


def checks_of(deployment: Deployment) -> Iterator[NamedCheck]:
    """All checks of an app. Those of services are called
    ``servicecheck-<number>-<type>-<port>``, counted through the app."""
    count = 0
    for number, service in enumerate(deployment.services):
        for check in service.checks:
            name = f"servicecheck-{count:02d}-{check.type}-{service.internal_port}"
            yield NamedCheck(name, check, service.internal_port, number)
            count += 1
    for check in deployment.checks:
        yield NamedCheck(check.name, check, check.port or 0)
