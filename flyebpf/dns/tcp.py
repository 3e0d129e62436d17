# SPDX-License-Identifier: Apache-2.0
"""Queries by TCP: any number on one connection, answered as answers come
(RFC 7766)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Awaitable, Sequence

from flyebpf.dns.asker import Asker
from flyebpf.dns.limits import LimitsConfig, Rates, Shares
from flyebpf.dns.responder import Responder
from flyebpf.dns.udp import Clients

log = logging.getLogger(__name__)
TURN = 16
"""Queries of one connection that are answered, and connections that are accepted,
before the others' turn."""
PAUSE = 1.0
"""Seconds until connections are accepted again after it could not be done."""


class TcpServer:
    """Serves connections to listening sockets. Those over a limit are reset before
    anything is made for them: refusing has to be cheaper than connecting."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        responder: Responder,
        rates: Rates,
        limits: LimitsConfig,
    ) -> None:
        self._sockets = sockets
        self._responder = responder
        self._metrics = responder.metrics
        self._rates = rates
        self._limits = limits
        self._arrivals = Rates(limits.connection_rate, limits.connection_burst)
        self._shares = Shares(limits.connections, limits.connections_total)
        self._clients = Clients()
        self._running: set[asyncio.Task[None]] = set()
        self._stopped = False

    @property
    def connections(self) -> int:
        """How many there are."""
        return self._shares.used

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        for sock in self._sockets:
            self._listen(sock)

    async def stop(self) -> None:
        self._stopped = True
        for sock in self._sockets:
            self._loop.remove_reader(sock)
            sock.close()
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _listen(self, sock: socket.socket) -> None:
        if not self._stopped:
            self._loop.add_reader(sock, self._acceptable, sock)

    def _acceptable(self, sock: socket.socket) -> None:
        for _ in range(TURN):
            try:
                connection, client = sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # no more files, or no memory
                log.warning("no connection can be accepted: %s", error.strerror)
                self._loop.remove_reader(sock)
                self._loop.call_later(PAUSE, self._listen, sock)
                return
            asker = self._admitted(connection, client[0])
            if asker is None:
                reset(connection)
                continue
            task = self._loop.create_task(self._converse(connection, asker))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def _admitted(self, connection: socket.socket, client: str) -> Asker | None:
        """Who is there, and has a share now."""
        own = connection.getsockname()[0].partition("%")[0]
        asker = self._clients.at(client, socket.inet_pton(socket.AF_INET6, own))
        if asker is None:
            self._metrics.count("stranger")
            return None
        if self._arrivals.delay(asker, self._loop.time()) or not self._shares.take(asker):
            self._metrics.count("connections_refused")
            return None
        self._metrics.count("connections")
        return asker

    async def _converse(self, connection: socket.socket, asker: Asker) -> None:
        writer: asyncio.StreamWriter | None = None
        try:
            connection.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=connection)
            talk = Conversation(self._responder, self._rates, self._limits, asker, writer)
            await talk.run(reader)
        except OSError:  # the client is away
            pass
        except asyncio.CancelledError:  # the server ends
            pass
        finally:
            self._shares.give(asker)
            if writer is None:
                connection.close()
            else:
                writer.transport.abort()


def reset(connection: socket.socket) -> None:
    """Close without waiting for the other end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class Conversation:
    """One connection."""

    def __init__(
        self,
        responder: Responder,
        rates: Rates,
        limits: LimitsConfig,
        asker: Asker,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._responder = responder
        self._rates = rates
        self._limits = limits
        self._asker = asker
        self._writer = writer
        self._later: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(limits.pipelined)

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Until the client has said all, or nothing for too long."""
        try:
            taken = 0
            while (data := await self._next(reader)) is not None:
                await self._within_rate()
                await self._take(data)
                taken += 1
                if taken % TURN == 0:
                    await asyncio.sleep(0)
            if self._later:
                await asyncio.wait(self._later)
            async with asyncio.timeout(self._limits.idle):
                await self._writer.drain()
                self._writer.close()
                await self._writer.wait_closed()
        except TimeoutError:
            self._responder.metrics.count("connections_idle")
        finally:
            for task in self._later:
                task.cancel()

    async def _next(self, reader: asyncio.StreamReader) -> bytes | None:
        """The next whole message; None when no more will come."""
        try:
            async with asyncio.timeout(self._limits.idle):
                (size,) = struct.unpack("!H", await reader.readexactly(2))
                return await reader.readexactly(size)
        except asyncio.IncompleteReadError:
            return None
        except TimeoutError:
            self._responder.metrics.count("connections_idle")
            return None

    async def _within_rate(self) -> None:
        loop = asyncio.get_running_loop()
        while delay := self._rates.delay(self._asker, loop.time()):
            self._responder.metrics.count("limited")
            await asyncio.sleep(delay)

    async def _take(self, data: bytes) -> None:
        reply = self._responder.take(data, self._asker, True)
        if reply is None:
            return
        if isinstance(reply, bytes):
            self._write(reply)
        else:
            await self._room.acquire()
            task = asyncio.get_running_loop().create_task(self._write_later(reply))
            self._later.add(task)
            task.add_done_callback(self._done)
        async with asyncio.timeout(self._limits.idle):
            await self._writer.drain()

    async def _write_later(self, reply: Awaitable[bytes]) -> None:
        self._write(await reply)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._later.discard(task)
        self._room.release()

    def _write(self, message: bytes) -> None:
        if not self._writer.is_closing():
            with contextlib.suppress(OSError):
                self._writer.write(struct.pack("!H", len(message)) + message)
