# SPDX-License-Identifier: Apache-2.0
"""Envoy's control plane, as a process: ``python -m flyebpf.proxy.process SOCKET USER
LOG``, the last one being the daemon's ``[log]`` as JSON.

The daemon's child, not the daemon: gRPC and Envoy's messages take a second to load,
and memory. It has no rights but to its socket. When its input ends it goes on with
what it knows, so that names whose certificate nobody has asked for yet are served
while there is no daemon, until the next daemon's process takes its place.

On standard input it gets lines of JSON, ``{"put": [[type, name, body as JSON], …],
"remove": [[type, name], …]}``, and listens from ``{"ready": true}`` on: before that it
does not know what there is, and would tell Envoy to forget the rest. On standard
output it says what has become of it, ``Report`` as JSON, whenever that has changed,
``{"loads": …}``, what ``flyebpf.proxy.loads.Loads.take`` wants, and ``{"wake":
cluster}``: somebody waits for a machine of it. The answer to that is a line of input,
``{"woken": [cluster, headers]}`` (``flyebpf.proxy.wake``).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from google.protobuf.json_format import ParseError

from flyebpf import logs, rights
from flyebpf.config import LogConfig
from flyebpf.errors import FlyebpfError
from flyebpf.proxy import acme
from flyebpf.proxy.ads import EDS, Snapshot, Stream
from flyebpf.proxy.appfiles import AppFiles, Cached
from flyebpf.proxy.load_reports import LoadReports
from flyebpf.proxy.loads import Tracker
from flyebpf.proxy.resources import Json, Type
from flyebpf.proxy.spill import Spill
from flyebpf.proxy.waking import Waking
from flyebpf.unixpeer import listener

log = logging.getLogger("flyebpf.proxy.process")
SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
METHOD = "DeltaAggregatedResources"
LINE = 256 << 20  # longest line of input, bytes
LOOK = 0.5  # seconds between looks at what Lua remembers
GATHER = 0.01  # seconds in which changes are gathered
OPTIONS = (("grpc.max_receive_message_length", 64 << 20), ("grpc.so_reuseport", 0))


@dataclass(slots=True)
class Report:
    """``streams``: of Envoy. ``refused``: what it said of the last resource that it did
    not take, "" if it has taken all since. ``wrong``: the same, of resources that are
    none. ``resources``: by kind."""

    listening: bool = False
    streams: int = 0
    refused: str = ""
    wrong: str = ""
    resources: dict[str, int] | None = None


class Session:
    """One stream and where it goes."""

    def __init__(
        self, stream: Stream, write: Callable[[DeltaDiscoveryResponse], Awaitable[None]]
    ) -> None:
        self.stream = stream
        self._write = write
        self._lock = asyncio.Lock()

    async def send(self, make: Callable[[], list[DeltaDiscoveryResponse]]) -> None:
        """Made and sent in one go, so that nothing older comes after it."""
        async with self._lock:
            for response in make():
                await self._write(response)


class Output:
    """Lines to the daemon. One that does not read does not stop Envoy's streams."""

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport

    @property
    def free(self) -> bool:
        """Whether all that was said before has been read."""
        return self._transport.get_write_buffer_size() == 0

    def say(self, line: Json) -> None:
        if not self._transport.is_closing():  # the daemon has ended
            self._transport.write((json.dumps(line) + "\n").encode())


