# SPDX-License-Identifier: Apache-2.0
"""Keys of WireGuard: Curve25519 (RFC 7748), 32 bytes each, written as base64."""

from __future__ import annotations

import base64
import binascii
import os

from flyebpf.errors import InvalidError

LENGTH = 32
_LOW_ORDER = frozenset(
    # Points with which the shared secret is zero for everybody (RFC 7748,
    # section 6.1), little-endian; those above the field's prime included.
    bytes.fromhex(text)
    for text in (
        "00" * 32,
        "01" + "00" * 31,
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
)


def new_private() -> bytes:
    """32 random bytes, clamped (RFC 7748, section 5), as `wg genkey` does."""
    key = bytearray(os.urandom(LENGTH))
    key[0] &= 248
    key[31] = key[31] & 127 | 64
    return bytes(key)


def public_half(private: bytes) -> str:
    """The public key of 32 private bytes, base64."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 (start-up time)
    from cryptography.hazmat.primitives.asymmetric import x25519  # noqa: PLC0415

    public = x25519.X25519PrivateKey.from_private_bytes(private).public_key()
    form = serialization.Encoding.Raw, serialization.PublicFormat.Raw
    return base64.b64encode(public.public_bytes(*form)).decode()


def generate() -> tuple[str, str]:
    """A new private key and its public half, both in base64."""
    private = new_private()
    return base64.b64encode(private).decode(), public_half(private)


def public_key(text: str) -> str:
    """``text`` if it is a public key that can be used; raises InvalidError."""
    raw = decoded(text)
    if raw is None or raw[:31] + bytes([raw[31] & 127]) in _LOW_ORDER:
        shown = repr(text if len(text) <= 60 else text[:57] + "...")
        raise InvalidError(
            f"WireGuard public key {shown} is not valid",
            "give what `wg pubkey` prints: 44 characters of base64",
        )
    return text


def decoded(text: str) -> bytes | None:
    """The 32 bytes; None when ``text`` is not exactly their base64."""
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError):
        return None
    canonical = len(raw) == LENGTH and base64.b64encode(raw).decode() == text
    return raw if canonical else None
