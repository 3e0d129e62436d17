# SPDX-License-Identifier: Apache-2.0
"""Host names whose certificates an authority issues when it is asked (ACME, RFC 8555)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from flyebpf.model.certificates import SECRET


class AcmeState(StrEnum):
    """Of a name."""

    PENDING = "pending"  # never issued, nor tried
    ISSUED = "issued"
    FAILED = "failed"  # the last try; ``error`` says why


@dataclass(frozen=True, slots=True)
class AcmeName:
    """A name of an app that gets its certificate by ACME, and is renewed by it.

    ``attempts``: that failed since the last one that did not. ``next_try``: nobody
    asks the authority before. ``host``: who asks it now, until ``lease`` at most. All
    times are RFC 3339 in UTC, "" for none.
    """

    kind: ClassVar[str] = "acme_name"
    hostname: str
    app: str
    state: AcmeState = AcmeState.PENDING
    error: str = ""
    attempts: int = 0
    next_try: str = ""
    host: str = ""
    lease: str = ""
    created: str = ""

    @property
    def ident(self) -> str:
        return self.hostname


@dataclass(frozen=True, slots=True)
class AcmeChallenge:
    """What every host's proxy answers the authority that looks whether a name leads here.

    HTTP-01: a request for ``token`` gets ``answer``. TLS-ALPN-01: a handshake with the
    protocol acme-tls/1 is shown ``chain`` (PEM), whose key is ``key``.
    """

    kind: ClassVar[str] = "acme_challenge"
    hostname: str
    app: str
    token: str = ""
    answer: str = ""
    chain: str = ""
    key: str = field(default="", repr=False, metadata=SECRET)

    @property
    def ident(self) -> str:
        return self.hostname