class Server:
    """The control plane of one Envoy, or of two while one takes over."""

    def __init__(self, path: str, output: Output) -> None:
        self._path = path
        self._output = output
        self._snapshot = Snapshot()
        self._challenges = Snapshot()
        self._challenged: dict[Session, None] = {}
        self._apps = AppFiles(Path(path).with_name("apps"))
        self._cached = Cached(Path(path).with_name("cached"))
        self._said_cached: list[str] = []
        self._sessions: dict[Session, None] = {}
        self._server: grpc.aio.Server | None = None
        self._tracker = Tracker()
        self._loads = LoadReports(self._tracker, self._clusters, self._reported)
        self._spill = Spill()
        self._waking = Waking(lambda cluster: self._output.say({"wake": cluster}))
        self._said = Report()
        self._wrong = ""
        self._push: asyncio.TimerHandle | None = None
        self._pushing: set[asyncio.Task[None]] = set()

    async def take(self, line: dict[str, Any]) -> None:
        """A line of input."""
        for kind, name, body in line.get("put", ()):
            try:
                self._put(Type(kind), name, json.loads(body))
            except (OSError, ParseError, ValueError, KeyError, TypeError) as error:
                self._wrong = f"{kind} {name}: {error}"
                log.error("not sent to Envoy: %s", self._wrong)
        for kind, name in line.get("remove", ()):
            if kind == Type.LOADS:
                self._unwatch(name)
            elif kind == Type.APP:
                self._apps.remove(name)
            elif kind == Type.CHALLENGE:
                self._challenges.remove(Type.CERTIFICATE, name)
            else:
                self._snapshot.remove(Type(kind), name)
        if woken := line.get("woken"):
            self._waking.woken(*woken)
        if line.get("ready") and self._server is None:
            self._apps.complete()
            await self._listen()
        self._push_soon()

    def _push_soon(self) -> None:
        if self._push is None:
            self._push = asyncio.get_running_loop().call_later(GATHER, self._start_push)

    def _put(self, kind: Type, name: str, body: Json) -> None:
        if kind is Type.LOADS:
            self._watch(name, body)
            return
        if kind is Type.APP:
            self._apps.put(name, body)
            return
        if kind is Type.CHALLENGE:
            self._challenges.put(Type.CERTIFICATE, name, body)
            return
        if kind is Type.ENDPOINTS:
            self._spill.plain(name)
        self._snapshot.put(kind, name, body)

    def _watch(self, name: str, body: Json) -> None:
        self._tracker.watch(name, body["clusters"])
        if "hard" in body:
            self._spill.limit(name, body["hard"], body["endpoints"], queue=body["queue"])
            self._judge([name])
        elif plain := self._spill.drop(name):
            self._snapshot.put(Type.ENDPOINTS, name, plain)

    def _unwatch(self, name: str) -> None:
        self._tracker.unwatch(name)
        plain = self._spill.drop(name)
        if plain and self._snapshot.version(EDS, name) is not None:
            self._snapshot.put(Type.ENDPOINTS, name, plain)

    def _judge(self, rows: Iterable[str]) -> bool:
        """Whether another machine is full now, or one is not any more."""
        found = [(row, self._spill.judge(row, self._tracker.active(row) or {})) for row in rows]
        changed = [(row, body) for row, body in found if body is not None]
        for row, body in changed:
            self._snapshot.put(Type.ENDPOINTS, row, body)
        return bool(changed)

    def _reported(self) -> None:
        """Envoy has told of loads."""
        rows = [row for row in self._tracker.take_moved() if self._spill.has(row)]
        if self._judge(rows):
            self._push_soon()
        self._say_loads()

    async def _listen(self) -> None:
        self._snapshot.join()
        self._snapshot.take_changes()
        gc.collect()
        gc.freeze()
        server = grpc.aio.server(options=OPTIONS)
        server.add_generic_rpc_handlers(
            (
                _handlers(SERVICE, METHOD, self._serve),
                _handlers(acme.SERVICE, acme.METHOD, self._serve_challenges),
                self._loads.handlers(),
                self._waking.handlers(),
            )
        )
        aside = f"{self._path}.{os.getpid()}"
        server.add_insecure_port(f"unix:{aside}")
        await server.start()
        before = listener(self._path)
        os.rename(aside, self._path)
        if before:
            with contextlib.suppress(OSError):
                os.kill(before, signal.SIGTERM)
        self._server = server

    def _start_push(self) -> None:
        self._push = None
        task = asyncio.ensure_future(self._push_changes())
        self._pushing.add(task)
        task.add_done_callback(self._pushing.discard)

    async def _push_changes(self) -> None:
        self._snapshot.join()
        await _push(self._snapshot, self._sessions)
        await _push(self._challenges, self._challenged)
        await self._loads.push()
        self._say_loads()
        self.report()

    async def _serve(self, _: object, context: Any) -> None:
        """One stream of Envoy's, until it ends."""
        await self._talk(Session(Stream(self._snapshot), context.write), self._sessions, context)

    async def _serve_challenges(self, _: object, context: Any) -> None:
        """One that asks for certificates that only authorities of ACME are shown."""
        session = Session(Stream(self._challenges), context.write)
        await self._talk(session, self._challenged, context)

    async def _talk(self, session: Session, sessions: dict[Session, None], context: Any) -> None:
        sessions[session] = None
        self.report()
        try:
            while (message := await context.read()) is not grpc.aio.EOF:
                await session.send(lambda message=message: session.stream.request(message))  # type: ignore[misc]
                self.report()
        except asyncio.CancelledError:  # the process ends; gRPC would log it as a fault
            return
        finally:
            sessions.pop(session)
            self.report()

    def report(self) -> None:
        """Say how things are, if that is new."""
        refused = [session.stream.nack for session in self._sessions if session.stream.nack]
        now = Report(
            self._server is not None,
            len(self._sessions),
            refused[0] if refused else "",
            self._wrong,
            self._snapshot.counts(),
        )
        if now != self._said:
            self._said = now
            self._output.say(asdict(now))

    def _clusters(self) -> int:
        return self._snapshot.counts()["Cluster"]

    def _say_loads(self) -> None:
        """If not now, then with what changes next."""
        if self._output.free and (changes := self._tracker.take_news()):
            self._output.say({"loads": changes})

    def look(self) -> None:
        """Say of which apps replays are remembered, if that is new."""
        found = self._cached.apps(time.time())
        if found != self._said_cached:
            self._said_cached = found
            self._output.say({"cached": found})

    @property
    def knows(self) -> bool:
        """Whether it has been told all that there is."""
        return self._server is not None

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)


