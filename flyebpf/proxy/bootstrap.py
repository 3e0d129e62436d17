# SPDX-License-Identifier: Apache-2.0
"""What Envoy is started with: where it gets the rest, and its listeners."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flyebpf.model.proxyrows import ProxyRow
from flyebpf.proxy import appstats, replay, wake
from flyebpf.proxy.accesslog import logged
from flyebpf.proxy.chains import INNER, PG_CANCEL, PG_CANCEL_ANY, all_listeners, pg_listeners
from flyebpf.proxy.listeners import Json, listener, piped
from flyebpf.proxy.names import ADS_CLUSTER

GONE = {
    "description": "a machine that does not acknowledge (TCP_USER_TIMEOUT, milliseconds)",
    "level": 6,
    "name": 18,
    "int_value": 10_000,
    "state": "STATE_PREBIND",
}
"""A machine that was stopped says nothing any more: what was sent to it just before
would wait for an answer for a quarter of an hour."""
KEPT_STATS = (
    *("http.http.downstream_cx_total", "http.http.downstream_cx_active"),
    *("http.http.downstream_rq_total", "http.http.downstream_rq_active"),
    *("http.http.downstream_rq_1xx", "http.http.downstream_rq_2xx"),
    *("http.http.downstream_rq_3xx", "http.http.downstream_rq_4xx"),
    *("http.http.downstream_rq_5xx", "tcp.tcp.downstream_cx_total"),
    *("tcp.tcp.downstream_cx_no_route", "tcp.tcp.downstream_cx_active"),
    *("server.live", "server.uptime", "server.memory_allocated", "server.state"),
    *("control_plane.connected_state", "cluster_manager.active_clusters"),
    *("listener_manager.total_listeners_active", "http.http.no_route"),
)


@dataclass(frozen=True, slots=True)
class Paths:
    """``folder``: root's, with Envoy's files; ``sockets``: in it, of Envoy's user."""

    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "envoy.log"

    @property
    def naps(self) -> Path:
        return self.folder / "naps.json"

    @property
    def sockets(self) -> Path:
        return self.folder / "sockets"

    @property
    def apps(self) -> Path:
        """A file of each app, for Lua."""
        return self.sockets / "apps"

    @property
    def ads(self) -> Path:
        return self.sockets / "ads.sock"


def bootstrap(row: ProxyRow, paths: Paths, access_log: str = "", memory: int = 0) -> Json:
    """Machines see ``row.source``. The control plane's stream is taken up again
    within a second after it was lost. ``access_log``: its file, "" for none.
    ``memory``: bytes that it may use, 0 for any number."""
    service = {
        "envoy_grpc": {
            "cluster_name": ADS_CLUSTER,
            "retry_policy": {"retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}},
            "max_receive_message_length": 256 << 20,
        }
    }
    ads = {
        "api_type": "DELTA_GRPC",
        "transport_api_version": "V3",
        "set_node_on_first_message_only": True,
        "grpc_services": [service],
    }
    return {
        "node": {"id": row.host, "cluster": "flyebpf", "locality": {"region": row.region}},
        "bootstrap_extensions": [wake.bootstrap_extension()],
        "admin": {"address": {"pipe": {"path": "", "mode": 0o600}}},
        "dynamic_resources": {
            "ads_config": ads,
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
        },
        "cluster_manager": {
            "upstream_bind_config": {
                "source_address": {"address": row.source, "port_value": 0},
                "socket_options": [GONE],
            },
            "load_stats_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": ADS_CLUSTER}}],
            },
        },
        "static_resources": {
            "listeners": [
                *(logged(listener(what), access_log) for what in all_listeners()),
                *(logged(piped(what, paths.sockets), access_log) for what in pg_listeners()),
                *(piped(what, paths.sockets) for what in (PG_CANCEL, PG_CANCEL_ANY)),
                logged(piped(INNER, paths.sockets), access_log),
                replay.listener(paths.apps),
                *wake.listeners(ADS_CLUSTER),
            ],
            "clusters": [_ads_cluster(paths), replay.cluster(), *wake.clusters()],
        },
        **({"overload_manager": _overload(memory)} if memory else {}),
        "stats_config": _stats(),
        "stats_flush_on_admin": True,
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
        "layered_runtime": {
            "layers": [
                {
                    "name": "static",
                    "static_layer": {
                        "re2.max_program_size.error_level": 1000,
                        # Load reports of connections that have long been there.
                        "envoy.reloadable_features.report_load_for_non_zero_stats": True,
                    },
                }
            ]
        },
    }


def _overload(memory: int) -> Json:
    """Requests that can be sent again are read as a whole, a megabyte for each: clients
    that leave many unfinished must not have the host end Envoy. Those of HTTP/2 that
    hold most go first; then nothing new is taken until there is room."""
    monitor = "envoy.resource_monitors.fixed_heap"
    kind = f"type.googleapis.com/{monitor.replace('envoy.', 'envoy.extensions.')}"
    heap = {"@type": f"{kind}.v3.FixedHeapConfig", "max_heap_size_bytes": memory}
    triggers = {
        "shrink_heap": {"threshold": {"value": 0.85}},
        "reset_high_memory_stream": {
            "scaled": {"scaling_threshold": 0.85, "saturation_threshold": 0.95}
        },
        "stop_accepting_requests": {"threshold": {"value": 0.95}},
        "stop_accepting_connections": {"threshold": {"value": 0.98}},
    }
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [{"name": monitor, "typed_config": heap}],
        "buffer_factory_config": {"minimum_account_to_track_power_of_two": 17},
        "actions": [
            {"name": f"envoy.overload_actions.{name}", "triggers": [{"name": monitor, **trigger}]}
            for name, trigger in triggers.items()
        ],
    }


def _stats() -> Json:
    """Only what is asked for is counted: of each cluster Envoy has a hundred counters."""
    of_apps, buckets = appstats.settings()
    patterns = [*({"exact": name} for name in KEPT_STATS), of_apps]
    return {
        "stats_matcher": {"inclusion_list": {"patterns": patterns}},
        "histogram_bucket_settings": [buckets],
    }


def _ads_cluster(paths: Paths) -> Json:
    endpoint = {"endpoint": {"address": {"pipe": {"path": str(paths.ads)}}}}
    http2 = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        "name": ADS_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [{"max_requests": 1_000_000}]},
        "load_assignment": {
            "cluster_name": ADS_CLUSTER,
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
        "upstream_bind_config": {},
        "typed_extension_protocol_options": {
            http2: {
                "@type": f"type.googleapis.com/{http2}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }
