# SPDX-License-Identifier: Apache-2.0
"""Every check, in the order in which they are told: causes before what follows."""

from __future__ import annotations

from flyebpf.doctor import app, certificates, dns, health, host, listening, ways
from flyebpf.doctor.check import Check

CHECKS: tuple[Check, ...] = (
    *host.CHECKS,
    *dns.CHECKS,
    *app.CHECKS,
    *certificates.CHECKS,
    *health.CHECKS,
    *listening.CHECKS,
    *ways.CHECKS,
)
