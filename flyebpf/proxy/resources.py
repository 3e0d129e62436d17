# SPDX-License-Identifier: Apache-2.0
"""Rows as Envoy's resources (v3 API, JSON): pure functions.

A resource is (type, name, body). Types are those of :class:`Type`; virtual hosts
are no resources of Envoy's by themselves: the control plane joins them to route
configurations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from flyebpf.model.proxyrows import (
    Chain,
    ProxyBindRow,
    ProxyCertificateRow,
    ProxyChallengeRow,
    ProxyClusterRow,
    ProxyEndpoint,
    ProxyRouteRow,
    ProxyRow,
    ProxySniRow,
)
from flyebpf.proxy import appstats, names, replay, wake
from flyebpf.proxy.chains import INNER, Signed, pipe
from flyebpf.proxy.gates import RAW_SOCKET, SOCKETS, Gate, gated

Json = dict[str, Any]
ACME_PATH = "/.well-known/acme-challenge/"
CONNECT_TIMEOUT = "5s"
IDLE = 60  # seconds, where the app says nothing
LIMITED_IDLE = 1
"""The same of a machine with a hard limit: connections that only wait for requests
count, too, and those of one of Envoy's threads are of no use to the others."""
KEPT = 4
"""Seconds that a connection to a machine is kept for another request: less than common
servers do (Node: 5), which would end it under that request."""
RETRY: dict[str, Any] = {
    "retry_on": "connect-failure,refused-stream,reset-before-request",
    "num_retries": 4,
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {
                "@type": "type.googleapis.com/"
                "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
            },
        }
    ],
    "host_selection_retry_max_attempts": "3",
}
"""What no machine has seen yet goes to another one, whatever its method."""
OUTLIERS: dict[str, Any] = {
    "split_external_local_origin_errors": True,
    "consecutive_local_origin_failure": 3,
    "enforcing_consecutive_local_origin_failure": 100,
    "enforcing_local_origin_success_rate": 0,
    "enforcing_consecutive_5xx": 0,
    "enforcing_consecutive_gateway_failure": 0,
    "enforcing_success_rate": 0,
    "interval": "1s",
    "base_ejection_time": "1s",
    "max_ejection_time": "10s",
    "max_ejection_percent": 50,
}
"""A machine that cannot be connected to is left out for a while where there are others:
it would be the least loaded one. What it answers is its own business."""
MANY = 1_000_000
QUEUE = 1024
"""Requests or connections of a cluster that wait for a machine at its hard limit."""
HEADER, HEADERS = 16384, 1000
"""Bytes of a header, and headers of a virtual host. Of one with more, or with ``host``,
Envoy would refuse the routes of all apps; ``deploy`` allows less."""
SERVER = "flyebpf"
HTTPS_PORT = 443
ADS: Json = {"ads": {}, "resource_api_version": "V3"}
OVERWRITE = "OVERWRITE_IF_EXISTS_OR_ADD"
TYPE = "type.googleapis.com/envoy"
LEAST_LOADED: Json = {
    "policies": [
        {
            "typed_extension_config": {
                "name": "envoy.load_balancing_policies.least_request",
                "typed_config": {
                    "@type": f"{TYPE}.extensions.load_balancing_policies.least_request.v3"
                    ".LeastRequest",
                    "selection_method": "FULL_SCAN",
                },
            }
        }
    ]
}
"""Of all machines of a priority, not the better one of two: so none is at a limit as
long as another one is not. Ties are random."""
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


class Type(StrEnum):
    """Kinds of resources."""

    CLUSTER = "cluster"
    ENDPOINTS = "endpoints"
    VHOST = "vhost"  # name: <route configuration>|<route>
    ROUTES = "routes"  # what virtual hosts of one name are joined to
    CERTIFICATE = "certificate"
    CHALLENGE = "challenge"  # a certificate that only an authority of ACME is shown
    APP = "app"  # not Envoy's: a file that Lua reads
    LOADS = "loads"  # a cluster that Envoy is to report of


class Resource(NamedTuple):
    """``body`` of a certificate: as :func:`certificate` says."""

    type: Type
    name: str
    body: Json


