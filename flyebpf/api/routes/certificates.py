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
EXPIRING = 30  # days


def view(record: Certificate, lookup: views.Lookup, now: datetime) -> views.Json:
    """Field by field, so that nothing secret can come along."""
    left = _seconds_to(record.not_after, now)
    return {
        "hostname": record.hostname,
        "app": record.app,
        **views.network_fields(lookup.network_of(record.app) if record.app else None),
        "state": "expired" if left <= 0 else "expiring" if left < EXPIRING * 86400 else "valid",
        "days_left": int(left // 86400),
        "not_before": record.not_before,
        "not_after": record.not_after,
        "names": list(record.names),
        "issuer": record.issuer,
        "self_issued": record.self_issued,
        "key_type": record.key_type,
        "fingerprint": record.fingerprint,
        "created": record.created,
    }


def _seconds_to(text: str, now: datetime) -> float:
    """0 where a hand wrote what is no time."""
    try:
        return (datetime.fromisoformat(text) - now).total_seconds()
    except (ValueError, TypeError):
        return 0.0


def list_all(call: Call) -> object:
    lookup = views.Lookup(call.store, App, Network)
    now = datetime.now(UTC)
    found = certificates.list_all(call.store, call.query.get("app"))
    return page([view(record, lookup, now) for record in found])


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
    shown = view(record, views.Lookup(call.store), datetime.now(UTC))
    return {"certificate": shown, "warnings": warnings(config, record, shown)}


def warnings(config: DaemonConfig, record: Certificate, shown: views.Json) -> list[str]:
    """What works, but may not be what was meant."""
    found = []
    if record.self_issued:
        found.append(
            f"the certificate of {record.hostname} is self-signed: clients that were not told "
            "to trust it refuse it"
        )
    if config.proxy.engine == "none":
        found.append(
            "no proxy runs, so no certificate is served yet: "
            'set proxy.engine = "envoy" in the configuration of all hosts'
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
    return view(record, views.Lookup(call.store), datetime.now(UTC))


def remove(call: Call) -> object:
    record = certificates.remove(call.store, call.path["hostname"], call.query.get("app"))
    return view(record, views.Lookup(call.store), datetime.now(UTC))


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
