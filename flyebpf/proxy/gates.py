# SPDX-License-Identifier: Apache-2.0
"""Clusters that let in connections by the server name that their clients say.

Envoy names a connection's cluster before it shows a certificate, and looks up names
whole, so what a wildcard stands for cannot be in the cluster's name. A cluster knows
its app's names instead: a connection for any other one is given a transport socket
by which no machine can be reached, and its client is shown nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from flyebpf.proxy import names

Json = dict[str, Any]
TYPE = "type.googleapis.com"
SOCKETS = f"{TYPE}/envoy.extensions.transport_sockets"
INPUTS = f"{TYPE}/envoy.extensions.matching.common_inputs.transport_socket.v3"
RAW_SOCKET: Json = {
    "name": "envoy.transport_sockets.raw_buffer",
    "typed_config": {"@type": f"{SOCKETS}.raw_buffer.v3.RawBuffer"},
}
NOBODY = "0" * 64
"""The SHA-256 of a certificate that no machine has."""
LET_IN = "let-in"
NO_NAME = "-"
"""What Envoy writes for the server name of a client that says none."""


@dataclass(frozen=True, slots=True)
class Gate:
    """``hosts``: form as in ``ProxyRouteRow.hosts``. ``nameless``: clients that say no
    name come in too."""

    hosts: frozenset[str]
    nameless: bool = False

    def __or__(self, other: Gate) -> Gate:
        return Gate(self.hosts | other.hosts, self.nameless or other.nameless)


def gated(gate: Gate, socket: Json) -> Json:
    """What makes a cluster with this transport socket let in those of the gate alone,
    and those of listeners that have none."""
    hosts = (*sorted(gate.hosts), names.ANY, *((NO_NAME,) if gate.nameless else ()))
    return {
        "transport_socket": _closed(),
        "transport_socket_matches": [{"name": LET_IN, "match": {}, "transport_socket": socket}],
        "transport_socket_matcher": {
            "matcher_list": {"matchers": [_matcher(host) for host in hosts]}
        },
    }


def _closed() -> Json:
    """Its handshake fails with every machine, before anything of a client's is sent:
    at once, as no version of TLS is left, and there is no certificate that it takes."""
    validation = {"verify_certificate_hash": [NOBODY]}
    none = {
        "tls_minimum_protocol_version": "TLSv1_3",
        "tls_maximum_protocol_version": "TLSv1_2",
    }
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{SOCKETS}.tls.v3.UpstreamTlsContext",
            "common_tls_context": {"validation_context": validation, "tls_params": none},
        },
    }


def _matcher(host: str) -> Json:
    what = {
        "name": "server_name",
        "typed_config": {"@type": f"{INPUTS}.FilterStateInput", "key": names.ASKED},
    }
    action = {
        "name": LET_IN,
        "typed_config": {"@type": f"{INPUTS}.TransportSocketNameAction", "name": LET_IN},
    }
    return {
        "predicate": {"single_predicate": {"input": what, "value_match": _value(host)}},
        "on_match": {"action": action},
    }


def _value(host: str) -> Json:
    """A wildcard stands for one label (RFC 9525, section 6.3)."""
    if host.startswith("*."):
        regex = rf"[^.]+{re.escape(host[1:])}"
        return {"safe_regex": {"google_re2": {}, "regex": regex}}
    return {"exact": host}