def endpoints(row: ProxyClusterRow, name: str, naps: int = 0) -> Resource:
    """Of the cluster of this name. Each priority is a group by itself; one without a
    healthy machine leaves all to the next. ``naps``: see ``flyebpf.proxy.wake``."""
    groups: dict[tuple[int, str], list[Json]] = {}
    for endpoint in row.endpoints:
        groups.setdefault((endpoint.priority, endpoint.region), []).append(_endpoint(endpoint))
    if row.wakes and naps:  # the last one: priorities have no gaps
        last = max((priority for priority, _ in groups), default=-1)
        groups[last + 1, ""] = wake.endpoints(row.name, naps, awake=not row.sleeps)
    body = {
        "cluster_name": name,
        "endpoints": [
            {"priority": priority, "locality": {"region": region}, "lb_endpoints": members}
            for (priority, region), members in sorted(groups.items())
        ],
        "policy": {"overprovisioning_factor": 100_000},
    }
    return Resource(Type.ENDPOINTS, name, body)


def _endpoint(endpoint: ProxyEndpoint) -> Json:
    address = {"address": endpoint.address, "port_value": endpoint.port}
    body: Json = {"endpoint": {"address": {"socket_address": address}}}
    if endpoint.draining:
        body["health_status"] = "DRAINING"
    return body


def cluster(row: ProxyClusterRow, name: str, gate: Gate | None = None) -> Resource:
    """A cluster of this name with the row's machines. Its endpoints are its own: Envoy
    asks once for a name, and a second cluster that shares it would wait for them."""
    body: Json = {
        "name": name,
        "alt_stat_name": appstats.name_of(row.app),
        "type": "EDS",
        "eds_cluster_config": {"eds_config": ADS},
        "connect_timeout": CONNECT_TIMEOUT,
        "load_balancing_policy": LEAST_LOADED,
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"},
        "circuit_breakers": _limits(row),
        "outlier_detection": OUTLIERS,
    }
    if row.http:
        body["typed_extension_protocol_options"] = {HTTP_OPTIONS: _http_options(row)}
    socket = _proxy_proto(row.proxy_proto) if row.proxy_proto else RAW_SOCKET
    if gate is not None:
        body |= gated(gate, socket)
    elif row.proxy_proto:
        body["transport_socket"] = socket
    return Resource(Type.CLUSTER, name, body)


def is_shared(row: ProxyClusterRow) -> bool:
    """Whether one cluster serves under all its names, since its machines' limit is one."""
    return not row.http and row.hard is not None


def shared_alias(row: ProxyClusterRow, name: str) -> Resource:
    """Another name for the row's cluster."""
    aggregate = f"{TYPE}.extensions.clusters.aggregate.v3.ClusterConfig"
    config = {"@type": aggregate, "clusters": [row.name]}
    body: Json = {
        "name": name,
        "cluster_type": {"name": "envoy.clusters.aggregate", "typed_config": config},
        "connect_timeout": CONNECT_TIMEOUT,
        "lb_policy": "CLUSTER_PROVIDED",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"},
        "circuit_breakers": _limits(row),
    }
    return Resource(Type.CLUSTER, name, body)


def _limits(row: ProxyClusterRow) -> Json:
    everything = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
    limits: Json = {"thresholds": [dict.fromkeys(everything, MANY)]}
    if row.hard is not None:
        limits["thresholds"][0]["max_pending_requests"] = QUEUE
        limits["per_host_thresholds"] = [{"max_connections": row.hard}]
    return limits


def _http_options(row: ProxyClusterRow) -> Json:
    """Requests over HTTP/2 are counted as connections, too: one each."""
    protocol = "http2_protocol_options" if row.h2 else "http_protocol_options"
    alone = row.h2 and row.hard is not None and row.limit == "requests"
    options: Json = {
        "@type": f"type.googleapis.com/{HTTP_OPTIONS}",
        "explicit_http_config": {protocol: {"max_concurrent_streams": 1} if alone else {}},
        "common_http_protocol_options": {
            "idle_timeout": f"{KEPT if row.hard is None else LIMITED_IDLE}s"
        },
    }
    return options


def _proxy_proto(version: str) -> Json:
    return {
        "name": "envoy.transport_sockets.upstream_proxy_protocol",
        "typed_config": {
            "@type": f"{SOCKETS}.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
            "config": {"version": version.upper()},
            "transport_socket": RAW_SOCKET,
        },
    }


