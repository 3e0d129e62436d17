# SPDX-License-Identifier: Apache-2.0
"""Fly-Replay, and requests that ask for a region or a machine: Envoy's configuration.

::

    client ─▶ listener ─▶ machine of the app
                 ▲  │  answers fly-replay: becomes a 307, which the router follows itself
                 │  ▼
                 └─ route "replay" ─▶ internal listener ─▶ machine that is asked for
                                      (Lua: who, may it, where)

Nothing here runs for an app that uses none of it but matchers of header names: what
looks at answers is behind one (``match_delegate``), and the internal listener is only
reached by requests that have the header :data:`ASK`, which no client and no app can set.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from flyebpf.model.areas import areas
from flyebpf.model.proxyrows import ProxyAppRow, ProxyClusterRow, ProxyRouteRow
from flyebpf.model.records import ReplayCache
from flyebpf.proxy import names
from flyebpf.proxy.chains import Listener

Json = dict[str, Any]
TYPE = "type.googleapis.com/envoy.extensions"
CLUSTER = "replay"
"""Leads to the internal listener of the same name."""
ROUTE = "replay"
"""Only to routes of this name does the router follow what looks like a redirect."""
ASK, SOURCE, HOP, UP = (f"x-flyebpf-{name}" for name in ("ask", "source", "hop", "up"))
TARGET, WAIT = "x-flyebpf-cluster", "x-flyebpf-timeout"
"""Headers of ours: no client's reach this, and none of them reaches a machine."""
ASKING = (
    *("fly-prefer-region", "fly-force-region"),
    *("fly-prefer-instance-id", "fly-force-instance-id"),
)
REPLAY = "fly-replay"
JSON_TYPE = "application/vnd.fly.replay+json"
CACHED = "cached"
"""The folder beside that of apps, in which Lua says what it remembers of which."""
LARGEST = 1 << 20
"""Bytes of a request's body that can be sent again."""
LUA = Path(__file__).with_name("lua")
OVERWRITE = "OVERWRITE_IF_EXISTS_OR_ADD"


WAITS = (*range(100, 1000, 100), *range(1000, 61000, 1000))
"""Milliseconds that a replay may be given, as ``lua/replay.lua`` rounds them."""


def _append(key: str, value: str) -> Json:
    return {"append": {"header": {"key": key, "value": value}, "append_action": OVERWRITE}}


def asking() -> Json:
    """Of a client's request, before its route is looked for, and after all headers of ours
    were removed from it. The first letters of what it asks for say that it does; no value
    of a client's is as long as a replay's."""
    return _append(ASK, "".join(f"%REQ({name}):1%" for name in ASKING))


def found_by(what: Listener) -> list[Json]:
    """Headers by which a request's route is found, its first time and again."""
    found = [_append(names.SCOPE_HEADER, names.scope_format(what))]
    if not what.shared or what.inner:
        found.append(_append(names.VHOST_HEADER, names.vhost_format(what)))
    return found


def upstream_filters(what: Listener) -> list[Json]:
    """Of the router: an answer with ``fly-replay`` becomes a redirect to the same URL. What
    Envoy and this proxy say comes before what the app says, which may have tabs. Answers
    pass filters from the last to the first."""
    # An app may put tabs into its headers: what Envoy says itself comes before all of them.
    seen = (
        f"replay\t%UPSTREAM_HOST%\t%RESP({HOP})%\t%RESP(fly-replay-cache-ttl-secs):32%"
        f"\t%RESP(fly-replay-cache):1024%\t\t%RESP({REPLAY}):8192%"
    )
    mutations = [
        _append(ASK, seen),
        _append("location", "%REQ(:SCHEME)%://%REQ(:AUTHORITY)%%REQ(:PATH)%"),
    ]
    mutations += found_by(what)
    redirect = _mutation({"response_mutations": mutations})
    answer = _lua(_file("answer"))
    return [
        _made("flyebpf.replay", _is_replay(), answer, redirect),
        CODEC,
    ]


CODEC: Json = {
    "name": "envoy.filters.http.upstream_codec",
    "typed_config": {"@type": f"{TYPE}.filters.http.upstream_codec.v3.UpstreamCodec"},
}


def _mutation(mutations: Json) -> Json:
    return {
        "@type": f"{TYPE}.filters.http.header_mutation.v3.HeaderMutation",
        "mutations": mutations,
    }


def _lua(source: str) -> Json:
    return {
        "@type": f"{TYPE}.filters.http.lua.v3.Lua",
        "default_source_code": {"inline_string": source},
    }


def _where(name: str, config: Json, predicate: Json) -> Json:
    """The filter for what the predicate is true of, and for nothing else."""
    skip = {"@type": f"{TYPE}.filters.common.matcher.action.v3.SkipFilter"}
    matcher = {
        "predicate": {"not_matcher": predicate},
        "on_match": {"action": {"name": "skip", "typed_config": skip}},
    }
    return {
        "name": name,
        "typed_config": {
            "@type": f"{TYPE}.common.matching.v3.ExtensionWithMatcher",
            "extension_config": {"name": name, "typed_config": config},
            "xds_matcher": {"matcher_list": {"matchers": [matcher]}},
        },
    }


