# SPDX-License-Identifier: Apache-2.0
"""The control plane's part in waking machines: answers Envoy's question where a held
connection is to go (``envoy.service.auth.v3.Authorization``) when the daemon knows.

However many connections wait for a cluster, the daemon is asked once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import grpc
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse

from flyebpf.proxy import wake

SERVICE = "envoy.service.auth.v3.Authorization"
METHOD = "Check"
HELD = 10_000  # connections that may wait for one cluster
NOBODY: Mapping[str, str] = {wake.REFUSED_HEADER: "none"}


class Waking:
    """``ask``: tells the daemon of a cluster that somebody waits for."""

    def __init__(self, ask: Callable[[str], object]) -> None:
        self._ask = ask
        self._waiting: dict[str, list[asyncio.Future[Mapping[str, str]]]] = {}

    def handlers(self) -> grpc.GenericRpcHandler:
        handler = grpc.unary_unary_rpc_method_handler(
            self._check,
            request_deserializer=CheckRequest.FromString,
            response_serializer=CheckResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler})

    def woken(self, cluster: str, answer: Mapping[str, str]) -> None:
        """What the daemon says: headers that say where to."""
        for waiting in self._waiting.pop(cluster, ()):
            if not waiting.done():
                waiting.set_result(answer)

    async def where(self, cluster: str) -> Mapping[str, str]:
        """Waits for the daemon's answer."""
        waiting = self._waiting.get(cluster)
        if waiting is None:
            waiting = self._waiting[cluster] = []
            self._ask(cluster)
        elif len(waiting) >= HELD:
            return {wake.REFUSED_HEADER: "full"}
        answer: asyncio.Future[Mapping[str, str]] = asyncio.get_running_loop().create_future()
        waiting.append(answer)
        try:
            return await answer
        finally:
            if answer in waiting:  # its client has gone
                waiting.remove(answer)

    async def _check(self, request: CheckRequest, _: Any) -> CheckResponse:
        said = request.attributes.request.http.headers.get(wake.CLUSTER_HEADER, "")
        cluster = wake.cluster_of(said)
        answer = await self.where(cluster) if cluster else NOBODY
        response = CheckResponse()
        response.ok_response.headers.extend(
            HeaderValueOption(
                header=HeaderValue(key=key, value=value),
                append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
            )
            for key, value in answer.items()
        )
        return response
