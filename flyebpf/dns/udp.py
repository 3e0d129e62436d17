# SPDX-License-Identifier: Apache-2.0
"""Queries by UDP: the path that has to be fast."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Sequence
from typing import Any

from flyebpf.dns.asker import Asker, asker_of
from flyebpf.dns.limits import Rates
from flyebpf.dns.responder import Responder
from flyebpf.dns.zone import nameserver

NAMESERVER = socket.inet_pton(socket.AF_INET6, "fdaa::3")
BATCH = 8
"""Datagrams that one socket may have answered before the others' turn."""
_LONGEST = 4096  # bytes of a query
_ANCILLARY = socket.CMSG_SPACE(20)  # one in6_pktinfo
_KNOWN = 16_384


class Clients:
    """Source addresses to askers, remembered: parsing costs more than looking up."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Asker, bytes] | None] = {}

    def at(self, address: str, asked: bytes) -> Asker | None:
        """Who asks from ``address`` at the server's address ``asked``. None for
        senders outside of private networks, and for other networks' servers."""
        try:
            found = self._known[address]
        except KeyError:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            asker = asker_of(address)
            found = (asker, nameserver(asker.network)) if asker else None
            self._known[address] = found
        if found is None or asked not in (NAMESERVER, found[1]):
            return None
        return found[0]


class UdpServer:
    """Answers from the address that was asked, on sockets of ``sockets``."""

    def __init__(
        self, sockets: Sequence[socket.socket], responder: Responder, rates: Rates
    ) -> None:
        self._sockets = sockets
        self._responder = responder
        self._metrics = responder.metrics
        self._rates = rates
        self._clients = Clients()
        self._later: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        for sock in self._sockets:
            self._loop.add_reader(sock, self._readable, sock)

    def stop(self) -> None:
        """Closes the sockets; answers that are under way are not given."""
        for sock in self._sockets:
            self._loop.remove_reader(sock)
            sock.close()
        for task in self._later:
            task.cancel()

    def _readable(self, sock: socket.socket) -> None:
        now = self._loop.time()
        for _ in range(BATCH):
            try:
                data, ancillary, _, sender = sock.recvmsg(_LONGEST, _ANCILLARY)
            except BlockingIOError:
                return
            except OSError:  # an ICMP error for an earlier answer
                continue
            if ancillary and sender[1]:
                self._take(sock, data, ancillary[0][2], sender, now)

    def _take(self, sock: socket.socket, data: bytes, info: bytes, to: Any, now: float) -> None:
        asker = self._clients.at(to[0], info[:16])
        if asker is None:
            self._metrics.count("stranger")
            return
        if self._rates.delay(asker, now):
            self._metrics.count("limited")
            return
        reply = self._responder.take(data, asker, False)
        if reply is None:
            return
        if isinstance(reply, bytes):
            self._send(sock, reply, info, to)
            return
        task = self._loop.create_task(self._send_later(sock, reply, info, to))
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def _send_later(
        self, sock: socket.socket, reply: Awaitable[bytes], info: bytes, to: Any
    ) -> None:
        message = await reply
        if sock.fileno() >= 0:
            self._send(sock, message, info, to)

    def _send(self, sock: socket.socket, message: bytes, info: bytes, to: Any) -> None:
        """From the address that was asked; the way is the routes' business, not
        that of the interface where the query came in."""
        source = info[:16] + b"\0\0\0\0"
        ancillary = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, source)]
        try:
            sock.sendmsg((message,), ancillary, 0, to)
        except OSError:  # no route to it any more, or no room
            self._metrics.count("unsent")
