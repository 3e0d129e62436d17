# SPDX-License-Identifier: Apache-2.0
"""The named schemas of what the proxy serves."""

from __future__ import annotations

from flyebpf.api.components_cluster import NETWORK_FIELDS
from flyebpf.api.schema import (
    Schema,
    array,
    boolean,
    integer,
    mapping,
    nullable,
    number,
    obj,
    ref,
    string,
)

LONGEST = 65_536  # characters of PEM text

TLS_OPTIONS: dict[str, Schema] = {
    "alpn": array(string()),
    "versions": array(string()),
    "default_self_signed": boolean(),
}
HTTP_OPTIONS: dict[str, Schema] = {
    "compress": boolean(),
    "h2_backend": boolean(),
    "idle_timeout": nullable(integer("Seconds.")),
    "headers_read_timeout": nullable(integer("Seconds.")),
    "pristine": boolean(),
    "response_headers": mapping(array(string()), "What answers get; an empty list removes it."),
    "replay_cache": array(
        obj(
            {
                "path_prefix": string(),
                "type": string(enum=["cookie", "header"]),
                "name": string(),
                "ttl_seconds": integer(),
                "allow_bypass": boolean(),
            }
        )
    ),
}
PROXY: dict[str, Schema] = {
    "Proxy": obj(
        {
            "serving": boolean("Connections are given to Envoy."),
            "pid": integer("Envoy's; 0 while there is none."),
            "uptime": number("Envoy's, in seconds."),
            "restarts": integer("Envoys that ended by themselves since the daemon's start."),
            "listeners": integer("Of Envoy's that connections are given to."),
            "apps": integer("That it serves."),
        }
    ),
    "Certificate": obj(
        {
            "hostname": string("What clients ask for; *.example.com: any name one label below."),
            "app": string("Whose it is; empty: of all apps' default host names."),
            **NETWORK_FIELDS,
            "state": string("expiring: within 30 days.", enum=["valid", "expiring", "expired"]),
            "days_left": integer("Whole days until it expires; negative when it has."),
            "not_before": string("RFC 3339, UTC."),
            "not_after": string("RFC 3339, UTC: the first of its chain to expire."),
            "names": array(string("A DNS name that it is for.")),
            "issuer": string("Who signed it."),
            "self_issued": boolean("Its own subject has: clients trust it if they know it."),
            "key_type": string("As in ECDSA P-256."),
            "fingerprint": string("SHA-256 of the first of the chain, hex."),
            "created": string("When it was added. RFC 3339, UTC."),
        }
    ),
    "CertificateAdd": obj(
        {
            "hostname": string(),
            "certificate": string("PEM: the host's own, then the issuers'.", maxLength=LONGEST),
            "key": string("PEM, without a passphrase. Never shown again.", maxLength=LONGEST),
        },
        {"app": string("Left out: for all apps' default host names, *.<domain>.")},
    ),
    "AcmeName": obj(
        {
            "hostname": string("What clients ask for."),
            "app": string("Whose it is."),
            "state": string(
                "failed: the last order.", enum=["pending", "ordering", "issued", "failed"]
            ),
            "error": string("What the authority said of the last order; empty: nothing."),
            "attempts": integer("Orders that failed since the last one that did not."),
            "next_try": string("No order before. RFC 3339, UTC; empty: at once, or at renewal."),
            "host": string("Who orders it now, or empty."),
            "created": string("When it was asked for. RFC 3339, UTC."),
        }
    ),
    "AcmeAdd": obj({"hostname": string(), "app": string()}),
    "CertificateAdded": obj({"certificate": ref("Certificate"), "warnings": array(string())}),
}
