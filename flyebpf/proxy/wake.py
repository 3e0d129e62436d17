# SPDX-License-Identifier: Apache-2.0
"""What Envoy does with connections to a service none of whose machines runs: it holds
them until one does.

::

    cluster of the app ─▶ wake ─ CONNECT ─▶ wake-decide ─▶ the machine
      (HTTP or not)       one endpoint      asks the control    (ORIGINAL_DST)
                          for each cluster  plane, which        or a refusal
                                            asks the daemon

All of these are listeners inside Envoy. The endpoint's id has the cluster's name, which
no client can say anything about. When a machine runs, the endpoint stays, draining, so
that what goes through it is still counted (``REPORTED``). To the app's cluster it is a
machine whose connections take long to be answered: whatever it speaks, h2 or PROXY
protocol, websockets or large bodies, gets to the machine as it was sent.
"""

from __future__ import annotations

from typing import Any

from flyebpf.proxy import names

Json = dict[str, Any]
TYPE = "type.googleapis.com/envoy.extensions"
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
LISTENER, DECIDE = "wake", "wake-decide"
MACHINES = "wake-machines"
"""The cluster of machines that connections were held for."""
CLUSTER_HEADER, MACHINE_HEADER = "x-flyebpf-cluster", "x-flyebpf-machine"
REFUSED_HEADER = "x-flyebpf-refused"
LOCAL = f"envoy://{LISTENER}/"
"""What the control plane gets before the name of a cluster."""
REPORTED = ":0"
"""What load reports call these endpoints, which have no address."""
CLOSED = "closed"
"""The refusal of connections that are not HTTP's."""
REFUSALS = {
    "none": "no machine of this app runs, and none can be started",
    "failed": "this app's machine could not be started",
    "late": "this app's machine has not started in time",
    "full": "too many requests are waiting for this app's machine",
}
"""Why a request is not served, and what its client is told."""
LONGEST = "900s"  # that the control plane may take; the daemon's own limit is shorter
ATTEMPTS = 3  # to get a connection to a machine, or an answer from a new control plane
MANY = 1_000_000


def endpoints(cluster: str, naps: int, *, awake: bool) -> list[Json]:
    """The endpoints that stand for the machines of a cluster. ``awake``: they get
    connections themselves. ``naps``: how often they have slept; what is open since an
    earlier time must not be used again, but is still counted."""
    before = [_endpoint(cluster, naps - 1, draining=True)] if naps > 1 else []
    return [_endpoint(cluster, naps, draining=awake), *before]


def _endpoint(cluster: str, nap: int, *, draining: bool) -> Json:
    address = {"server_listener_name": LISTENER, "endpoint_id": f"{cluster}#{nap}"}
    body: Json = {"endpoint": {"address": {"envoy_internal_address": address}}}
    if draining:
        body["health_status"] = "DRAINING"
    return body


def cluster_of(local: str) -> str:
    """The cluster that an endpoint's listener was dialled for; "" for no address of ours."""
    if not local.startswith(LOCAL):
        return ""
    return local.removeprefix(LOCAL).rpartition("#")[0]


def bootstrap_extension() -> Json:
    kind = f"{TYPE}.bootstrap.internal_listener.v3.InternalListener"
    return {"name": "envoy.bootstrap.internal_listener", "typed_config": {"@type": kind}}


def listeners(authorization: str) -> list[Json]:
    """``authorization``: the cluster of the control plane."""
    return [
        _internal(LISTENER, [_tunnel()]),
        _internal(DECIDE, [_decide(authorization)]),
        _internal(_name(CLOSED), [_tcp("closed", names.NO_CLUSTER)]),
        *(_refusal(_name(reason), text) for reason, text in REFUSALS.items()),
    ]


def clusters() -> list[Json]:
    """Their endpoints are the listeners above."""
    inner = [DECIDE, *(_name(reason) for reason in (CLOSED, *REFUSALS))]
    machines = {
        "name": MACHINES,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "5s",
        "original_dst_lb_config": {"use_http_header": True, "http_header_name": MACHINE_HEADER},
        "circuit_breakers": _unlimited(),
    }
    return [machines, *map(_inner_cluster, inner)]


