# SPDX-License-Identifier: Apache-2.0
"""Checks of the certificates that clients of an app are shown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from flyebpf.doctor.check import Check, Finding, Patient, failed, ok, skipped, warning
from flyebpf.doctor.facts import TLS, Findings, facts
from flyebpf.model.certificates import Certificate
from flyebpf.model.hostnames import default_hostname
from flyebpf.ops.transact import every
from flyebpf.plan.services import Exposure

SOON = timedelta(days=14)


def look_at_certificates(patient: Patient) -> Findings:
    """Does each name that clients may ask for have one that they take?"""
    found = facts(patient)
    secure = [e for e in found.exposures if TLS.intersection(e.port.handlers)]
    own = every(patient.store, Certificate, app=found.app)
    if not secure and not own:
        yield skipped("no port of the app speaks TLS")
        return
    all_apps = f"*.{patient.backend.config.domain}"
    operators = [r for r in every(patient.store, Certificate, app="") if r.hostname == all_apps]
    default = default_hostname(found.app, patient.backend.config.domain)
    if secure and not operators and default not in {record.hostname for record in own}:
        yield _unnamed(found.app, default, secure, has_own=bool(own))
    now = datetime.now(UTC)
    for record in (*own, *operators):
        yield _validity(record, now)


def _unnamed(app: str, default: str, secure: list[Exposure], *, has_own: bool) -> Finding:
    """The app's default host name has no certificate."""
    options = [exposure.port.tls_options for exposure in secure]
    signed = all(found is not None and found.default_self_signed for found in options)
    say = warning if has_own or signed else failed
    then = "clients are shown one that it has signed itself" if signed else "the handshake fails"
    return say(
        f"{default}, the app's default host name, has no certificate: {then}",
        f"flyebpf certs add {default} -a {app}, or the operator's for all apps: --operator",
    )


def _validity(record: Certificate, now: datetime) -> Finding:
    end = datetime.fromisoformat(record.not_after)
    whose = f"-a {record.app}" if record.app else "--operator"
    renew = f"flyebpf certs add {record.hostname} {whose} with a new one"
    if end <= now:
        return failed(f"the certificate of {record.hostname} expired on {record.not_after}", renew)
    if datetime.fromisoformat(record.not_before) > now:
        return failed(
            f"the certificate of {record.hostname} is not valid before {record.not_before}",
            "see this host's clock, or wait",
        )
    if end - now < SOON:
        return warning(
            f"the certificate of {record.hostname} expires on {record.not_after},"
            f" in {(end - now).days} days",
            renew,
        )
    return ok(f"the certificate of {record.hostname} is valid until {record.not_after}")


CHECKS = (Check("app-certificates", look_at_certificates, of_app=True),)
