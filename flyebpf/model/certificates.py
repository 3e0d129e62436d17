# SPDX-License-Identifier: Apache-2.0
"""Certificates of host names, with their keys.

A field with ``SECRET`` in its metadata is in no text that anybody sees: not in
``repr``, messages (``codec``) or the event stream.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

SECRET = {"secret": True}


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is known of the certificate that connections to ``hostname`` get. It is
    small, for lists; the certificate itself is in :class:`KeyPair`, which is written
    and deleted in the same transactions.

    ``hostname``: lower case, ``*.example.com`` for all names one label below
    example.com. ``app``: whose it is; "" for the operator's certificate of all
    apps' default host names. The rest is what the chain's first certificate says:
    ``names`` are its DNS names, ``issuer`` who signed it, times are RFC 3339 in UTC
    (``not_after`` the earliest of the chain), ``fingerprint`` its SHA-256 in hex.
    """

    kind: ClassVar[str] = "certificate"
    hostname: str
    app: str
    names: tuple[str, ...]
    issuer: str
    self_issued: bool
    key_type: str  # as in "ECDSA P-256"
    fingerprint: str
    not_before: str
    not_after: str
    created: str = ""  # RFC 3339, UTC

    @property
    def ident(self) -> str:
        return self.hostname


@dataclass(frozen=True, slots=True)
class KeyPair:
    """What connections to ``hostname`` are served with. ``chain``: PEM, the host's own
    first, then each one's issuer. ``key``: PEM (PKCS #8) without a passphrase."""

    kind: ClassVar[str] = "key_pair"
    hostname: str
    app: str
    chain: str
    key: str = field(repr=False, metadata=SECRET)

    @property
    def ident(self) -> str:
        return self.hostname


@dataclass(frozen=True, slots=True)
class SelfSigned:
    """What ports with ``default_self_signed`` serve where their app has no certificate.

    One for all apps, ``name`` "default": nobody vouches for it, so it says nothing of
    whose a connection is. Fields as of the others."""

    kind: ClassVar[str] = "self_signed"
    name: str
    chain: str
    key: str = field(repr=False, metadata=SECRET)
    not_after: str

    @property
    def ident(self) -> str:
        return self.name


DEFAULT = "default"
"""The name of the one that is served."""


def public_fields(cls: type[Any]) -> frozenset[str]:
    """The names of a record's fields that anybody may see."""
    return frozenset(f.name for f in fields(cls) if not f.metadata.get("secret"))