def _made(name: str, predicate: Json, *configs: Json) -> Json:
    """The same for filters of answers alone, which are not even made for others."""
    of = f"{TYPE}.filters.http.composite.v3"
    chain = [{"name": f"{name}.{at}", "typed_config": one} for at, one in enumerate(configs)]
    action = {"@type": f"{of}.ExecuteFilterAction", "filter_chain": {"typed_config": chain}}
    matcher = {
        "predicate": predicate,
        "on_match": {"action": {"name": "composite", "typed_config": action}},
    }
    composite = {"@type": f"{of}.Composite"}
    return {
        "name": name,
        "typed_config": {
            "@type": f"{TYPE}.common.matching.v3.ExtensionWithMatcher",
            "extension_config": {"name": "composite", "typed_config": composite},
            "xds_matcher": {"matcher_list": {"matchers": [matcher]}},
        },
    }


def _header(name: str, value: Json, kind: str = "HttpResponseHeaderMatchInput") -> Json:
    found = {"@type": f"type.googleapis.com/envoy.type.matcher.v3.{kind}", "header_name": name}
    return {
        "single_predicate": {
            "input": {"name": name, "typed_config": found},
            "value_match": value,
        }
    }


ANY: Json = {"safe_regex": {"google_re2": {}, "regex": ".*"}}


def _is_replay() -> Json:
    """With ASK an app could make the router follow its own redirects."""
    body = _header("content-type", {"prefix": JSON_TYPE, "ignore_case": True})
    return {"or_matcher": {"predicate": [_header(REPLAY, ANY), _header(ASK, ANY), body]}}


UP_TO_LARGEST = (
    r"[1-9][0-9]{0,5}|10[0-3][0-9]{4}|104[0-7][0-9]{3}"
    r"|1048[0-4][0-9]{2}|10485[0-6][0-9]|104857[0-6]"
)
"""A content-length from 1 to LARGEST."""


def filters() -> list[Json]:
    """Of listeners for clients. A router follows a redirect only when it has the whole
    request: one whose length says that it can be sent again is read before it is sent.
    A replay that it did not follow is an error."""
    length = {"safe_regex": {"google_re2": {}, "regex": UP_TO_LARGEST}}
    whole = {"@type": f"{TYPE}.filters.http.buffer.v3.Buffer", "max_request_bytes": LARGEST}
    here = _header("content-length", length, "HttpRequestHeaderMatchInput")
    return [
        _where("flyebpf.whole", whole, here),
        _made("flyebpf.unfollowed", _header(ASK, ANY), _lua(_file("unfollowed"))),
    ]


def policy() -> Json:
    """Of a route: follow the redirects made here, and no app's own. Their number is
    limited by the internal listener."""
    allowed = {
        "@type": f"{TYPE}.internal_redirect.allow_listed_routes.v3.AllowListedRoutesConfig",
        "allowed_route_names": [ROUTE],
    }
    return {
        "max_internal_redirects": 20,
        "redirect_response_codes": [307],
        "allow_cross_scheme_redirect": True,
        "response_headers_to_copy": [ASK, names.VHOST_HEADER, names.SCOPE_HEADER],
        "predicates": [
            {
                "name": "envoy.internal_redirect_predicates.allow_listed_routes",
                "typed_config": allowed,
            }
        ],
    }


def routes(row: ProxyRouteRow, idle: str, *, cached: bool) -> Iterator[Json]:
    """For requests of the row's clients that ask for a machine, and replays of its app.
    ``cached``: then for all others, too, as it may be remembered where they go; that one
    is not among those to which a router follows redirects."""
    asked = {"prefix": "/", "headers": [{"name": ASK, "present_match": True}]}
    yield {"name": ROUTE, **_there(row, idle, asked)}
    if cached or row.options.replay_cache:
        yield _there(row, idle, {"prefix": "/"})


def _there(row: ProxyRouteRow, idle: str, match: Json) -> Json:
    port = row.name.rpartition("/")[2].partition("-")[0]
    source = {"key": SOURCE, "value": f"{row.app} {row.cluster} {port}"}
    return {
        "match": match,
        "route": {
            "cluster": CLUSTER,
            "timeout": "0s",
            "idle_timeout": idle,
            "internal_redirect_policy": policy(),
        },
        "request_headers_to_add": [{"header": source, "append_action": OVERWRITE}],
    }


