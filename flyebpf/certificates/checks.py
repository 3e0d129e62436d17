# SPDX-License-Identifier: Apache-2.0
"""Whether a chain and a key serve a host name.

Checks raise InvalidError; ``of`` is what messages call the chain."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, SignatureAlgorithmOID

from flyebpf.certificates.pem import ORDER, PrivateKey
from flyebpf.errors import InvalidError


def covers(name: str, hostname: str) -> bool:
    """Whether a name of a certificate is ``hostname``'s (RFC 9525, section 6.3): a
    ``*`` stands for its first label, and for nothing else. Lower case both."""
    if name == hostname:
        return True
    label, _, rest = hostname.partition(".")
    return name == f"*.{rest}" and label != "*"


def not_before(certificate: x509.Certificate) -> datetime:
    """In UTC."""
    found: datetime | None = getattr(certificate, "not_valid_before_utc", None)
    return found or certificate.not_valid_before.replace(tzinfo=UTC)


def not_after(certificate: x509.Certificate) -> datetime:
    """In UTC."""
    found: datetime | None = getattr(certificate, "not_valid_after_utc", None)
    return found or certificate.not_valid_after.replace(tzinfo=UTC)


def check_key(key: PrivateKey, chain: Sequence[x509.Certificate], of: str) -> None:
    """The key is that of the chain's first certificate."""
    mine = _public_bytes(key.public_key())
    matching = [n for n, found in enumerate(chain) if _public_bytes(found.public_key()) == mine]
    if not matching:
        raise InvalidError(
            f"{of} was made for another key than the one given",
            "give the key that the certificate was requested with",
        )
    if matching[0]:
        raise InvalidError(
            f"{of}: the key is that of number {matching[0] + 1} of the chain, not of the first",
            ORDER,
        )


def check_names(hostname: str, names: Sequence[str], of: str) -> None:
    """One of the names is the host's."""
    if any(covers(name, hostname) for name in names):
        return
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    raise InvalidError(
        f"{of} is for {shown or 'no DNS name at all'}",
        f"get one with {hostname} among its subject alternative names",
    )


def check_use(own: x509.Certificate, of: str) -> None:
    """It may be shown by servers (RFC 5280, section 4.2.1.12)."""
    try:
        uses = own.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    good = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)
    if not any(use in good for use in uses):
        raise InvalidError(
            f"{of} is not for servers (its extended key usage)",
            "get one for TLS web server authentication",
        )


def check_order(chain: Sequence[x509.Certificate], of: str) -> None:
    """Each one has signed the one before it."""
    for number, (one, issuer) in enumerate(pairwise(chain), 1):
        if one.issuer == issuer.subject and _signed_by(one, issuer):
            continue
        raise InvalidError(
            f"{of}: number {number + 1} of the chain ({short(issuer.subject)}) is not the "
            f"issuer of number {number} (issued by {short(one.issuer)})",
            ORDER,
        )


def _signed_by(one: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the signature is that of the issuer's key; true for sorts of
    signatures that are not looked at (RSA-PSS)."""
    key, hashed = issuer.public_key(), one.signature_hash_algorithm
    signature, signed = one.signature, one.tbs_certificate_bytes
    try:
        if isinstance(key, rsa.RSAPublicKey) and hashed is not None:
            if one.signature_algorithm_oid != SignatureAlgorithmOID.RSASSA_PSS:
                key.verify(signature, signed, padding.PKCS1v15(), hashed)
        elif isinstance(key, ec.EllipticCurvePublicKey) and hashed is not None:
            key.verify(signature, signed, ec.ECDSA(hashed))
        elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
            key.verify(signature, signed)
    except (InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def check_times(chain: Sequence[x509.Certificate], of: str, now: datetime) -> None:
    """All of the chain are valid now."""
    for number, certificate in enumerate(chain, 1):
        what = of if number == 1 else f"{of}: number {number} of the chain"
        start, end = not_before(certificate), not_after(certificate)
        if now >= end:
            raise InvalidError(
                f"{what} expired on {end:%Y-%m-%d %H:%M} UTC",
                "renew it; or set this host's clock, if that is wrong",
            )
        if now < start:
            raise InvalidError(
                f"{what} is valid only from {start:%Y-%m-%d %H:%M} UTC",
                "wait until then; or set this host's clock, if that is wrong",
            )


def dns_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """In lower case. The common name is none (RFC 9525, section 2)."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(name.lower() for name in found.value.get_values_for_type(x509.DNSName))


def short(name: x509.Name) -> str:
    """The common name, or the organization, or all of it; one printable line."""
    for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME):
        for attribute in name.get_attributes_for_oid(oid):
            return _printable(str(attribute.value))
    return _printable(name.rfc4514_string()) or "nobody"


def _printable(text: str) -> str:
    clean = "".join(char if char.isprintable() else "?" for char in text)
    return clean if len(clean) <= 80 else clean[:77] + "..."


def _public_bytes(key: object) -> bytes:
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    found: bytes = key.public_bytes(*form)  # type: ignore[attr-defined]
    return found