def routes(row: ProxyRow, name: str) -> Resource:
    """A route configuration without its virtual hosts: what all apps' requests get."""
    tls = name.endswith("https")
    shared = name.startswith("shared")
    inner = name == names.INNER_ROUTES
    headers = {
        **({"x-forwarded-proto": "https"} if inner else {}),
        "fly-client-ip": f"%DOWNSTREAM_{'' if inner else 'DIRECT_'}REMOTE_ADDRESS_WITHOUT_PORT%",
        "fly-forwarded-port": "%DOWNSTREAM_LOCAL_PORT%",
        "fly-region": row.region,
        "x-forwarded-port": "%DOWNSTREAM_LOCAL_PORT%",
        "x-forwarded-ssl": "on" if tls else "off",
        "via": f"%PROTOCOL% {SERVER}",
    }
    body: Json = {
        "name": name,
        "request_headers_to_add": [_header(key, value) for key, value in headers.items()],
        "request_headers_to_remove": [
            *(names.VHOST_HEADER, names.SCOPE_HEADER, "x-envoy-external-address"),
            *("x-envoy-internal", "x-envoy-expected-rq-timeout-ms"),
        ],
    }
    if shared:
        body["ignore_port_in_host_matching"] = True
    else:
        body["vhost_header"] = names.VHOST_HEADER
    return Resource(Type.ROUTES, name, body)


def _header(key: str, value: str) -> Json:
    return {"header": {"key": key, "value": value}, "append_action": OVERWRITE}


def signed_for(bind: ProxyBindRow, certificates: Sequence[ProxyCertificateRow]) -> Signed:
    """``certificates``: the app's."""
    if bind.tls is None or not bind.tls.default_self_signed:
        return Signed.NONE
    return Signed.NAMELESS if certificates else Signed.ALL


def vhosts(
    row: ProxyRouteRow,
    binds: Iterable[ProxyBindRow],
    certificates: Sequence[ProxyCertificateRow],
    challenges: Sequence[ProxyChallengeRow] = (),
    snis: Sequence[ProxySniRow] = (),
    *,
    cached: bool = False,
) -> Iterator[Resource]:
    """The route on its app's own addresses (``binds`` lead to it) and on shared ones.
    ``certificates`` and ``challenges``: the app's. ``snis``: that lead to it. ``cached``:
    it may be remembered where its requests go."""
    kind = Chain.HTTPS if row.tls else Chain.HTTP
    own = sorted({domain for bind in binds for domain in _domains(bind, certificates)})
    shared = sorted(set(row.hosts))
    inner = sorted({domain for sni in snis for domain in names.inner_domains(sni.host, sni.port)})
    found = ((f"own-{kind}", own), (f"shared-{kind}", shared), (names.INNER_ROUTES, inner))
    for name, domains in found:
        if domains:
            full = f"{name}|{row.name}"
            body = _vhost(row, domains, cached)
            if not row.tls:
                body["routes"] = [*map(_challenge, challenges), *body["routes"]]
            yield Resource(Type.VHOST, full, body)


def _challenge(row: ProxyChallengeRow) -> Json:
    """HTTP-01 (RFC 8555, section 8.3), whatever else the app does with such requests."""
    answer = {"status": 200, "body": {"inline_string": row.answer}}
    return {"match": {"path": f"{ACME_PATH}{row.token}"}, "direct_response": answer}


def challenge(row: ProxyChallengeRow) -> Resource:
    """As :func:`certificate`, of TLS-ALPN-01 (RFC 8737)."""
    return Resource(
        Type.CHALLENGE, row.hostname, _secret((row.hostname,), row.chain, row.private_key)
    )


def _domains(bind: ProxyBindRow, certificates: Sequence[ProxyCertificateRow]) -> Iterator[str]:
    server_names = {host for row in certificates for host in row.hosts}
    for port in range(bind.first_port, bind.last_port + 1):
        if bind.tls is None:
            yield names.vhost_domain(bind.address, port)
        elif signed_for(bind, certificates) is Signed.ALL:
            yield names.vhost_domain(bind.address, port, "")
            yield names.vhost_domain(bind.address, port, "*")
        else:
            for name in (*server_names, ""):
                yield names.vhost_domain(bind.address, port, name)


def _vhost(row: ProxyRouteRow, domains: list[str], cached: bool) -> Json:
    routed = [_route(row)]
    if "route" in routed[0]:
        routed[:0] = replay.routes(row, _idle(row), cached=cached)
    body: Json = {"name": row.name, "domains": domains, "routes": routed}
    body["request_body_buffer_limit"] = replay.LARGEST
    body["retry_policy"] = RETRY
    add, remove = _response(row)
    if add:
        body["response_headers_to_add"] = add
    if remove:
        body["response_headers_to_remove"] = remove
    if row.options.compress:
        on = {"@type": f"{TYPE}.config.route.v3.FilterConfig", "config": {}}
        body["typed_per_filter_config"] = {names.COMPRESSOR: on}
    return body


