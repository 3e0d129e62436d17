# SPDX-License-Identifier: Apache-2.0
"""Envoy's listeners, as its configuration has them (v3 API, JSON).

Nothing of an app is here. Whose a connection is follows from its local address,
the address that the client dialled, which is the name of what serves it:
``vhost`` and the ``…_name`` functions of ``flyebpf.proxy.names``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flyebpf.model.proxyrows import Chain
from flyebpf.model.records import TlsOptions
from flyebpf.proxy import acme, names, replay
from flyebpf.proxy.chains import Listener, Signed, pipe

Json = dict[str, Any]
TYPE = "type.googleapis.com/envoy.extensions"
ANYWHERE = ("0.0.0.0", "::")
"""Of a listener with an address Envoy would take that for a connection's local one."""
CLIENT_HELLO = "15s"  # how long a client may take for its TLS handshake
REQUEST_HEADERS = "60s"
DRAIN_STREAMS = 100
PIPE_BACKLOG = 4096
CONNECT_ATTEMPTS = 4  # machines that a connection may try
STRIPPED = (
    *("fly-client-ip", "fly-forwarded-port", "fly-region", "fly-request-id"),
    *("fly-preferred-instance-unavailable", "fly-replay-src", "fly-replay-failed", "fly-replay"),
    *("fly-replay-cache-status", "via"),
    *("x-forwarded-for", "x-forwarded-proto", "x-forwarded-port", "x-forwarded-ssl"),
    *("x-forwarded-host", "x-forwarded-client-cert", "x-request-id"),
)
"""Request headers that only the proxy may set: a client's are removed."""
ADS: Json = {"ads": {}, "resource_api_version": "V3"}


_QUEUED_TOO_LONG: Json = {
    "filter": {
        "and_filter": {
            "filters": [
                {"response_flag_filter": {"flags": ["SI"]}},
                {
                    "extension_filter": {
                        "name": "envoy.access_loggers.extension_filters.cel",
                        "typed_config": {
                            "@type": f"{TYPE}.access_loggers.filters.cel.v3.ExpressionFilter",
                            "expression": "!has(upstream.local_address)",
                        },
                    }
                },
            ]
        }
    },
    "status_code": 503,
}
"""A request that no machine had room for until it was idle for too long: Envoy would
say that a machine has not answered in time (504)."""


def listener(what: Listener) -> Json:
    """One listener, at ports that the kernel chooses: nobody can dial them, connections
    are given to their sockets (``bpf/steer_sklookup.c``)."""
    chain: Json = {"filters": _filters(what)}
    others: list[Json] = []
    if what.tls is not None:
        others.append(acme.chain(names.ADS_CLUSTER))
        chain["transport_socket"] = _tls(what.tls, what.signed)
        chain["transport_socket_connect_timeout"] = CLIENT_HELLO
    first, second = ANYWHERE
    return {
        **(_inspected() if what.tls is not None else {}),
        "name": what.name,
        "address": _at(first),
        "additional_addresses": [{"address": _at(second)}],
        "per_connection_buffer_limit_bytes": 65536,
        "ignore_global_conn_limit": False,
        "filter_chains": [*others, chain],
    }


def piped(what: Listener, folder: Path) -> Json:
    """A listener at a pipe, to which a PROXY header says whose a connection is."""
    made = listener(what)
    del made["additional_addresses"]
    header = {"@type": f"{TYPE}.filters.listener.proxy_protocol.v3.ProxyProtocol"}
    filters = [
        {"name": "envoy.filters.listener.proxy_protocol", "typed_config": header},
        *made.get("listener_filters", ()),
    ]
    return {
        **made,
        "address": {"pipe": {"path": str(pipe(folder, what)), "mode": 0o600}},
        "listener_filters": filters,
        "listener_filters_timeout": CLIENT_HELLO,
        "tcp_backlog_size": PIPE_BACKLOG,
    }


def _inspected() -> Json:
    """The server name is part of what routes and clusters are called by."""
    inspector = {"@type": f"{TYPE}.filters.listener.tls_inspector.v3.TlsInspector"}
    filters = [{"name": "envoy.filters.listener.tls_inspector", "typed_config": inspector}]
    return {"listener_filters": filters, "listener_filters_timeout": CLIENT_HELLO}


def _at(address: str) -> Json:
    return {"socket_address": {"address": address, "port_value": 0}}


def _filters(what: Listener) -> list[Json]:
    if what.chain in (Chain.HTTP, Chain.HTTPS):
        return [_http(what)]
    return [_cluster_by(names.cluster_format(what), names.asked_format(what)), _tcp()]


def _cluster_by(template: str, asked: str) -> Json:
    """Names the cluster of a connection, and tells it the server name."""
    values: list[Json] = [
        {"object_key": "envoy.tcp_proxy.cluster", **_format(template)},
        {
            "object_key": names.ASKED,
            "factory_key": "envoy.string",
            **_format(asked),
            "shared_with_upstream": "ONCE",
        },
    ]
    return {
        "name": "envoy.filters.network.set_filter_state",
        "typed_config": {
            "@type": f"{TYPE}.filters.network.set_filter_state.v3.Config",
            "on_new_connection": values,
        },
    }


