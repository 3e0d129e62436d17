# SPDX-License-Identifier: Apache-2.0
"""The first words of PostgreSQL's clients, as a process: ``python -m flyebpf.proxy.relay
FOLDER CONTROL USER``.

Clients ask for TLS in PostgreSQL's own words, which Envoy does not know. This process
answers them and hands the stream to Envoy's listener for it, a pipe in ``FOLDER``, with
client and dialled address before it (PROXY protocol); from then on it passes bytes. It
has no rights but to these pipes, and goes on without the daemon, which finds it by
``CONTROL``, a unix socket: to whoever connects there it says ``{listener: [IPv4 port,
IPv6 port]}`` as JSON. SIGTERM: it takes no new clients and ends with its last one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import cast

from flyebpf import rights
from flyebpf.proxy.chains import Listener, cancel_listener, pg_listeners, pipe
from flyebpf.proxy.postgres import (
    UNWILLING,
    WILLING,
    Opening,
    Step,
    proxy_header,
    refusal,
)

OPENING = 15.0  # seconds for a client's first words
MOST_OPENING = 10_000  # clients that have said nothing usable yet; the oldest goes first
MOST = 100_000  # clients
BUFFER = 65_536  # bytes on their way to one side
BACKLOG = 4096


class Relay:
    """Who is there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clients: set[Client] = set()
        self.opening: dict[Client, None] = {}
        self.ended = asyncio.Event()
        self.draining = False

    def enter(self, client: Client) -> bool:
        """Whether there is room for it."""
        if len(self.clients) >= MOST:
            return False
        self.clients.add(client)
        self.opening[client] = None
        if len(self.opening) > MOST_OPENING:
            next(iter(self.opening)).abort()
        return True

    def leave(self, client: Client) -> None:
        self.clients.discard(client)
        self.opening.pop(client, None)
        if self.draining and not self.clients:
            self.ended.set()

    def drain(self) -> None:
        self.draining = True
        if not self.clients:
            self.ended.set()


class Side(asyncio.Protocol):
    """One end of a connection; what comes goes to ``other``, no faster than it takes
    it."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: Side | None = None
        self.finished = False  # it sends nothing more

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=BUFFER)

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        """The other direction goes on, unless that has ended before."""
        self.finished = True
        if self.other is None or self.other.transport is None or self.other.finished:
            return False  # which closes this side, and so the other
        if not self.other.transport.is_closing():
            self.other.transport.write_eof()
        return True

    def pause_writing(self) -> None:
        self._read_from_other(wanted=False)

    def resume_writing(self) -> None:
        self._read_from_other(wanted=True)

    def _read_from_other(self, *, wanted: bool) -> None:
        transport = self.other.transport if self.other is not None else None
        if transport is None or transport.is_closing():
            return
        if wanted and not transport.is_reading():
            transport.resume_reading()
        elif not wanted and transport.is_reading():
            transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None:
            if error is None:
                self.other.close()
            else:
                self.other.abort()

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class Client(Side):
    """A client: first its words are answered, then it is one side of two."""

    def __init__(self, relay: Relay, listener: Listener) -> None:
        super().__init__()
        self._relay = relay
        self._listener = listener
        self._opening: Opening | None = Opening()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self._relay.enter(self):
            self.abort()
            return
        found = transport.get_extra_info("socket")
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._timer = asyncio.get_running_loop().call_later(OPENING, self.abort)

    def data_received(self, data: bytes) -> None:
        if self._opening is None:
            super().data_received(data)
            return
        assert self.transport is not None
        match self._opening.take(data):
            case Step.ASK:
                self.transport.write(WILLING)
            case Step.DECLINE:
                self.transport.write(UNWILLING)
            case Step.TLS:
                self._hand_over(pipe(self._relay.folder, self._listener))
            case Step.CANCEL:
                self._hand_over(pipe(self._relay.folder, cancel_listener(self._listener)))
            case Step.PLAIN:
                self.transport.write(refusal())
                self.transport.close()
            case Step.NONSENSE:
                self.transport.close()

    def _hand_over(self, path: Path) -> None:
        assert self.transport is not None
        self.transport.pause_reading()
        self._task = asyncio.get_running_loop().create_task(self._connect(path))

    async def _connect(self, path: Path) -> None:
        assert self.transport is not None
        assert self._opening is not None
        loop = asyncio.get_running_loop()
        try:
            _, side = await loop.create_unix_connection(Side, str(path))
        except OSError:  # Envoy is not there, or has no room
            self.abort()
            return
        if self.transport.is_closing():
            side.abort()
            return
        assert side.transport is not None
        source, local = (self.transport.get_extra_info(n)[:2] for n in ("peername", "sockname"))
        side.transport.write(proxy_header(source, local) + self._opening.data)
        self.other, side.other = side, self
        self._opening = None
        self._settle()
        self.transport.resume_reading()

    def _settle(self) -> None:
        self._relay.opening.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def connection_lost(self, error: Exception | None) -> None:
        self._settle()
        self._relay.leave(self)
        super().connection_lost(error)


def bound() -> Iterator[tuple[Listener, tuple[socket.socket, socket.socket]]]:
    """Listening sockets at ports of the kernel's choice, for each listener."""
    for listener in pg_listeners():
        pair = []
        for family, anywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.bind((anywhere, 0))
            made.listen(BACKLOG)
            pair.append(made)
        yield listener, (pair[0], pair[1])


async def serve(folder: Path, control: Path) -> None:
    """Until SIGTERM, and the last client's end."""
    loop = asyncio.get_running_loop()
    relay = Relay(folder)
    sockets = dict(bound())
    servers = [
        await loop.create_server(partial(Client, relay, listener), sock=one, backlog=BACKLOG)
        for listener, pair in sockets.items()
        for one in pair
    ]
    ports = {of.name: [one.getsockname()[1] for one in pair] for of, pair in sockets.items()}
    answer = json.dumps(ports).encode()

    async def tell(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    aside = control.with_name(f"{control.name}.{os.getpid()}")
    telling = await asyncio.start_unix_server(tell, str(aside))
    aside.rename(control)
    loop.add_signal_handler(signal.SIGTERM, relay.drain)
    await relay.ended.wait()
    for server in (*servers, telling):
        server.close()


def main() -> int:
    rights.drop(sys.argv[3], "the relay of pg_tls")
    asyncio.run(serve(Path(sys.argv[1]), Path(sys.argv[2])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
