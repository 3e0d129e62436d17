# SPDX-License-Identifier: Apache-2.0
"""The whole server: view, forwarder, UDP and TCP in one event loop."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

from flyebpf.dns.forward import ForwardConfig, Forwarder
from flyebpf.dns.limits import LimitsConfig, Rates
from flyebpf.dns.metrics import Metrics
from flyebpf.dns.responder import Responder
from flyebpf.dns.sockets import tcp_socket, udp_sockets
from flyebpf.dns.tcp import TcpServer
from flyebpf.dns.udp import UdpServer
from flyebpf.dns.view import View


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """``latency``: of ``config.mesh``."""

    forward: ForwardConfig = field(default_factory=ForwardConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    latency: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sockets:
    """What the server listens on; it closes them."""

    udp: Sequence[socket.socket]
    tcp: Sequence[socket.socket]

    @classmethod
    def open(cls, addresses: Sequence[str], port: int = 53) -> Sockets:
        """On these addresses, or none: raises UnavailableError."""
        udp: list[socket.socket] = []
        tcp: list[socket.socket] = []
        try:
            for address in addresses:
                udp += udp_sockets(address, port)
                tcp.append(tcp_socket(address, port))
        except BaseException:
            for sock in (*udp, *tcp):
                sock.close()
            raise
        return cls(udp, tcp)


class Server:
    """``view`` is fed by whoever made the server, in the loop's thread."""

    def __init__(self, config: ServerConfig, sockets: Sockets, view: View | None = None) -> None:
        """Raises InvalidError for an upstream that is no address."""
        self.config = config
        self.metrics = Metrics()
        self.forwarder = Forwarder(config.forward, config.limits, self.metrics)
        self.responder = Responder(
            view if view is not None else View(config.latency), self.forwarder, self.metrics
        )
        rates = Rates(config.limits.rate, config.limits.burst)
        self._udp = UdpServer(sockets.udp, self.responder, rates)
        self._tcp = TcpServer(sockets.tcp, self.responder, rates, config.limits)

    @property
    def view(self) -> View:
        return self.responder.view

    @view.setter
    def view(self, view: View) -> None:
        self.responder.view = view

    @property
    def connections(self) -> int:
        """TCP connections now."""
        return self._tcp.connections

    async def start(self) -> None:
        self._udp.start()
        self._tcp.start()

    async def stop(self) -> None:
        self._udp.stop()
        await self._tcp.stop()
        self.forwarder.stop()