def _format(template: str) -> Json:
    return {"format_string": {"text_format_source": {"inline_string": template}}}


def _tcp() -> Json:
    return {
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": f"{TYPE}.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "tcp",
            "cluster": names.NO_CLUSTER,
            "max_connect_attempts": CONNECT_ATTEMPTS,
            "idle_timeout": "3600s",
        },
    }


def _tls(options: TlsOptions, signed: Signed) -> Json:
    """Certificates are fetched by server name when a client asks for one. A resumed
    session would go on without being asked for its name, so none is."""
    versions = {"TLSv1.2": "TLSv1_2", "TLSv1.3": "TLSv1_3"}
    common: Json = {
        "tls_params": {
            "tls_minimum_protocol_version": versions[options.versions[0]],
            "tls_maximum_protocol_version": versions[options.versions[-1]],
        },
        "alpn_protocols": list(options.alpn),
    }
    if signed is Signed.ALL:
        secret = {"name": names.SELF_SIGNED, "sds_config": ADS}
        common["tls_certificate_sds_secret_configs"] = [secret]
    else:
        nameless = names.FOR_NAMELESS if signed else names.NO_SERVER_NAME
        common["custom_tls_certificate_selector"] = _by_server_name(nameless)
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{TYPE}.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": common,
            "disable_stateless_session_resumption": True,
            "disable_stateful_session_resumption": True,
        },
    }


def _by_server_name(nameless: str) -> Json:
    of = f"{TYPE}.transport_sockets.tls"
    mapper = {"@type": f"{of}.cert_mappers.sni.v3.SNI", "default_value": nameless}
    return {
        "name": "envoy.tls.certificate_selectors.on_demand_secret",
        "typed_config": {
            "@type": f"{of}.cert_selectors.on_demand_secret.v3.Config",
            "config_source": ADS,
            "certificate_mapper": {
                "name": "envoy.tls.certificate_mappers.sni",
                "typed_config": mapper,
            },
        },
    }


def _http(what: Listener) -> Json:
    manager: Json = {
        "@type": f"{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "codec_type": "AUTO",
        "scoped_routes": _scoped(),
        "early_header_mutation_extensions": [_strip(what)],
        "http_filters": _http_filters(what),
        "use_remote_address": True,
        "internal_address_config": {"cidr_ranges": []},
        "generate_request_id": True,
        "server_header_transformation": "PASS_THROUGH",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "common_http_protocol_options": {
            "idle_timeout": "60s",
            "headers_with_underscores_action": "ALLOW",
        },
        "http2_protocol_options": {
            "max_concurrent_streams": DRAIN_STREAMS,
            "initial_stream_window_size": 65536,
            "initial_connection_window_size": 1048576,
            "allow_connect": True,
        },
        "http_protocol_options": {"accept_http_10": True},
        "stream_idle_timeout": "60s",
        "request_headers_timeout": REQUEST_HEADERS,
        "local_reply_config": {"mappers": [_QUEUED_TOO_LONG]},
        "merge_slashes": False,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
    }
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}


def _scoped() -> Json:
    """The same for all listeners: they share what they know."""
    scope = {"header_value_extractor": {"name": names.SCOPE_HEADER, "index": 0}}
    return {
        "name": "flyebpf",
        "scope_key_builder": {"fragments": [scope]},
        "rds_config_source": ADS,
        "scoped_rds": {"scoped_rds_config_source": ADS},
    }


def _strip(what: Listener) -> Json:
    """Before anything looks at a request: what only the proxy may say goes. On an
    app's own address the name of its routes takes the place of the host's."""
    mutations: list[Json] = [{"remove_on_match": {"key_matcher": _reserved()}}]
    mutations.append(replay.asking())
    mutations += replay.found_by(what)
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {
            "@type": f"{TYPE}.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            "mutations": mutations,
        },
    }


def _reserved() -> Json:
    """Those names and the likes of ``Fly_Client_IP``: what is written with underscores
    is the same header for an app behind CGI or WSGI."""
    own = (name.replace("-", "[-_]") for name in STRIPPED)
    return {"safe_regex": {"regex": "|".join((*own, "x[-_](envoy|flyebpf)[-_].*"))}}


def _http_filters(what: Listener) -> list[Json]:
    compressor = {
        "@type": f"{TYPE}.filters.http.compressor.v3.Compressor",
        "compressor_library": {
            "name": "gzip",
            "typed_config": {"@type": f"{TYPE}.compression.gzip.compressor.v3.Gzip"},
        },
    }
    router = {
        "@type": f"{TYPE}.filters.http.router.v3.Router",
        "suppress_envoy_headers": True,
        "upstream_http_filters": replay.upstream_filters(what),
    }
    return [
        *replay.filters(),
        {"name": names.COMPRESSOR, "disabled": True, "typed_config": compressor},
        {"name": "envoy.filters.http.router", "typed_config": router},
    ]
