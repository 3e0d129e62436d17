# SPDX-License-Identifier: Apache-2.0
"""Certificates and keys as people give them: PEM text in, what is sound out.

Nothing here decides whom clients trust: a chain may end at any authority.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives import hashes

from flyebpf.certificates import checks, pem
from flyebpf.certificates.selfsigned import self_signed

__all__ = ["Pair", "pair", "self_signed"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A chain and its key, checked. Fields as those of
    :class:`flyebpf.model.certificates.Certificate`; times are UTC."""

    chain: str
    key: str
    names: tuple[str, ...]
    issuer: str
    self_issued: bool
    key_type: str
    fingerprint: str
    not_before: datetime
    not_after: datetime


def pair(hostname: str, chain: str, key: str, now: datetime) -> Pair:
    """What PEM texts hold, if connections to ``hostname`` can be served with it.

    Raises InvalidError, which names the host and the remedy: what cannot be read,
    a key that is not the certificate's, a certificate for other names, the wrong
    order, what has expired or is not valid yet.
    """
    of = f"the certificate of {hostname}"
    found = pem.certificates(chain, of)
    secret = pem.private_key(key, f"the key of {hostname}")
    own = found[0]
    checks.check_key(secret, found, of)
    names = checks.dns_names(own)
    checks.check_names(hostname, names, of)
    checks.check_use(own, of)
    checks.check_order(found, of)
    checks.check_times(found, of, now)
    return Pair(
        chain="".join(pem.certificate_text(certificate) for certificate in found),
        key=pem.key_text(secret),
        names=names,
        issuer=checks.short(own.issuer),
        self_issued=own.issuer == own.subject,
        key_type=pem.key_type(secret),
        fingerprint=own.fingerprint(hashes.SHA256()).hex(),
        not_before=max(checks.not_before(certificate) for certificate in found),
        not_after=min(checks.not_after(certificate) for certificate in found),
    )
