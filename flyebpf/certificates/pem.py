# SPDX-License-Identifier: Apache-2.0
"""PEM text (RFC 7468) to certificates and keys, and back."""

from __future__ import annotations

import re

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from flyebpf.errors import InvalidError

MAX_PEM = 64 * 1024
"""Bytes of a chain, or of a key."""
MAX_CHAIN = 10
SMALLEST_RSA = 2048
CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----[ \t\r]*\n.*?\n-----END \1-----", re.DOTALL)
_KEYS = frozenset((b"PRIVATE KEY", b"RSA PRIVATE KEY", b"EC PRIVATE KEY", b"ENCRYPTED PRIVATE KEY"))
ORDER = "put the host's own certificate first, then its issuer's, then that one's issuer's"
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def certificates(text: str, of: str) -> list[x509.Certificate]:
    """All of a text, in its order; what stands between them is left out. ``of`` is
    what messages call it. Raises InvalidError, also where a key is among them."""
    blocks = _blocks(text, of)
    if any(label in _KEYS for label, _ in blocks):
        raise InvalidError(
            f"{of} has a private key in it", "give the key in a file of its own, with --key"
        )
    found = [block for label, block in blocks if label == b"CERTIFICATE"]
    if not found:
        raise InvalidError(
            f"{of} is no PEM text: there is no BEGIN CERTIFICATE in it",
            "convert it: openssl x509 -inform DER -in FILE -out FILE.pem",
        )
    if len(found) > MAX_CHAIN:
        raise InvalidError(
            f"{of} is a chain of {len(found)} certificates",
            f"give at most {MAX_CHAIN}: {ORDER}",
        )
    return [_certificate(block, number, of) for number, block in enumerate(found, 1)]


def private_key(text: str, of: str) -> PrivateKey:
    """The one key of a text, of a sort that browsers and the proxy can use.
    Raises InvalidError, which never says what is in it."""
    blocks = [(label, block) for label, block in _blocks(text, of) if label in _KEYS]
    if len(blocks) != 1:
        what = "no PEM text: there is no BEGIN PRIVATE KEY in it" if not blocks else "several keys"
        raise InvalidError(f"{of} is {what}", "give one private key as PEM, with --key")
    label, block = blocks[0]
    if label == b"ENCRYPTED PRIVATE KEY" or b"\nProc-Type: 4,ENCRYPTED" in block:
        raise InvalidError(
            f"{of} needs a passphrase, which nobody can type here",
            "take it off: openssl pkey -in FILE -out PLAIN, keep PLAIN secret and remove it after",
        )
    try:
        key = serialization.load_pem_private_key(block, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Without the cause: its text may tell of the key.
        raise InvalidError(
            f"{of} cannot be read: it is damaged", "get it again; `openssl pkey -in FILE -check`"
        ) from None
    return _servable(key, of)


def key_type(key: PrivateKey) -> str:
    """``RSA 2048``, ``ECDSA P-256``."""
    if isinstance(key, rsa.RSAPrivateKey):
        return f"RSA {key.key_size}"
    return f"ECDSA {CURVES[key.curve.name]}"


def certificate_text(certificate: x509.Certificate) -> str:
    """PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def key_text(key: PrivateKey) -> str:
    """PEM (PKCS #8, RFC 5958), not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def _blocks(text: str, of: str) -> list[tuple[bytes, bytes]]:
    """Labels and blocks of a PEM text (RFC 7468)."""
    data = text.encode("utf-8", "replace")
    if len(data) > MAX_PEM:
        raise InvalidError(f"{of} is over {MAX_PEM // 1024} KiB", "give the PEM file alone")
    return [(match[1], match[0] + b"\n") for match in _BLOCK.finditer(data)]


def _certificate(block: bytes, number: int, of: str) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(block)
        _ = certificate.extensions, certificate.issuer, certificate.subject
        certificate.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidError(
            f"{of} cannot be read: number {number} of its chain is damaged",
            "get the file again from whoever issued it; `openssl x509 -text -in FILE` shows it",
        ) from error
    return certificate


def _servable(key: object, of: str) -> PrivateKey:
    remedy = (
        f"make a key of ECDSA P-256 or of RSA with {SMALLEST_RSA} bits or more, and a "
        "certificate for it"
    )
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size >= SMALLEST_RSA:
            return key
        raise InvalidError(f"{of} is RSA with {key.key_size} bits, which is too short", remedy)
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in CURVES:
        return key
    raise InvalidError(f"{of} is of a sort that browsers or the proxy cannot use", remedy)
