# SPDX-License-Identifier: Apache-2.0
"""Envoy's load reports (LRS,
https://www.envoyproxy.io/docs/envoy/v1.40.0/api-docs/xds_protocol): the service beside
ADS that says which clusters are to be reported of, and takes the reports.

An Envoy that is told nothing reports nothing. Once told, it looks through all clusters
and sends the named ones at each interval, so that thousands are asked for less often.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import grpc
from envoy.config.endpoint.v3.load_report_pb2 import ClusterStats
from envoy.service.load_stats.v3.lrs_pb2 import LoadStatsRequest, LoadStatsResponse

from flyebpf.proxy.loads import Tracker
from flyebpf.proxy.names import at

SERVICE = "envoy.service.load_stats.v3.LoadReportingService"
METHOD = "StreamLoadStats"
INTERVAL = 0.1  # seconds between reports
REPORTED = 4000  # clusters in the reports of a second, at most
LOOKED_AT = 40_000  # clusters that Envoy looks through for them in a second, at most
NONE = LoadStatsResponse(clusters=["none"], load_reporting_interval=timedelta(hours=1))
"""To one that was told before: a list without names would be no list."""


class LoadReports:
    """``clusters``: how many Envoy has in all. ``reported``: called when reports have
    changed what is known."""

    def __init__(
        self, tracker: Tracker, clusters: Callable[[], int], reported: Callable[[], object]
    ) -> None:
        self._tracker = tracker
        self._clusters = clusters
        self._reported = reported
        self._numbers = itertools.count()
        self._streams: dict[int, tuple[Any, bytes]] = {}  # and what each was told last

    def handlers(self) -> grpc.GenericRpcHandler:
        handler = grpc.stream_stream_rpc_method_handler(
            self._serve,
            request_deserializer=LoadStatsRequest.FromString,
            response_serializer=lambda value: value,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler})

    async def push(self) -> None:
        """Tell the streams what is wanted now, where that is news."""
        for number in list(self._streams):
            await self._tell(number)

    async def _tell(self, number: int) -> None:
        context, told = self._streams[number]
        wanted = self._wanted(bool(told))
        if wanted != told:
            self._streams[number] = context, wanted
            await context.write(wanted)

    def _wanted(self, some_before: bool) -> bytes:
        clusters = sorted(self._tracker.clusters)
        if not clusters:
            return bytes(NONE.SerializeToString()) if some_before else b""
        load = max(len(clusters) / REPORTED, self._clusters() / LOOKED_AT)
        interval = timedelta(seconds=max(INTERVAL, round(load, 1)))
        response = LoadStatsResponse(
            clusters=clusters,
            load_reporting_interval=interval,
            report_endpoint_granularity=True,
        )
        return bytes(response.SerializeToString())

    async def _serve(self, _: object, context: Any) -> None:
        """One stream of Envoy's, until it ends."""
        number = next(self._numbers)
        self._streams[number] = context, b""
        try:
            await self._tell(number)
            while (message := await context.read()) is not grpc.aio.EOF:
                for stats in message.cluster_stats:
                    self._tracker.report(number, stats.cluster_name, _machines(stats))
                self._reported()
        finally:
            del self._streams[number]
            self._tracker.drop(number)
            self._reported()


def _machines(stats: ClusterStats) -> dict[str, tuple[int, int]]:
    """By address: in flight, and begun since the last report. What has no address, as it
    is inside Envoy, is one (``wake.REPORTED``)."""
    found: dict[str, tuple[int, int]] = {}
    for locality in stats.upstream_locality_stats:
        for endpoint in locality.upstream_endpoint_stats:
            address = endpoint.address.socket_address
            name = at(address.address, address.port_value)
            active, begun = found.get(name, (0, 0))
            active += endpoint.total_requests_in_progress
            found[name] = active, begun + endpoint.total_issued_requests
    return found
