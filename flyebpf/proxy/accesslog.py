# SPDX-License-Identifier: Apache-2.0
"""The access log: a line of JSON for each request, and for each connection that is not
HTTP's, when it has ended. Envoy writes it; who rotates it renames the file and has the
daemon read its configuration again, which has Envoy open it anew."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
TYPE = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
BOTH = {
    "time": "%START_TIME%",
    "app": "%UPSTREAM_CLUSTER%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "server_name": "%REQUESTED_SERVER_NAME%",
    "tls": "%DOWNSTREAM_TLS_VERSION%",
    "machine": "%UPSTREAM_HOST%",
    "received": "%BYTES_RECEIVED%",
    "sent": "%BYTES_SENT%",
    "milliseconds": "%DURATION%",
    "flags": "%RESPONSE_FLAGS%",
}
HTTP = {
    "method": "%REQ(:METHOD)%",
    "host": "%REQ(:AUTHORITY)%",
    "path": "%REQ(:PATH)%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "agent": "%REQ(USER-AGENT)%",
}
FIELDS = {
    "envoy.filters.network.http_connection_manager": BOTH | HTTP,
    "envoy.filters.network.tcp_proxy": BOTH,
}


def logged(listener: Json, path: str) -> Json:
    """The listener with a log at ``path``; as it is for ""."""
    if not path:
        return listener
    chains = []
    for chain in listener["filter_chains"]:
        filters = [_logged(each, path) for each in chain["filters"]]
        chains.append({**chain, "filters": filters})
    return {**listener, "filter_chains": chains}


def _logged(each: Json, path: str) -> Json:
    fields = FIELDS.get(each["name"])
    if fields is None:
        return each
    config = {
        "@type": TYPE,
        "path": path,
        "log_format": {"json_format": fields},
    }
    log = {"name": "envoy.access_loggers.file", "typed_config": config}
    return {**each, "typed_config": {**each["typed_config"], "access_log": [log]}}
