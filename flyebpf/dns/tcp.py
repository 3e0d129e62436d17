# SPDX-License-Identifier: Apache-2.0
"""Queries by TCP: any number on one connection, answered as answers come
(RFC 7766)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Sequence

from flyebpf.dns.asker import Asker
from flyebpf.dns.limits import LimitsConfig, Rates, Shares
from flyebpf.dns.responder import Responder
from flyebpf.dns.udp import Clients

TURN = 16
"""Queries of one connection that are answered before the others' turn."""


class TcpServer:
    """Serves connections to listening sockets."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        responder: Responder,
        rates: Rates,
        limits: LimitsConfig,
    ) -> None:
        self._sockets = sockets
        self._responder = responder
        self._rates = rates
        self._limits = limits
        self._shares = Shares(limits.connections, limits.connections_total)
        self._clients = Clients()
        self._servers: list[asyncio.Server] = []
        self._running: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        """How many there are."""
        return self._shares.used

    async def start(self) -> None:
        for sock in self._sockets:
            self._servers.append(await asyncio.start_server(self._accepted, sock=sock))

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        metrics = self._responder.metrics
        asker = self._asker(writer)
        if asker is None or not self._shares.take(asker):
            metrics.count("stranger" if asker is None else "connections_refused")
            writer.transport.abort()
            return
        metrics.count("connections")
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            await Conversation(self._responder, self._rates, self._limits, asker, writer).run(
                reader
            )
        except OSError:  # the client is away
            pass
        except asyncio.CancelledError:  # the server ends
            pass
        finally:
            self._running.discard(task)
            self._shares.give(asker)
            writer.transport.abort()

    def _asker(self, writer: asyncio.StreamWriter) -> Asker | None:
        client, own = writer.get_extra_info("peername"), writer.get_extra_info("sockname")
        if not client or not own:  # it has gone already
            return None
        packed = socket.inet_pton(socket.AF_INET6, own[0].partition("%")[0])
        return self._clients.at(client[0], packed)


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
