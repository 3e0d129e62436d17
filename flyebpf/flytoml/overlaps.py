# SPDX-License-Identifier: Apache-2.0
"""No port of a protocol may lead to two places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flyebpf.flytoml.problems import Problems
from flyebpf.flytoml.services import ParsedService


@dataclass(frozen=True, slots=True, order=True)
class _Range:
    start: int
    end: int
    service: str
    path: str

    def __str__(self) -> str:
        numbers = str(self.start) if self.start == self.end else f"{self.start}-{self.end}"
        return f"port {numbers}" if self.start == self.end else f"ports {numbers}"


def check_overlaps(services: Sequence[ParsedService], problems: Problems) -> None:
    """Report each port range that overlaps one before it in port order."""
    for protocol in ("tcp", "udp"):
        widest: _Range | None = None
        for this in sorted(_ranges(services, protocol)):
            if widest is not None and this.start <= widest.end:
                _report(problems, protocol, widest, this)
            if widest is None or this.end > widest.end:
                widest = this


def _ranges(services: Sequence[ParsedService], protocol: str) -> list[_Range]:
    return [
        _Range(port.start, port.end, parsed.path, path)
        for parsed in services
        if parsed.service.protocol == protocol
        for port, path in zip(parsed.service.ports, parsed.port_paths, strict=True)
    ]


def _report(problems: Problems, protocol: str, one: _Range, other: _Range) -> None:
    both = one.service if one.service == other.service else f"{one.service} and {other.service}"
    problems.error(
        other.path,
        f"{protocol} {other} of {other.service} overlaps {one} of {one.service}; "
        f"change the ports of {both}",
    )