def _handlers(service: str, method: str, serve: Callable[..., Awaitable[None]]) -> Any:
    """A method by which Envoy asks for resources."""
    handler = grpc.stream_stream_rpc_method_handler(
        serve,
        request_deserializer=DeltaDiscoveryRequest.FromString,
        response_serializer=DeltaDiscoveryResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(service, {method: handler})


async def _push(snapshot: Snapshot, sessions: dict[Session, None]) -> None:
    wanted = {name: None for session in sessions for name in session.stream.secrets()}
    snapshot.refresh_secrets(wanted)
    changes = snapshot.take_changes()
    for session in list(sessions):
        await session.send(lambda session=session: session.stream.changed(changes))  # type: ignore[misc]


async def serve(path: str) -> None:
    """Until SIGTERM, or the end of the input before it was all there."""
    reader = asyncio.StreamReader(limit=LINE)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    output, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, sys.stdout)
    server = Server(path, Output(output))
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    reading = asyncio.ensure_future(_read(reader, server))
    reading.add_done_callback(lambda _: None if server.knows else ended.set())
    looking = asyncio.ensure_future(_look(server))
    await ended.wait()
    reading.cancel()
    looking.cancel()
    await server.stop()


async def _look(server: Server) -> None:
    while True:
        server.look()
        await asyncio.sleep(LOOK)


async def _read(reader: asyncio.StreamReader, server: Server) -> None:
    while line := await reader.readline():
        await server.take(json.loads(line))


def main() -> int:
    logs.setup(LogConfig(**json.loads(sys.argv[3])))
    try:
        rights.drop(sys.argv[2], "the proxy's control plane")
        asyncio.run(serve(sys.argv[1]))
    except FlyebpfError as error:
        log.error("%s", "; ".join(filter(None, (error.message, error.remedy))))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
