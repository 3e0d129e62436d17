# SPDX-License-Identifier: Apache-2.0
"""Host names that get their certificates by ACME."""

from __future__ import annotations

from datetime import UTC, datetime

from flyebpf.api import views
from flyebpf.api.requests import Call
from flyebpf.api.schema import ref, string
from flyebpf.api.table import Route, items, page
from flyebpf.model.acme import AcmeName
from flyebpf.ops import acme

ALL = "/v1/acme"
ONE = "/v1/acme/{hostname}"


def view(record: AcmeName) -> views.Json:
    ordering = bool(record.host) and record.lease > acme.text(datetime.now(UTC))
    return {
        "hostname": record.hostname,
        "app": record.app,
        "state": "ordering" if ordering else record.state.value,
        "error": record.error,
        "attempts": record.attempts,
        "next_try": record.next_try,
        "host": record.host if ordering else "",
        "created": record.created,
    }


def list_all(call: Call) -> object:
    return page([view(found) for found in acme.list_all(call.store, call.query.get("app"))])


def add(call: Call) -> object:
    config = call.backend.config
    return view(acme.want(call.store, config, call.body["hostname"], call.body["app"]))


def get(call: Call) -> object:
    return view(acme.get(call.store, call.path["hostname"]))


def check(call: Call) -> object:
    return view(acme.check(call.store, call.path["hostname"]))


def remove(call: Call) -> object:
    return view(acme.remove(call.store, call.path["hostname"]))


ROUTES = (
    Route(
        "GET",
        ALL,
        "acme_list",
        "All host names that get their certificates by ACME.",
        list_all,
        items("AcmeName"),
        query={"app": string("Only this app's.")},
    ),
    Route(
        "POST",
        ALL,
        "acme_add",
        "Get a host name a certificate by ACME, now and whenever one ends.",
        add,
        ref("AcmeName"),
        body=ref("AcmeAdd"),
        status=201,
    ),
    Route("GET", ONE, "acme_get", "One such host name.", get, ref("AcmeName")),
    Route(
        "POST",
        f"{ONE}/check",
        "acme_check",
        "Have a name whose order failed tried again at once.",
        check,
        ref("AcmeName"),
    ),
    Route(
        "DELETE",
        ONE,
        "acme_remove",
        "Order no more certificates for it; answers what it was.",
        remove,
        ref("AcmeName"),
    ),
)
