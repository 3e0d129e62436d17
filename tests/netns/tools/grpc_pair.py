# SPDX-License-Identifier: Apache-2.0
"""A gRPC server and its client: ``grpc_pair.py serve PORT`` in a VM, and ``grpc_pair.py
ask ADDRESS PORT HOST CERTIFICATE``, which prints what it was answered as JSON.

Messages are bytes: what is looked at is the protocol's use of HTTP/2, streams both
ways, trailers, statuses and deadlines among it.
"""

from __future__ import annotations

import json
import queue
import sys
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

SERVICE = "test.Echo"


def once(request: bytes, context: Any) -> bytes:
    metadata = dict(context.invocation_metadata())
    context.set_trailing_metadata((("spent", "nothing"),))
    return json.dumps({"bytes": len(request), "client": metadata.get("fly-client-ip")}).encode()


def each(requests: Iterator[bytes], _: Any) -> Iterator[bytes]:
    """Every message back before the next one is there."""
    for request in requests:
        yield request[::-1]


def never(_: bytes, context: Any) -> bytes:
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today")
    raise AssertionError  # abort has raised


def serve(port: int) -> None:
    methods = {
        "Once": grpc.unary_unary_rpc_method_handler(once),
        "Each": grpc.stream_stream_rpc_method_handler(each),
        "Never": grpc.unary_unary_rpc_method_handler(never),
    }
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    server.add_insecure_port(f"0.0.0.0:{port}")
    server.start()
    server.wait_for_termination()


def talk(channel: grpc.Channel) -> Iterator[str]:
    """Answers to messages, each sent when the one before has been answered."""
    messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    call = channel.stream_stream(f"/{SERVICE}/Each")(iter(messages.get, None), timeout=10)
    for message in (b"one", b"two", b"three"):
        messages.put(message)
        yield next(call).decode()
    messages.put(None)
    yield from (answer.decode() for answer in call)


def ask(address: str, port: str, host: str, certificate: str) -> None:
    credentials = grpc.ssl_channel_credentials(Path(certificate).read_bytes())
    options = [("grpc.ssl_target_name_override", host), ("grpc.default_authority", host)]
    with grpc.secure_channel(f"{address}:{port}", credentials, options) as channel:
        once = channel.unary_unary(f"/{SERVICE}/Once")
        answer, call = once.with_call(b"x" * 1_000_000, timeout=10)
        try:
            channel.unary_unary(f"/{SERVICE}/Never")(b"", timeout=10)
            refused = ""
        except grpc.RpcError as error:
            refused = f"{error.code().name}: {error.details()}"
        result = {
            "once": json.loads(answer),
            "trailers": dict(call.trailing_metadata()),
            "each": list(talk(channel)),
            "refused": refused,
        }
    print(json.dumps(result))


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
else:
    ask(*sys.argv[2:])
