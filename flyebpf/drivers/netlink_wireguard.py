# SPDX-License-Identifier: Apache-2.0
"""Devices of the kernel's WireGuard, by generic netlink (pyroute2)."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyroute2 import WireGuard

from flyebpf.drivers.netlink_io import kernel
from flyebpf.drivers.wireguard import Device, Peer, PeerChange, join_endpoint, split_endpoint


@contextmanager
def opened() -> Iterator[Any]:
    """A socket for one question: the daemon's threads share none."""
    with kernel("talk to the kernel's WireGuard"), WireGuard() as socket:
        yield socket


def refused(device: str) -> int | None:
    """Packets that a peer sent with a source that is not in its AllowedIPs, or that
    were no IP: the kernel's WireGuard counts them as frame errors (drivers/net/
    wireguard/receive.c). None where there is no such device."""
    try:
        return int(Path(f"/sys/class/net/{device}/statistics/rx_frame_errors").read_text())
    except (OSError, ValueError):
        return None


class KernelWireguard:
    """Creating and deleting are rtnetlink's (:mod:`netlink_mesh`)."""

    name = "kernel"

    def read(self, device: str) -> Device:
        """Several messages when there are many peers; one peer may be in two."""
        private_key, port = b"", 0
        peers: dict[str, Peer] = {}
        with opened() as socket:
            for message in socket.info(device):
                key = message.get_attr("WGDEVICE_A_PRIVATE_KEY")
                private_key = base64.b64decode(key) if key else private_key
                port = message.get_attr("WGDEVICE_A_LISTEN_PORT") or port
                for found in message.get_attr("WGDEVICE_A_PEERS") or ():
                    peer = decode_peer(found)
                    known = peers.get(peer.public_key, peer)
                    peers[peer.public_key] = replace(known, allowed=known.allowed | peer.allowed)
        return Device(b"" if private_key == bytes(32) else private_key, port, peers)

    def write(
        self,
        device: str,
        *,
        private_key: bytes | None = None,
        port: int | None = None,
        peers: Sequence[PeerChange] = (),
    ) -> None:
        with opened() as socket:
            if private_key is not None or port is not None:
                key = base64.b64encode(private_key) if private_key is not None else None
                socket.set(device, listen_port=port, private_key=key)
            for peer in peers:
                socket.set(device, peer=encode_peer(peer))


def decode_peer(found: Any) -> Peer:
    """From ``WGPEER_A_*`` (linux/wireguard.h)."""
    endpoint = found.get_attr("WGPEER_A_ENDPOINT")
    handshake = found.get_attr("WGPEER_A_LAST_HANDSHAKE_TIME")
    seen = handshake["tv_sec"] + handshake["tv_nsec"] / 1e9 if handshake else 0.0
    return Peer(
        public_key=text(found.get_attr("WGPEER_A_PUBLIC_KEY")),
        endpoint=join_endpoint(endpoint["addr"], endpoint["port"]) if endpoint else "",
        allowed=frozenset(ip["addr"] for ip in found.get_attr("WGPEER_A_ALLOWEDIPS") or ()),
        keepalive=found.get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL") or 0,
        handshake=seen,
        received=found.get_attr("WGPEER_A_RX_BYTES") or 0,
        sent=found.get_attr("WGPEER_A_TX_BYTES") or 0,
    )


def text(key: Any) -> str:
    return key.decode() if isinstance(key, bytes) else str(key)


def encode_peer(peer: PeerChange) -> dict[str, Any]:
    """As pyroute2 takes it."""
    words: dict[str, Any] = {"public_key": peer.public_key}
    if peer.remove:
        return words | {"remove": True}
    if peer.endpoint is not None:
        host, port = split_endpoint(peer.endpoint)
        words |= {"endpoint_addr": host, "endpoint_port": port}
    if peer.keepalive is not None:
        words["persistent_keepalive"] = peer.keepalive
    if peer.allowed is not None:
        words |= {"replace_allowed_ips": True, "allowed_ips": sorted(peer.allowed)}
    return words
