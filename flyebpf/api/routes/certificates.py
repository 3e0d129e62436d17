# SPDX-License-Identifier: Apache-2.0
"""Certificates of host names. Their keys come in, and never go out."""

from __future__ import annotations

from datetime import UTC, datetime

from flyebpf.api import views
from flyebpf.api.requests import Call
from flyebpf.api.schema import ref, string
from flyebpf.api.table import Route, items, page
from flyebpf.config import DaemonConfig
from flyebpf.model.certificates import Certificate
from flyebpf.model.records import App, Network
from flyebpf.ops import certificates

ALL = "/v1/certificates"
ONE = "/v1/certificates/{hostname}"


def list_all(call: Call) -> object:
    lookup = views.Lookup(call.store, App, Network)
    now = datetime.now(UTC)
    found = certificates.list_all(call.store, call.query.get("app"))
    return page([views.certificate(record, lookup, now) for record in found])


def add(call: Call) -> object:
    body, config = call.body, call.backend.config
    record = certificates.add(
        call.store,
        config,
        body["hostname"],
        body.get("app"),
        chain=body["certificate"],
        key=body["key"],
    )
    shown = views.certificate(record, views.Lookup(call.store), datetime.now(UTC))
    return {"certificate": shown, "warnings": warnings(config, record, shown)}


def warnings(config: DaemonConfig, record: Certificate, shown: views.Json) -> list[str]:
    """What works, but may not be what was meant."""
    found = []
    if record.self_issued:
        found.append(
            f"the certificate of {record.hostname} is self-signed: clients that were not told "
            "to trust it refuse it"
        )
    if shown["state"] == "expiring":
        found.append(f"the certificate of {record.hostname} expires on {record.not_after[:10]}")
    if config.store == "etcd" and any(url.startswith("http:") for url in config.etcd.endpoints):
        found.append(
            "the store is reached without TLS: whoever sees that network sees the key; "
            "give etcd.endpoints with https"
        )
    return found


def get(call: Call) -> object:
    record = certificates.get(call.store, call.path["hostname"])
    return views.certificate(record, views.Lookup(call.store), datetime.now(UTC))


def remove(call: Call) -> object:
    record = certificates.remove(call.store, call.path["hostname"], call.query.get("app"))
    return views.certificate(record, views.Lookup(call.store), datetime.now(UTC))


ROUTES = (
    Route(
        "GET",
        ALL,
        "certificates_list",
        "All certificates.",
        list_all,
        items("Certificate"),
        query={"app": string("Only this app's.")},
    ),
    Route(
        "POST",
        ALL,
        "certificates_add",
        "Serve a host name with a certificate; one that is there is replaced.",
        add,
        ref("CertificateAdded"),
        body=ref("CertificateAdd"),
        status=201,
    ),
    Route("GET", ONE, "certificates_get", "One certificate.", get, ref("Certificate")),
    Route(
        "DELETE",
        ONE,
        "certificates_remove",
        "Serve the host name no longer; answers what it was.",
        remove,
        ref("Certificate"),
        query={"app": string("Only if it is this app's.")},
    ),
)
