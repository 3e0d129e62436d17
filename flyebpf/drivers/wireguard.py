# SPDX-License-Identifier: Apache-2.0
"""What a WireGuard device is, whether the kernel or ``wireguard-go`` runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Protocol

from flyebpf.errors import InvalidError

KEEPALIVE = 25
"""Seconds (wg(8), PersistentKeepalive)."""

SESSION_LIFE = 180
"""Seconds until a session that made no new handshake is dead (REJECT_AFTER_TIME
of the WireGuard paper, section 6.1)."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer as the device has it. ``public_key``: base64. ``endpoint``:
    ``192.0.2.1:51820``, ``[2001:db8::1]:51820`` or ``""``; the device changes it
    when the peer roams. ``allowed``: CIDRs. ``handshake``: of the last one, Unix
    time, 0 for never. Bytes are of WireGuard's packets."""

    public_key: str
    endpoint: str = ""
    allowed: frozenset[str] = frozenset()
    keepalive: int = 0
    handshake: float = 0.0
    received: int = 0
    sent: int = 0


@dataclass(frozen=True, slots=True)
class Device:
    """``private_key``: 32 bytes, empty when none is set. ``port``: UDP."""

    private_key: bytes = field(repr=False)
    port: int
    peers: dict[str, Peer]


@dataclass(frozen=True, slots=True)
class PeerChange:
    """What becomes of one peer; None leaves a value as it is. A peer that is
    not there is made, unless it is to be removed."""

    public_key: str
    endpoint: str | None = None
    allowed: frozenset[str] | None = None
    keepalive: int | None = None
    remove: bool = False


class Backend(Protocol):
    """Raises KernelError or UnavailableError where the device cannot be had."""

    name: str
    """What ``status`` calls it: "kernel" or "wireguard-go"."""

    def read(self, device: str) -> Device:
        """Everything about it; for any thread."""

    def write(
        self,
        device: str,
        *,
        private_key: bytes | None = None,
        port: int | None = None,
        peers: Sequence[PeerChange] = (),
    ) -> None:
        """Change what is given, and nothing else: sessions go on."""


def canonical(allowed: Sequence[str]) -> frozenset[str]:
    """CIDRs as a device reports them. Raises InvalidError."""
    try:
        return frozenset(str(ip_network(text)) for text in allowed)
    except ValueError as error:
        raise InvalidError(f"{error}: it cannot be the source of a peer's packets") from error


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Address and port. Raises InvalidError."""
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InvalidError(
            f"{endpoint!r} is not an endpoint", "write it as 192.0.2.1:51820 or [2001:db8::1]:51820"
        )
    return host.strip("[]"), int(port)


def join_endpoint(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
