# SPDX-License-Identifier: Apache-2.0
"""The frame of the checks: what one gets, what it says, and how all are run.

A check is a function from a :class:`Patient` to findings. It asks and looks, and
changes nothing. What it raises becomes a failed finding of its name, so that one
that cannot be made never hides the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from flyebpf.api.backend import Backend
from flyebpf.errors import FlyebpfError
from flyebpf.model.records import App, Network
from flyebpf.store.base import Store, StoreUnavailableError

log = logging.getLogger(__name__)


class State(StrEnum):
    """``WARNING``: works, but not as well as it should. ``SKIPPED``: there is
    nothing to look at; ``message`` says why."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """``message``: what was found, and where it is wrong the cause. ``remedy``: a
    command, or what else to do; empty for what is well."""

    state: State
    message: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Patient:
    """``app`` and its ``network``: None where only the host is looked at."""

    backend: Backend
    store: Store
    app: App | None = None
    network: Network | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """``name``: stable, for programs. ``of_app``: it is about an app, and left out
    without one."""

    name: str
    look: Callable[[Patient], Iterable[Finding]]
    of_app: bool = False


def ok(message: str) -> Finding:
    return Finding(State.OK, message)


def warning(message: str, remedy: str) -> Finding:
    return Finding(State.WARNING, message, remedy)


def failed(message: str, remedy: str) -> Finding:
    return Finding(State.FAILED, message, remedy)


def skipped(message: str, remedy: str = "") -> Finding:
    return Finding(State.SKIPPED, message, remedy)


def examine(checks: Sequence[Check], patient: Patient, only: str = "") -> list[tuple[str, Finding]]:
    """Each check's name and what it found, in their order. ``only``: of those whose
    names begin so."""
    return [
        (check.name, finding)
        for check in checks
        if (patient.app is not None or not check.of_app) and check.name.startswith(only)
        for finding in _looked(check, patient)
    ]


def _looked(check: Check, patient: Patient) -> list[Finding]:
    try:
        return _found(check, patient)
    except FlyebpfError as error:
        return [failed(error.message, error.remedy)]
    except Exception as error:
        log.exception("a fault of the check %s itself", check.name)
        fault = f"a fault of the check itself: {type(error).__name__}: {error}"
        return [failed(fault, "see the daemon's log, and report it")]


def _found(check: Check, patient: Patient) -> list[Finding]:
    """With what this host read of the store last, while that is away: a store that is
    away is a problem of its own, not of everything that is looked at."""
    try:
        return list(check.look(patient))
    except StoreUnavailableError:
        copy = patient.backend.remembered()
        if copy is None:
            raise
        return list(check.look(replace(patient, store=copy)))
