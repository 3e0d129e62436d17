# SPDX-License-Identifier: Apache-2.0
"""The DNS server as a process of its own: ``python -m flyebpf.dns.process CONFIG``.

It reads what hostile machines write, so it has no rights: it opens its sockets
and becomes another user. It does not share the daemon's interpreter, so a flood
of queries does not slow the data plane's changes, nor a long pass of those the
answers. It goes on with what it knows when the daemon ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import resource
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any

from flyebpf import collector, logs, rights
from flyebpf.dns import frames
from flyebpf.dns.asker import Asker
from flyebpf.dns.server import Server, Sockets
from flyebpf.dns.view import View
from flyebpf.errors import FlyebpfError, InvalidError, UnavailableError
from flyebpf.model.codec import decode

log = logging.getLogger("flyebpf.dns.process")  # as a script its name is another
_SWITCH = 0.001  # seconds after which a thread that reads a long answer gives way
_DRAIN = 0.2  # seconds in which queries that have come in are answered at the end


class Control:
    """Serves the daemon's frames."""

    def __init__(self, server: Server, digest: str, owner: int, stop: asyncio.Event) -> None:
        """``owner``: user id of who may give orders, besides root."""
        self._server = server
        self._digest = digest
        self._stop = stop
        self._revision = -1
        self._owner = owner
        self.loaded = asyncio.Event()
        """Set when there is a view: to a server without one every name would be
        one that does not exist."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until the other end closes it."""
        session = Session(self)
        try:
            if self._is_owner(writer):
                while frame := await _read(reader):
                    writer.write(frames.pack(await session.take(frame)))
                    await writer.drain()
        except (OSError, ValueError, asyncio.IncompleteReadError) as error:
            log.warning("the daemon's connection ends: %s", error)
        finally:
            writer.close()

    def _is_owner(self, writer: asyncio.StreamWriter) -> bool:
        """Whether root, or who started this process is at the other end."""
        sock = writer.get_extra_info("socket")
        found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return struct.unpack("3i", found)[1] in (0, self._owner)

    def hello(self) -> frames.Json:
        return {"digest": self._digest, "pid": os.getpid(), "revision": self._revision}

    def metrics(self) -> frames.Json:
        server = self._server
        return {
            **server.metrics.snapshot(),
            "names": server.view.counts(),
            "connections": server.connections,
            "cache": {"entries": len(server.forwarder.cache), "bytes": server.forwarder.cache.used},
            "upstreams": [[str(u), u.srtt, u.failures] for u in server.forwarder.upstreams],
            "revision": self._revision,
        }

    async def ask(self, query: bytes, asker: Asker, tcp: bool) -> bytes | None:
        found = self._server.responder.take(query, asker, tcp)
        return found if found is None or isinstance(found, bytes) else await found

    def new_view(self) -> View:
        return View(self._server.config.latency)

    @property
    def view(self) -> View:
        return self._server.view

    def use(self, view: View, revision: int) -> None:
        self._server.view = view
        self._revision = revision
        self.loaded.set()
        collector.settle()

    def reached(self, revision: int) -> None:
        self._revision = revision

    def stop(self) -> None:
        self._stop.set()


class Session:
    """One connection's frames; a view that was begun and not committed goes with it."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._begun: View | None = None

    async def take(self, frame: frames.Json) -> frames.Json:
        op = frame.get("op")
        try:
            if op == "ask":
                asker = Asker(*frame["asker"])
                query, tcp = bytes.fromhex(frame["query"]), bool(frame.get("tcp", True))
                answer = await self._control.ask(query, asker, tcp)
                return {"answer": answer.hex() if answer is not None else None}
            return self._take(op, frame)
        except (KeyError, TypeError, ValueError) as error:
            return {"error": f"{op}: {error!r}"}

    def _take(self, op: object, frame: frames.Json) -> frames.Json:
        control = self._control
        if op == "hello":
            return control.hello()
        if op == "metrics":
            return control.metrics()
        if op == "begin":
            self._begun = control.new_view()
        elif op == "records":
            self._records(frame)
        elif op == "commit":
            control.use(self._begun or control.view, int(frame["revision"]))
            self._begun = None
        elif op == "stop":
            control.stop()
        else:
            raise ValueError("unknown")
        return {}

    def _records(self, frame: frames.Json) -> None:
        view = self._begun if self._begun is not None else self._control.view
        for kind, ident, body in frame["records"]:
            try:
                if body is None:
                    view.remove(kind, ident)
                else:
                    view.put(decode(kind, body))
            except InvalidError as error:
                log.error("record %s/%s is left out: %s", kind, ident, error.message)
                view.remove(kind, ident)
        if self._begun is not None:
            gc.freeze()  # tracing what is loaded, again and again, would delay answers
        elif "revision" in frame:
            self._control.reached(int(frame["revision"]))


async def _read(reader: asyncio.StreamReader) -> Any:
    try:
        length = frames.unpack_length(await reader.readexactly(4))
    except asyncio.IncompleteReadError:
        return None
    return json.loads(await reader.readexactly(length))


async def serve(config: frames.ProcessConfig) -> None:
    """Until SIGTERM or a ``stop``. Raises FlyebpfError where it cannot start."""
    digest, owner = config.digest(), os.getuid()
    take_room()
    sockets = Sockets.open(config.addresses, config.port)
    control_socket = _control_socket(config.socket)
    rights.drop(config.user, "DNS")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = Server(config.server, sockets)
    control = Control(server, digest, owner, stop)
    listener = await asyncio.start_unix_server(control.serve, sock=control_socket)
    if await _first(control.loaded, stop):
        await server.start()
        log.info("DNS serves %s port %d", ", ".join(config.addresses), config.port)
        await stop.wait()
        await asyncio.sleep(_DRAIN)
        await server.stop()
    listener.close()


async def _first(wanted: asyncio.Event, stop: asyncio.Event) -> bool:
    """Wait for either; whether it is ``wanted``."""
    waits = [asyncio.create_task(event.wait()) for event in (wanted, stop)]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for task in waits:
        task.cancel()
    return wanted.is_set()


def _control_socket(path: str) -> socket.socket:
    """In the place of the socket of the process before, if there was one: that
    one has been connected to already, or is of no use."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    aside = f"{path}.{os.getpid()}"
    try:
        with contextlib.suppress(FileNotFoundError):
            Path(aside).unlink()
        sock.bind(aside)
        os.chmod(aside, 0o600)
        sock.listen(16)
        os.rename(aside, path)
    except OSError as error:
        sock.close()
        raise UnavailableError(
            f"DNS cannot make its socket {path}: {error.strerror}", "see that its folder exists"
        ) from error
    return sock


def take_room() -> None:
    """As many files as this process may have open, because each connection and
    each question to a resolver is one; and none of the daemon's protection from
    the kernel that looks for memory: machines have a say in how much this uses."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.suppress(OSError):  # a container's /proc may be read-only
        own = Path("/proc/self/oom_score_adj")
        own.write_text(str(max(0, int(own.read_text()))))


def main() -> int:
    config = frames.ProcessConfig.from_json(sys.argv[1])
    logs.setup(config.log)
    sys.setswitchinterval(_SWITCH)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's, meant for the daemon
    try:
        asyncio.run(serve(config))
    except FlyebpfError as error:
        log.error("%s", "; ".join(filter(None, (error.message, error.remedy))))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
