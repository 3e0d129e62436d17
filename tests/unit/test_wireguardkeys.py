# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64

import pytest

from flyebpf import wireguardkeys
from flyebpf.errors import InvalidError

# RFC 7748, section 6.1: private and public keys of Alice and Bob.
KNOWN = [
    (
        "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
        "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
    ),
    (
        "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
        "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
    ),
]


def text(hexadecimal: str) -> str:
    return base64.b64encode(bytes.fromhex(hexadecimal)).decode()


@pytest.mark.parametrize(("private", "public"), KNOWN)
def test_public_half(private: str, public: str) -> None:
    assert wireguardkeys.public_half(bytes.fromhex(private)) == text(public)


def test_generated_keys_are_pairs_and_clamped() -> None:
    pairs = {wireguardkeys.generate() for _ in range(20)}
    assert len({private for private, _ in pairs}) == 20
    for private, public in pairs:
        raw = base64.b64decode(private)
        assert (len(raw), raw[0] & 7, raw[31] >> 6) == (32, 0, 1)
        assert wireguardkeys.public_half(raw) == public
        assert wireguardkeys.public_key(public) == public


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "x",
        "é" * 44,
        text(KNOWN[0][1])[:-1],
        text(KNOWN[0][1]) + "\n",
        text(KNOWN[0][1] + "00"),
        text(KNOWN[0][1])[:-2] + "z=",  # bits behind the last byte
        text("00" * 32),
        text("01" + "00" * 31),
        text("ed" + "ff" * 30 + "7f"),
        text("01" + "00" * 30 + "80"),  # the top bit does not count
    ],
)
def test_wrong_public_keys(wrong: str) -> None:
    with pytest.raises(InvalidError, match="WireGuard public key") as caught:
        wireguardkeys.public_key(wrong)
    assert "wg pubkey" in caught.value.remedy
