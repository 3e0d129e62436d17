# SPDX-License-Identifier: Apache-2.0
"""What ``doctor`` asks the network itself, through the daemon of this host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class Reply(StrEnum):
    """What came back. ``OPEN``: it was taken; ``CLOSED``: taken, and ended at once;
    ``REFUSED``: somebody said that nobody listens; ``SILENT``: nothing came."""

    OPEN = "open"
    CLOSED = "closed"
    REFUSED = "refused"
    SILENT = "silent"


class Trust(StrEnum):
    """What a client that checks certificates thinks of the one that it was shown.
    ``NONE``: it was shown none, the handshake failed; or there was no TLS."""

    NONE = "none"
    TRUSTED = "trusted"
    EXPIRED = "expired"
    WRONG_NAME = "wrong name"
    UNKNOWN_ISSUER = "unknown issuer"


@dataclass(frozen=True, slots=True)
class Fetched:
    """An HTTP request's answer. ``status``: 0 for none; ``headers``: names in lower
    case; ``text``: the beginning of what an error's answer says; ``fault``: why there
    is no answer, in words."""

    reply: Reply
    trust: Trust = Trust.NONE
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    fault: str = ""


class Way(StrEnum):
    """Where the program at the uplink leads a client's first packet."""

    MACHINE = "machine"
    HOST = "host"
    STACK = "stack"
    RESET = "reset"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Edge:
    """What becomes of a client's first packet to a public address.

    ``address``: of the machine that it goes to (private IPv4 or 6PN), else "".
    ``host``: the number of the other host that it goes to, else 0. ``reply``: of a
    machine of this host. ``reasons``: what was dropped at that moment, which may be
    others' packets.
    """

    way: Way
    address: str = ""
    host: int = 0
    reply: Reply | None = None
    reasons: Sequence[str] = ()


class Probes(Protocol):
    """Questions to machines and to the proxy. They raise FlyebpfError where they
    cannot be asked at all, and take a few seconds at most. From any thread."""

    def private(self, address: str, port: int) -> Reply:
        """A TCP connection to a machine's private IPv4 address, as this host's proxy
        makes it: to ports that the proxy may open connections to alone."""

    def sixpn(self, address: str, ports: Sequence[int]) -> Mapping[int, Reply]:
        """The same to a 6PN address of a machine of this host, as a host's service
        sends, and to any port; no connection is made."""

    def connect(self, address: str, port: int) -> Reply:
        """A TCP connection to an address that this host's proxy serves."""

    def fetch(self, address: str, port: int, host: str, *, tls: bool) -> Fetched:
        """``HEAD /`` of ``host`` at such an address."""

    def handshake(self, address: str, port: int, host: str, *, postgres: bool = False) -> Fetched:
        """A TLS handshake for ``host`` at such an address, asked for as PostgreSQL's
        clients do or begun at once; ``CLOSED`` where the connection ends at once after
        it."""

    def edge(self, address: str, protocol: str, port: int) -> Sequence[Edge]:
        """Some clients' first packets (``tcp``: a SYN, ``udp``: nothing in it) to a
        public address, at the uplink: each place that they go to, once. To machines
        of this host they really go."""
