# SPDX-License-Identifier: Apache-2.0
"""Messages for the kernel's WireGuard, as pyroute2 packs and unpacks them."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest
from pyroute2.netlink.generic.wireguard import AsyncWireGuard, wgmsg

from flyebpf.drivers import netlink_wireguard
from flyebpf.drivers.netlink_wireguard import KernelWireguard, decode_peer, encode_peer
from flyebpf.drivers.wireguard import Device, Peer, PeerChange

KEY = base64.b64encode(bytes(range(32))).decode()
OTHER = base64.b64encode(bytes(range(1, 33))).decode()


def message(change: PeerChange, private_key: bytes = b"", port: int = 0) -> Any:
    """What the kernel would get, or answer."""
    packed = wgmsg()
    packed["cmd"] = 1
    packed["attrs"].append(["WGDEVICE_A_IFNAME", "fly0"])
    if private_key:
        packed["attrs"].append(["WGDEVICE_A_PRIVATE_KEY", base64.b64encode(private_key)])
        packed["attrs"].append(["WGDEVICE_A_LISTEN_PORT", port])
    builder = AsyncWireGuard.__new__(AsyncWireGuard)
    builder._wg_set_peer(packed, encode_peer(change))
    packed.encode()
    read = wgmsg(packed.data)
    read.decode()
    return read


@pytest.mark.parametrize("endpoint", ["192.0.2.1:51820", "[2001:db8::1]:7"])
def test_a_peer_is_the_same_there_and_back(endpoint: str) -> None:
    allowed = frozenset(("fdaa:8000:1::/48", "172.16.0.0/20"))
    read = message(PeerChange(KEY, endpoint, allowed, 25))
    (peer,) = read.get_attr("WGDEVICE_A_PEERS")
    assert decode_peer(peer) == Peer(KEY, endpoint, allowed, 25)


def test_only_what_is_given_is_sent() -> None:
    assert encode_peer(PeerChange(KEY)) == {"public_key": KEY}
    assert encode_peer(PeerChange(KEY, remove=True)) == {"public_key": KEY, "remove": True}
    words = encode_peer(PeerChange(KEY, allowed=frozenset(("::/0",))))
    assert words["replace_allowed_ips"] is True
    assert "endpoint_addr" not in words


def test_what_the_kernel_adds_is_read() -> None:
    """Handshake and bytes, which only answers have (linux/wireguard.h)."""
    read = message(PeerChange(KEY))
    (peer,) = read.get_attr("WGDEVICE_A_PEERS")
    peer["attrs"] += [
        ("WGPEER_A_LAST_HANDSHAKE_TIME", {"tv_sec": 1700000000, "tv_nsec": 500000000}),
        ("WGPEER_A_RX_BYTES", 10),
        ("WGPEER_A_TX_BYTES", 20),
    ]
    assert decode_peer(peer) == Peer(KEY, handshake=1700000000.5, received=10, sent=20)


def test_a_handshake_time_is_sixteen_bytes() -> None:
    found = wgmsg.wgdevice_peer.parse_handshake_time(
        struct.pack("=HHqq", 20, 6, 1700000000, 500000000)
    )
    found.decode()
    assert (found["tv_sec"], found["tv_nsec"]) == (1700000000, 500000000)


class Answering:
    """A socket whose kernel says this."""

    def __init__(self, *messages: Any) -> None:
        self._messages = messages

    def __enter__(self) -> Answering:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def info(self, _: str) -> tuple[Any, ...]:
        return self._messages


def test_a_long_answer_is_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many peers come in several messages, and one peer may be in two."""
    first = message(
        PeerChange(KEY, "192.0.2.1:1", frozenset(("10.0.0.0/24",)), 25),
        private_key=b"k" * 32,
        port=51820,
    )
    second = message(PeerChange(KEY, allowed=frozenset(("10.0.1.0/24",))))
    third = message(PeerChange(OTHER, allowed=frozenset(("::/0",))))
    monkeypatch.setattr(netlink_wireguard, "WireGuard", lambda: Answering(first, second, third))
    assert KernelWireguard().read("fly0") == Device(
        b"k" * 32,
        51820,
        {
            KEY: Peer(KEY, "192.0.2.1:1", frozenset(("10.0.0.0/24", "10.0.1.0/24")), 25),
            OTHER: Peer(OTHER, allowed=frozenset(("::/0",))),
        },
    )