def _response(row: ProxyRouteRow) -> tuple[list[Json], list[str]]:
    add: list[Json] = []
    if not row.options.pristine:
        add += [_header("fly-request-id", "%REQ(X-REQUEST-ID)%"), _header("server", SERVER)]
        via = {"key": "via", "value": f"%PROTOCOL% {SERVER}"}
        add.append({"header": via, "append_action": "APPEND_IF_EXISTS_OR_ADD"})
    remove: list[str] = []
    for key, values in row.options.response_headers:
        if key.lower() == "host" or len(key) > HEADER or len(remove) >= HEADERS:
            continue
        remove.append(key)
        for value in values:
            escaped = value.replace("%", "%%")
            header = {"key": key, "value": escaped}
            if len(escaped.encode()) <= HEADER and len(add) < HEADERS:
                add.append({"header": header, "append_action": "APPEND_IF_EXISTS_OR_ADD"})
    return add, remove


def _route(row: ProxyRouteRow) -> Json:
    match = {"prefix": "/"}
    if row.force_https:
        return {"match": match, "redirect": _to_https(row)}
    if not row.cluster:
        return {"match": match, "direct_response": {"status": 503}}
    action = {
        "cluster": row.cluster,
        "timeout": "0s",
        "idle_timeout": _idle(row),
        "internal_redirect_policy": replay.policy(),
    }
    return {"match": match, "route": action}


def _idle(row: ProxyRouteRow) -> str:
    return f"{row.options.idle_timeout or IDLE}s"


def _to_https(row: ProxyRouteRow) -> Json:
    """Of port 80 Envoy leaves the number away; any other would go into the new URL."""
    redirect: Json = {"https_redirect": True, "response_code": "MOVED_PERMANENTLY"}
    if row.name != f"{row.app}/80":
        redirect["port_redirect"] = HTTPS_PORT
    return redirect


def gate_of(bind: ProxyBindRow, certificates: Sequence[ProxyCertificateRow]) -> Gate | None:
    """Whom the bind's cluster lets in; None for everybody. ``certificates``: the app's."""
    signed = signed_for(bind, certificates)
    if bind.chain not in (Chain.TLS, Chain.PG_TLS) or signed is Signed.ALL:
        return None
    hosts = frozenset(host for row in certificates for host in row.hosts)
    return Gate(hosts, nameless=signed is Signed.NAMELESS)


def aliases(
    bind: ProxyBindRow, place: int | None, certificates: Sequence[ProxyCertificateRow]
) -> list[str]:
    """The names under which a bind that is not HTTP's finds its cluster. ``place``: of
    a port range. ``certificates``: the app's."""
    if place is not None and bind.chain is Chain.RAW:
        return [names.range_cluster(place, bind.address)]
    ports = range(bind.first_port, bind.last_port + 1)
    if gate_of(bind, certificates) is None:
        return [names.raw_cluster(bind.address, port) for port in ports]
    return [names.tls_cluster(bind.address, port) for port in ports]


def inner_cluster(row: ProxySniRow, sockets: Path) -> Resource:
    """Of connections that are HTTP's, to Envoy itself: among its ``sockets``."""
    name = sni_alias(row)
    address = {"pipe": {"path": str(pipe(sockets, INNER))}}
    members = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    body: Json = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": CONNECT_TIMEOUT,
        "load_assignment": {"cluster_name": name, "endpoints": members},
        "circuit_breakers": {"thresholds": [{"max_connections": MANY}]},
        "transport_socket": _proxy_proto("v1"),
        "upstream_bind_config": {},
    }
    return Resource(Type.CLUSTER, name, body)


def sni_alias(row: ProxySniRow) -> str:
    return names.sni_cluster(row.port, row.host)


def loads(row: ProxyClusterRow, clusters: Iterable[str], naps: int = 0) -> Resource:
    """``clusters``: the names that it has in Envoy. ``hard``, ``queue`` and
    ``endpoints``: where machines that are full leave what is new to others
    (``flyebpf.proxy.spill``)."""
    body: Json = {"clusters": sorted(clusters)}
    if row.hard is not None:
        body |= {"hard": row.hard, "queue": not row.proxy_proto}
        body["endpoints"] = endpoints(row, row.name, naps).body
    return Resource(Type.LOADS, row.name, body)


def certificate(row: ProxyCertificateRow) -> Resource:
    """``{"hosts": [...], "secret": what Envoy gets, but for its name}``."""
    hosts = row.hosts if row.app else (names.SELF_SIGNED, names.FOR_NAMELESS)
    return Resource(Type.CERTIFICATE, row.name, _secret(hosts, row.chain, row.private_key))


def _secret(hosts: Sequence[str], chain: str, key: str) -> Json:
    secret = {
        "tls_certificate": {
            "certificate_chain": {"inline_string": chain},
            "private_key": {"inline_string": key},
        }
    }
    return {"hosts": list(hosts), "secret": secret}
