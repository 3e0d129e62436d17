# SPDX-License-Identifier: Apache-2.0
"""What an authority of ACME meets that looks by TLS whether a name leads here (RFC 8737):
a chain of its own in every listener with TLS, whose certificates are found by server
name too, but are others: Envoy asks for them over streams of their own."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
TYPE = "type.googleapis.com/envoy.extensions"
PROTOCOL = "acme-tls/1"
SERVICE, METHOD = "envoy.service.secret.v3.SecretDiscoveryService", "DeltaSecrets"
NOBODY = "-"


def chain(cluster: str) -> Json:
    """``cluster``: the control plane's. After the handshake there is nothing to hear."""
    manager = {
        "@type": f"{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "acme",
        "route_config": {"name": "acme"},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{TYPE}.filters.http.router.v3.Router"},
            }
        ],
        "common_http_protocol_options": {"idle_timeout": "5s"},
    }
    return {
        "name": "acme",
        "filter_chain_match": {"application_protocols": [PROTOCOL]},
        "filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
        ],
        "transport_socket": _tls(cluster),
        "transport_socket_connect_timeout": "15s",
    }


def _tls(cluster: str) -> Json:
    of = f"{TYPE}.transport_sockets.tls"
    source = {
        "api_type": "DELTA_GRPC",
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": cluster}}],
    }
    selector = {
        "@type": f"{of}.cert_selectors.on_demand_secret.v3.Config",
        "config_source": {"api_config_source": source, "resource_api_version": "V3"},
        "certificate_mapper": {
            "name": "envoy.tls.certificate_mappers.sni",
            "typed_config": {"@type": f"{of}.cert_mappers.sni.v3.SNI", "default_value": NOBODY},
        },
    }
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{of}.v3.DownstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": [PROTOCOL],
                "custom_tls_certificate_selector": {
                    "name": "envoy.tls.certificate_selectors.on_demand_secret",
                    "typed_config": selector,
                },
            },
            "disable_stateless_session_resumption": True,
            "disable_stateful_session_resumption": True,
        },
    }
