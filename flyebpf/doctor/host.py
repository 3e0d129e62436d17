# SPDX-License-Identifier: Apache-2.0
"""Checks of the host as a whole."""

from __future__ import annotations

from collections.abc import Iterator

from flyebpf.api.backend import Severity
from flyebpf.doctor.check import Check, Finding, Patient, failed, ok, warning

SHOWN = 8
"""Problems that are told one by one."""


def look_at_problems(patient: Patient) -> Iterator[Finding]:
    """What the daemon knows to be wrong, a finding for each."""
    now = patient.backend.status()
    for problem in now.problems[:SHOWN]:
        say = failed if problem.severity is Severity.ERROR else warning
        yield say(f"{problem.object}: {problem.message}", problem.remedy)
    if len(now.problems) > SHOWN:
        yield failed(f"{len(now.problems) - SHOWN} more problems", "flyebpf status --json")
    elif not now.problems:
        yield ok("the daemon knows of no problem")


def look_at_sync(patient: Patient) -> Iterator[Finding]:
    """Whether the kernel holds what the store says."""
    now = patient.backend.status()
    if now.in_sync and not now.pending:
        yield ok(f"the kernel holds revision {now.applied_revision} of the store")
    else:
        yield warning(
            f"revision {now.applied_revision} of {now.store_revision} is applied,"
            f" {now.pending} rows are to go",
            "flyebpf status --wait",
        )


CHECKS = (Check("daemon", look_at_problems), Check("kernel-in-sync", look_at_sync))
