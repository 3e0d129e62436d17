# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests, of authorities of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True)
class Made:
    """A certificate with its key; ``pem`` and ``key_pem`` are text."""

    certificate: x509.Certificate
    key: Any

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        return key_pem(self.key)

    @property
    def both(self) -> tuple[str, str]:
        """The certificate's text and the key's."""
        return self.pem, self.key_pem


def key_pem(key: Any, form: serialization.PrivateFormat = serialization.PrivateFormat.PKCS8) -> str:
    nothing = serialization.NoEncryption()
    text: bytes = key.private_bytes(serialization.Encoding.PEM, form, nothing)
    return text.decode()


def make(
    *names: str,
    issuer: Made | None = None,
    key: Any = None,
    subject: str | None = None,
    start: datetime = NOW - DAY,
    days: int = 90,
    use: Sequence[Any] = (SERVER,),
) -> Made:
    """A certificate for ``names``, signed by ``issuer`` or by itself."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject or names[0])])
    builder = (
        x509.CertificateBuilder()
        .subject_name(own)
        .issuer_name(issuer.certificate.subject if issuer else own)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + days * DAY)
    )
    if names:
        found = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        builder = builder.add_extension(found, critical=False)
    if use:
        builder = builder.add_extension(x509.ExtendedKeyUsage(use), critical=False)
    return Made(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


@cache
def root() -> Made:
    return make(subject="Test Root", use=(), days=3650)


@cache
def middle() -> Made:
    return make(issuer=root(), subject="Test CA 1", use=(), days=1000)


@cache
def leaf(*names: str) -> Made:
    """Of ``middle()``."""
    return make(*names, issuer=middle())


def chain(*names: str) -> tuple[str, str]:
    """A good chain for ``names``, and its key."""
    return leaf(*names).pem + middle().pem, leaf(*names).key_pem