def app_file(row: ProxyAppRow, clusters: Iterable[ProxyClusterRow]) -> Json:
    """What Lua reads of an app (``lua/apps.lua``)."""
    return {
        "org": row.org,
        "network": row.network,
        "cross": row.cross,
        "sources": list(row.sources),
        "ports": {str(port): cluster for port, cluster in row.ports},
        "first": row.ports[0][1] if row.ports else "",
        "rules": {str(port): [_rule(rule) for rule in rules] for port, rules in row.rules},
        "clusters": {
            cluster.name: [
                {
                    "id": endpoint.machine,
                    "address": names.at(endpoint.address, endpoint.port),
                    "region": endpoint.region,
                    "rank": endpoint.priority,
                    "usable": not endpoint.draining,
                    "areas": areas(endpoint.region),
                }
                for endpoint in cluster.endpoints
            ]
            for cluster in clusters
            if cluster.http
        },
    }


def _rule(rule: ReplayCache) -> Json:
    return {
        "prefix": rule.path_prefix,
        "type": rule.type,
        "name": rule.name if rule.type == "cookie" else rule.name.lower(),
        "ttl": rule.ttl_seconds,
        "bypass": rule.allow_bypass,
    }


def cluster() -> Json:
    """That leads to the internal listener."""
    endpoint = {"address": {"envoy_internal_address": {"server_listener_name": CLUSTER}}}
    http = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    everything = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
    return {
        "name": CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
        },
        "circuit_breakers": {"thresholds": [dict.fromkeys(everything, 1_000_000)]},
        "upstream_bind_config": {},
        "typed_extension_protocol_options": {
            http: {
                "@type": f"type.googleapis.com/{http}",
                "explicit_http_config": {"http2_protocol_options": {"allow_connect": True}},
            }
        },
    }


def listener(apps: Path) -> Json:
    """The internal listener. ``apps``: the folder with :func:`app_file` of each."""
    manager = {
        "@type": f"{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "replay",
        "codec_type": "HTTP2",
        "route_config": {"name": CLUSTER, "virtual_hosts": [_any_host()]},
        "http_filters": [
            {"name": "flyebpf.replay", "typed_config": _lua(source(apps) + "\n" + _file("replay"))},
            {"name": "envoy.filters.http.router", "typed_config": _router()},
        ],
        "http2_protocol_options": {"allow_connect": True},
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "server_header_transformation": "PASS_THROUGH",
        "generate_request_id": False,
        "skip_xff_append": True,
        "max_request_headers_kb": 192,
        "stream_idle_timeout": "0s",
        "merge_slashes": False,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "common_http_protocol_options": {"headers_with_underscores_action": "ALLOW"},
    }
    return {
        "name": CLUSTER,
        "internal_listener": {},
        "filter_chains": [
            {
                "filters": [
                    {"name": "envoy.filters.network.http_connection_manager",
                     "typed_config": manager}
                ]
            }
        ],
    }  # fmt: skip


def source(apps: Path) -> str:
    """The files but the last one as one chunk: each is a function's body that gives what it
    makes. ``apps``: the folder."""
    parts = [f"local {name} = (function()\n{_file(name)}\nend)()" for name in ("json", "grammar")]
    folder = json.dumps(str(apps))
    parts.append(f"local apps = (function()\n{_file('apps')}\nend)()({folder}, json)")
    parts.append(f"local decide = (function()\n{_file('decide')}\nend)()(apps)")
    folder = json.dumps(str(apps.with_name(CACHED)))
    parts.append(f"local cache = (function()\n{_file('cache')}\nend)()({folder})")
    parts.append(f"local pass = (function()\n{_file('pass')}\nend)()")
    return "\n".join(parts)


def _file(name: str) -> str:
    return (LUA / f"{name}.lua").read_text()


def _router() -> Json:
    """Its answers say whose they are; what has no such header is Envoy's own."""
    up = _mutation({"response_mutations": [_append(UP, "%UPSTREAM_HOST%")]})
    return {
        "@type": f"{TYPE}.filters.http.router.v3.Router",
        "suppress_envoy_headers": True,
        "upstream_http_filters": [{"name": "flyebpf.up", "typed_config": up}, CODEC],
    }


def _any_host() -> Json:
    """A route for each time that a replay may take, and one without."""
    timed = [_timed(wait) for wait in WAITS]
    return {
        "name": CLUSTER,
        "domains": ["*"],
        "routes": [*timed, {"match": {"prefix": "/"}, "route": _action()}],
        "request_headers_to_remove": [TARGET, WAIT],
    }


def _timed(wait: int) -> Json:
    """No longer than this without a word of the machine. The stream's own limit: the
    router's would count against the machine, which an app could so put out of service."""
    exact = {"name": WAIT, "string_match": {"exact": str(wait)}}
    return {
        "match": {"prefix": "/", "headers": [exact]},
        "route": {**_action(), "idle_timeout": f"{wait / 1000:g}s"},
    }


def _action() -> Json:
    return {"cluster_header": TARGET, "timeout": "0s", "idle_timeout": "0s"}
