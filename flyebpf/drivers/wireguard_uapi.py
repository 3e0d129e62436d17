# SPDX-License-Identifier: Apache-2.0
"""The text protocol of userspace WireGuard (wireguard.com/xplatform): lines of
``key=value``, keys in hex, a request or an answer ends with an empty line."""

from __future__ import annotations

import base64
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from flyebpf import wireguardkeys
from flyebpf.drivers.wireguard import Device, Peer, PeerChange
from flyebpf.errors import InvalidError, UnavailableError

TIMEOUT = 2.0  # seconds; milliseconds are usual
GET = "get=1\n\n"


def key_hex(public_key: str) -> str:
    """A base64 key of 32 bytes in hex. Raises InvalidError."""
    key = wireguardkeys.decoded(public_key)
    if key is None:
        raise InvalidError(
            f"{public_key!r} is not a WireGuard key", "a key is 44 characters of base64"
        )
    return key.hex()


def key_text(hexadecimal: str) -> str:
    return base64.b64encode(bytes.fromhex(hexadecimal)).decode()


def encode_set(private_key: bytes | None, port: int | None, peers: Sequence[PeerChange]) -> str:
    """A ``set`` request that changes only what is given."""
    lines = ["set=1"]
    if private_key is not None:
        lines.append(f"private_key={private_key.hex()}")
    if port is not None:
        lines.append(f"listen_port={port}")
    for peer in peers:
        lines += encode_peer(peer)
    return "\n".join(lines) + "\n\n"


def encode_peer(peer: PeerChange) -> Iterator[str]:
    yield f"public_key={key_hex(peer.public_key)}"
    if peer.remove:
        yield "remove=true"
        return
    if peer.endpoint is not None:
        yield f"endpoint={peer.endpoint}"
    if peer.keepalive is not None:
        yield f"persistent_keepalive_interval={peer.keepalive}"
    if peer.allowed is not None:
        yield "replace_allowed_ips=true"
        for cidr in sorted(peer.allowed):
            yield f"allowed_ip={cidr}"


def decode_get(answer: str) -> Device:
    """What a ``get`` was answered. Unknown keys are of newer versions. Raises
    UnavailableError for an error, and for what is no such answer."""
    found: dict[str, str] = {}  # of the device, and then its errno
    peers: list[tuple[dict[str, str], set[str]]] = []
    try:
        for key, value in pairs(answer):
            if key == "public_key":
                peers.append(({key: value}, set()))
            elif key == "allowed_ip" and peers:
                peers[-1][1].add(value)
            elif peers and key != "errno":
                peers[-1][0][key] = value
            else:
                found[key] = value
        number = int(found.get("errno", "-1"))
        device = Device(
            bytes.fromhex(found.get("private_key", "")),
            int(found.get("listen_port", "0")),
            {peer.public_key: peer for peer in (decode_peer(*lines) for lines in peers)},
        )
    except ValueError as error:
        raise UnavailableError(f"wireguard-go answered with {error}") from error
    if number:
        raise UnavailableError(f"wireguard-go refused to answer: {reason(number)}")
    return device


def decode_peer(lines: dict[str, str], allowed: set[str]) -> Peer:
    """Raises ValueError."""

    def number(key: str) -> int:
        return int(lines.get(key, "0"))

    return Peer(
        public_key=key_text(lines["public_key"]),
        endpoint=lines.get("endpoint", ""),
        allowed=frozenset(allowed),
        keepalive=number("persistent_keepalive_interval"),
        handshake=number("last_handshake_time_sec") + number("last_handshake_time_nsec") / 1e9,
        received=number("rx_bytes"),
        sent=number("tx_bytes"),
    )


def pairs(answer: str) -> Iterator[tuple[str, str]]:
    for line in answer.splitlines():
        if line:
            key, equals, value = line.partition("=")
            if not equals:
                raise ValueError(f"the line {line[:80]!r}")
            yield key, value


def reason(number: int) -> str:
    return os.strerror(abs(number)) if number != -1 else "it gave no result"


def connect(folder: Path, device: str) -> socket.socket:
    """The device's socket in ``folder``. Raises OSError. A folder's path may be
    longer than the 107 bytes of a socket's name."""
    opened = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(TIMEOUT)
        connection.connect(f"/proc/self/fd/{opened}/{device}.sock")
    except OSError:
        connection.close()
        raise
    finally:
        os.close(opened)
    return connection


def ask(folder: Path, device: str, request: str) -> str:
    """One request and its answer. Raises UnavailableError."""
    try:
        with connect(folder, device) as connection:
            connection.sendall(request.encode())
            answer = bytearray()
            while not answer.endswith(b"\n\n"):
                data = connection.recv(1 << 16)
                if not data:
                    break
                answer += data
    except OSError as error:
        raise UnavailableError(f"wireguard-go of {device} does not answer: {error}") from error
    return answer.decode(errors="replace")


def check_set(device: str, answer: str) -> None:
    """Raises UnavailableError when a ``set`` was refused."""
    try:
        number = int(dict(pairs(answer)).get("errno", "-1"))
    except ValueError as error:
        raise UnavailableError(f"wireguard-go of {device} answered with {error}") from error
    if number:
        raise UnavailableError(f"wireguard-go refused to configure {device}: {reason(number)}")
