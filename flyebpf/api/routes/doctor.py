# SPDX-License-Identifier: Apache-2.0
"""Everything that can be looked at, and what is wrong with it."""

from __future__ import annotations

from flyebpf.api.requests import Call
from flyebpf.api.schema import string
from flyebpf.api.table import Route, items, page
from flyebpf.doctor.all import CHECKS
from flyebpf.doctor.check import Patient, examine
from flyebpf.model.records import Network
from flyebpf.ops import apps
from flyebpf.ops.transact import find


def doctor(call: Call) -> object:
    patient = Patient(call.backend, call.store)
    if "app" in call.query:
        app = apps.get(call.store, call.query["app"])
        network = find(call.store, Network, f"{app.org}/{app.network}")
        patient = Patient(call.backend, call.store, app, network)
    return page(
        [
            {
                "check": name,
                "state": finding.state.value,
                "message": finding.message,
                "remedy": finding.remedy,
            }
            for name, finding in examine(CHECKS, patient, call.query.get("only", ""))
        ]
    )


ROUTES = (
    Route(
        "GET",
        "/v1/doctor",
        "doctor",
        "Look at this host, and at an app's names and ways.",
        doctor,
        items("Finding"),
        query={
            "app": string("Look at this app too."),
            "only": string("Only checks whose names begin so."),
        },
    ),
)