def _name(reason: str) -> str:
    return f"wake-{reason}"


def _inner_cluster(name: str) -> Json:
    address = {"envoy_internal_address": {"server_listener_name": name}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": _unlimited(),
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


def _unlimited() -> Json:
    limits = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
    return {"thresholds": [dict.fromkeys(limits, MANY)]}


def _internal(name: str, filters: list[Json], before: tuple[Json, ...] = ()) -> Json:
    return {
        "name": name,
        "internal_listener": {},
        "listener_filters": list(before),
        "per_connection_buffer_limit_bytes": 65536,
        "filter_chains": [{"filters": filters}],
    }


def _tcp(prefix: str, cluster: str, **more: Json | int) -> Json:
    kind = f"{TYPE}.filters.network.tcp_proxy.v3.TcpProxy"
    config = {"@type": kind, "stat_prefix": prefix, "cluster": cluster, "idle_timeout": "3600s"}
    return {"name": "envoy.filters.network.tcp_proxy", "typed_config": {**config, **more}}


def _tunnel() -> Json:
    """Waits for the answer to CONNECT before it reads anything."""
    header = {"key": CLUSTER_HEADER, "value": "%DOWNSTREAM_LOCAL_ADDRESS%"}
    tunnel = {"hostname": "machine:1", "headers_to_add": [{"header": header}]}
    return _tcp("wake", DECIDE, tunneling_config=tunnel, max_connect_attempts=ATTEMPTS)


def _manager(prefix: str, host: Json, filters: tuple[Json, ...] = (), **more: Any) -> Json:
    kind = f"{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager"
    router = {"@type": f"{TYPE}.filters.http.router.v3.Router", "suppress_envoy_headers": True}
    config = {
        "@type": kind,
        "stat_prefix": prefix,
        "route_config": {"name": prefix, "virtual_hosts": [host]},
        "http_filters": [*filters, {"name": "envoy.filters.http.router", "typed_config": router}],
        **more,
    }
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": config}


def _decide(authorization: str) -> Json:
    routes = [
        _connect(_name(reason), {"name": REFUSED_HEADER, "string_match": {"exact": reason}})
        for reason in (CLOSED, *REFUSALS)
    ]
    routes.append(_connect(MACHINES, {"name": MACHINE_HEADER, "present_match": True}))
    ask = {
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {
            "@type": f"{TYPE}.filters.http.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            "clear_route_cache": True,
            "status_on_error": {"code": "ServiceUnavailable"},
            "grpc_service": {
                "envoy_grpc": {"cluster_name": authorization},
                "timeout": LONGEST,
            },
        },
    }
    # Before the answer there is no route that would match.
    routes.append({"match": {"connect_matcher": {}}, "direct_response": {"status": 503}})
    host = {"name": DECIDE, "domains": ["*"], "routes": routes}
    return _manager(
        "wake",
        host,
        (ask,),
        upgrade_configs=[{"upgrade_type": "CONNECT"}],
        stream_idle_timeout="0s",
    )


def _connect(cluster: str, header: Json) -> Json:
    upgrade = {"upgrade_type": "CONNECT", "connect_config": {}}
    action = {"cluster": cluster, "timeout": "0s", "upgrade_configs": [upgrade]}
    return {"match": {"connect_matcher": {}, "headers": [header]}, "route": action}


def _refusal(name: str, text: str) -> Json:
    """Answers one request, whatever it is, and ends the connection: the next one is
    asked for anew."""
    answer = {"status": 503, "body": {"inline_string": f"{text}\n"}}
    host = {
        "name": name,
        "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "direct_response": answer}],
    }
    manager = _manager(
        name,
        host,
        common_http_protocol_options={"max_requests_per_connection": 1},
        upgrade_configs=[{"upgrade_type": "websocket"}],
    )
    proxied = {
        "name": "envoy.filters.listener.proxy_protocol",
        "typed_config": {
            "@type": f"{TYPE}.filters.listener.proxy_protocol.v3.ProxyProtocol",
            "allow_requests_without_proxy_protocol": True,
        },
    }
    return _internal(name, [manager], (proxied,))
