# SPDX-License-Identifier: Apache-2.0
"""The proxy's listeners: which one serves what, and its number in the programs'
map of sockets.

Numbers follow from what a listener does alone, so a daemon finds the same ones
that an earlier daemon wrote. TLS versions and ALPN are of a listener, so there is
one for each set of them; an app that changes its own goes to another listener,
and nobody's connections end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from flyebpf.model.proxyrows import Chain
from flyebpf.model.records import TlsOptions

H2, H1 = "h2", "http/1.1"
ALPN: tuple[tuple[str, ...], ...] = ((), (H1,), (H2,), (H2, H1))
V12, V13 = "TLSv1.2", "TLSv1.3"
VERSIONS: tuple[tuple[str, ...], ...] = ((V12, V13), (V12,), (V13,))
PG = "postgresql"
RANGES = 8
"""Port ranges of raw TCP that one address may have."""
FIRST_RANGE, FIRST_HTTPS, FIRST_TLS, FIRST_PG = 8, 16, 52, 88


class Signed(IntEnum):
    """Which clients are shown the certificate that vouches for nobody."""

    NONE = 0
    NAMELESS = 1  # who say no server name; others get that of the name
    ALL = 2


@dataclass(frozen=True, slots=True)
class Listener:
    """``shared``: on shared addresses, where Host or SNI say whose a connection is.
    ``inner``: at a pipe, for what another listener has decrypted.
    ``range``: of raw TCP, which of an address's port ranges; None: single ports."""

    name: str
    number: int
    chain: Chain
    shared: bool = False
    range: int | None = None
    tls: TlsOptions | None = None
    signed: Signed = Signed.NONE
    inner: bool = False


FIRST = {Chain.HTTPS: FIRST_HTTPS, Chain.TLS: FIRST_TLS, Chain.PG_TLS: FIRST_PG}
RAW = Listener("raw", 0, Chain.RAW)
HTTP = Listener("http", 1, Chain.HTTP)
SHARED_HTTP = Listener("shared-http", 2, Chain.HTTP, shared=True)
SHARED_HTTPS = Listener("shared-https", 3, Chain.HTTPS, shared=True, tls=TlsOptions())
SHARED_TLS = Listener("shared-tls", 4, Chain.TLS, shared=True, tls=TlsOptions(alpn=()))


INNER = Listener("shared-inner", 5, Chain.HTTPS, shared=True, inner=True)
"""HTTP on other ports of shared addresses than 80 and 443: whose such a connection is,
and so whether it is HTTP, is known once its server name is."""


def raw_range(place: int) -> Listener:
    """For the ``place``-th port range of an address."""
    return Listener(f"raw-range-{place}", FIRST_RANGE + place, Chain.RAW, range=place)


def with_tls(chain: Chain, options: TlsOptions, signed: Signed = Signed.NONE) -> Listener:
    """For connections with these options; ALPN is offered in our order, and what is
    neither HTTP/1.1 nor HTTP/2 is not. PostgreSQL's is its own."""
    alpn = tuple(protocol for protocol in (H2, H1) if protocol in options.alpn)
    versions = tuple(version for version in (V12, V13) if version in options.versions)
    place = 0 if chain is Chain.PG_TLS else ALPN.index(alpn)
    place = place * len(VERSIONS) + VERSIONS.index(versions or VERSIONS[0])
    place = place * len(Signed) + signed
    known = TlsOptions((PG,) if chain is Chain.PG_TLS else alpn, versions or VERSIONS[0])
    return Listener(f"{chain}-{place}", FIRST[chain] + place, chain, tls=known, signed=signed)


def pg_listeners() -> Iterator[Listener]:
    """Envoy's part of ``pg_tls``, at pipes: its clients come by ``proxy.relay``, whose
    sockets have these numbers."""
    for versions in VERSIONS:
        for signed in Signed:
            yield with_tls(Chain.PG_TLS, TlsOptions(versions=versions), signed)


PG_CANCEL = Listener("pg_tls-cancel", FIRST_PG, Chain.PG_TLS)
PG_CANCEL_ANY = Listener("pg_tls-cancel-any", FIRST_PG, Chain.PG_TLS, signed=Signed.ALL)
"""For CancelRequests, which come without TLS; they have no sockets."""


def cancel_listener(of: Listener) -> Listener:
    """Where a CancelRequest goes that a client of this listener of ``pg_listeners`` has
    sent."""
    return PG_CANCEL_ANY if of.signed is Signed.ALL else PG_CANCEL


def pipe(folder: Path, listener: Listener) -> Path:
    """Where one of Envoy's listeners without an address is found, among its sockets."""
    return folder / f"{listener.name}.pipe"


def all_listeners() -> Iterator[Listener]:
    """Every one with sockets of Envoy's."""
    yield from (RAW, HTTP, SHARED_HTTP, SHARED_HTTPS, SHARED_TLS)
    yield from map(raw_range, range(RANGES))
    for chain in (Chain.HTTPS, Chain.TLS):
        for alpn in ALPN:
            for versions in VERSIONS:
                for signed in Signed:
                    yield with_tls(chain, TlsOptions(alpn, versions), signed)
