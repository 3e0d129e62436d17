# SPDX-License-Identifier: Apache-2.0
"""The certificates of the state: by host name, and whose they are."""

from __future__ import annotations

from typing import Any

from flyebpf.model.acme import AcmeChallenge, AcmeName
from flyebpf.model.certificates import Certificate, KeyPair, SelfSigned
from flyebpf.model.index import Index


class Vault:
    """Indexes over the tables that the state fills. Not thread safe."""

    def __init__(self) -> None:
        self.certificates: dict[str, Certificate] = {}
        self.pairs: dict[str, KeyPair] = {}
        self.self_signed: dict[str, SelfSigned] = {}
        self.acme_names: dict[str, AcmeName] = {}
        self.challenges: dict[str, AcmeChallenge] = {}
        self._by_app = Index()
        self._acme_by_app = Index()

    def add(self, record: Any) -> None:
        """A record has come into one of the tables; others are ignored."""
        if isinstance(record, KeyPair):
            self._by_app.add(record.app, record.hostname)
        elif isinstance(record, AcmeName):
            self._acme_by_app.add(record.app, record.hostname)

    def discard(self, record: Any) -> None:
        """It has gone."""
        if isinstance(record, KeyPair):
            self._by_app.discard(record.app, record.hostname)
        elif isinstance(record, AcmeName):
            self._acme_by_app.discard(record.app, record.hostname)

    def of(self, app: str) -> list[KeyPair]:
        """An app's pairs, by host name; of "", the operator's."""
        return [self.pairs[name] for name in self._by_app[app]]

    def acme_of(self, app: str) -> list[str]:
        """An app's host names that get their certificates by ACME."""
        return list(self._acme_by_app[app])
