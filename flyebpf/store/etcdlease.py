# SPDX-License-Identifier: Apache-2.0
"""Records that expire.

All records of a client that live equally long share one lease. Putting one
again that has not changed renews the lease and writes nothing: a host that says
every few seconds that it is there makes no changes that others hear of.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from flyebpf.store.base import Delete, Put, Transaction
from flyebpf.store.bodies import to_text
from flyebpf.store.etcdkeys import RawChange
from flyebpf.store.etcdmembers import Members


@dataclass(frozen=True, slots=True)
class _Kept:
    text: str
    lease: str
    revision: int


class Leases:
    """Thread safe."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._lock = threading.Lock()
        self._leases: dict[int, str] = {}
        self._kept: dict[tuple[str, str], _Kept] = {}

    def of(self, ttl: int) -> str:
        """The lease for records that live ``ttl`` seconds."""
        with self._lock:
            lease = self._leases.get(ttl)
        if lease is None:  # asked for without the lock, for which the watch would wait
            answer = self._members.read("/lease/grant", {"TTL": str(ttl), "ID": "0"})
            with self._lock:
                lease = self._leases.setdefault(ttl, str(answer["ID"]))
        return lease

    def forget(self) -> None:
        """Some lease has expired."""
        with self._lock:
            self._leases.clear()
            self._kept.clear()

    def renewed(self, transaction: Transaction) -> bool:
        """Whether all that it would do is to keep records alive, and that is
        done now."""
        if transaction.guards or not transaction.writes:
            return False
        leases: dict[str, None] = {}
        with self._lock:
            for write in transaction.writes:
                lease = self._unchanged(write)
                if lease is None:
                    return False
                leases[lease] = None
        for lease in leases:
            answer = self._members.read("/lease/keepalive", {"ID": lease})
            if int(answer.get("result", {}).get("TTL", 0)) <= 0:
                self.forget()
                return False
        return True

    def _unchanged(self, write: Put | Delete) -> str | None:
        """The lease that holds a record as it is to be written."""
        if isinstance(write, Delete) or write.ttl is None:
            return None
        kept = self._kept.get((write.kind, write.id))
        if kept is None or kept.text != to_text(write.body):
            return None
        return kept.lease if self._leases.get(write.ttl) == kept.lease else None

    def written(self, transaction: Transaction, revision: int) -> None:
        """Remember what was committed."""
        with self._lock:
            for write in transaction.writes:
                self._kept.pop((write.kind, write.id), None)
                if isinstance(write, Put) and write.ttl in self._leases:
                    self._kept[write.kind, write.id] = _Kept(
                        to_text(write.body), self._leases[write.ttl], revision
                    )

    def heard(self, changes: Sequence[RawChange]) -> None:
        """Others may write or delete such records too, and they expire."""
        with self._lock:
            for change in changes:
                kept = self._kept.get((change.kind, change.id))
                if kept is not None and change.revision > kept.revision:
                    del self._kept[change.kind, change.id]
