# SPDX-License-Identifier: Apache-2.0
"""Checks of an app's own health checks: which of them keep machines out of services."""

from __future__ import annotations

from flyebpf.doctor.check import Check, Finding, Patient, failed, ok, skipped, warning
from flyebpf.doctor.facts import SHOWN, Findings, facts, of_machine
from flyebpf.model.health import MachineChecks, NamedCheck, check_groups, checks_of
from flyebpf.model.records import Machine
from flyebpf.ops.transact import every


def look_at_checks(patient: Patient) -> Findings:
    """Do the checks of its started machines pass?"""
    found = facts(patient)
    named = list(checks_of(found.deployment)) if found.deployment else []
    if not named or found.deployment is None:
        yield skipped("the app has no health check")
        return
    results = {record.machine: record for record in every(patient.store, MachineChecks)}
    failing: list[Finding] = []
    for check in named:
        groups = check_groups(found.deployment, check)
        machines = [machine for machine in found.started() if machine.group in groups]
        critical = [m for m in machines if m.id in results and results[m.id].fails([check.name])]
        if critical:
            all_ = len(critical) == len(machines)
            failing.append(_told(found.app, check, critical, results, all_fail=all_))
    yield from failing
    if not failing:
        yield ok(f"none of {len(named)} health checks fails")


def _told(
    app: str,
    check: NamedCheck,
    critical: list[Machine],
    results: dict[str, MachineChecks],
    *,
    all_fail: bool,
) -> Finding:
    """One that routing follows from is a failure where no machine is left."""
    first = critical[0]
    output = next(r.output for r in results[first.id].results if r.name == check.name)
    who = ", ".join(of_machine(machine) for machine in critical[:SHOWN])
    routing = check.service is not None
    effect = ", which get nothing new of its service" if routing else "; nothing follows from it"
    say = failed if routing and all_fail else warning
    return say(
        f"{check.name} (port {check.port}) fails on {who}{effect}: {output}",
        f"flyebpf checks list -a {app}, and in the machine ask what it asks",
    )


CHECKS = (Check("app-checks", look_at_checks, of_app=True),)
