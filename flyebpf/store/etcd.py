# SPDX-License-Identifier: Apache-2.0
"""The store in an etcd cluster, for many hosts.

Revisions are etcd's own; they grow, but not by one. What operations read is
linearizable. :meth:`EtcdStore.revision`, ``changes`` and ``wait`` tell what this
client has heard of, its own commits included, and do not ask etcd: they work
while it is away.
"""

from __future__ import annotations

import builtins  # `list` is a method here
import secrets
from collections.abc import Iterator, Sequence

from flyebpf.config import EtcdConfig
from flyebpf.store.base import (
    Change,
    Entry,
    Extent,
    Json,
    Put,
    StoreUnavailableError,
    Transaction,
    check_writes,
)
from flyebpf.store.etcdcommit import MOST_GUARDS, Committer, check_guard, revision_of
from flyebpf.store.etcdfeed import Feed
from flyebpf.store.etcdkeys import Keys, decode, encode, end_of
from flyebpf.store.etcdlease import Leases
from flyebpf.store.etcdmembers import Members, OutcomeUnknownError

CHANGES_KEPT = 20_000
_PAGE = 1_000  # records that are read at once


class EtcdStore:
    """:class:`flyebpf.store.base.Store` in the cluster that ``config`` names.

    Making one does not need etcd to be there. ``client``: a name that no other
    client has at the same time; by default a random one. ``changes_kept``: so
    many of the newest changes stay readable.
    """

    def __init__(
        self, config: EtcdConfig, *, client: str = "", changes_kept: int = CHANGES_KEPT
    ) -> None:
        self._keys = Keys(config.prefix)
        self._members = Members(config)
        self._leases = Leases(self._members)
        self._client = client or f"~{secrets.token_hex(8)}"
        self._passing = not client
        self._committer = Committer(self._members, self._keys, self._leases, self._client)
        self._feed = Feed(self._members, self._keys, changes_kept, self._leases.heard)
        self._feed.start()

    def revision(self) -> int:
        return self._feed.revision()

    def get(self, kind: str, id: str) -> Entry | None:
        answer = self._members.read("/kv/range", {"key": self._keys.record(kind, id)})
        kvs = answer.get("kvs", [])
        return self._keys.entry(kvs[0]) if kvs else None

    def list(self, kind: str) -> builtins.list[Entry]:
        _, entries = self._range(self._keys.kind(kind))
        return [entry for entry in entries if entry.kind == kind]

    def snapshot(self) -> tuple[int, Iterator[Entry]]:
        """The entries raise CompactedError when etcd is compacted while they
        are being read."""
        revision, entries = self._range(self._keys.records)
        self._feed.read_at(revision)
        return revision, entries

    def extents(self, kinds: Sequence[str]) -> dict[str, Extent]:
        prefixes = [self._keys.kind(kind) for kind in kinds]
        looks = [
            {
                "request_range": {
                    "key": encode(prefix),
                    "range_end": encode(end_of(prefix)),
                    "sort_order": "DESCEND",
                    "sort_target": "MOD",
                    "limit": "1",
                    "keys_only": True,
                }
            }
            for prefix in prefixes
        ]
        answer = self._members.read("/kv/txn", {"success": looks})
        ranges = [one["response_range"] for one in answer["responses"]]
        return {
            kind: Extent(int(found.get("count", 0)), revision_of(found))
            for kind, found in zip(kinds, ranges, strict=True)
        }

    def commit(self, transaction: Transaction) -> int:
        """As the protocol says. Raises InvalidError where it is more than etcd
        takes at once, and StoreUnavailableError that says so when it is not
        known whether it was applied."""
        check_writes(transaction)
        if self._leases.renewed(transaction):
            return self._feed.revision()
        if any(isinstance(write, Put) for write in transaction.writes):
            revision = self._committer.commit(transaction)
        else:
            revision = self._commit_deletes(transaction)
        if revision is None:
            return self._feed.revision()
        self._leases.written(transaction, revision)
        self._feed.committed(revision)
        return revision

    def _commit_deletes(self, transaction: Transaction) -> int | None:
        """None when there is nothing to delete. One of the records that are there
        is guarded to be there, so that etcd makes no revision without a change."""
        while True:
            there = self._first_existing(transaction)
            if there is None:
                return None
            revision = self._committer.commit(transaction, (there,))
            if revision is not None:
                return revision

    def _first_existing(self, transaction: Transaction) -> str | None:
        """The key of a record that would be deleted. Checks the guards."""
        records = [*transaction.guards, *transaction.writes]
        keys = [self._keys.record(record.kind, record.id) for record in records]
        revisions: builtins.list[int] = []
        for at in range(0, len(keys), MOST_GUARDS):
            looks = [
                {"request_range": {"key": key, "keys_only": True}}
                for key in keys[at : at + MOST_GUARDS]
            ]
            answer = self._members.read("/kv/txn", {"success": looks})
            revisions += [revision_of(one["response_range"]) for one in answer["responses"]]
        count = len(transaction.guards)
        for guard, revision in zip(transaction.guards, revisions[:count], strict=True):
            check_guard(guard, revision)
        found = zip(keys[count:], revisions[count:], strict=True)
        return next((key for key, revision in found if revision), None)

    def changes(self, since: int, limit: int = 1000) -> builtins.list[Change]:
        return self._feed.changes(since, max(limit, 1))

    def wait(self, since: int, timeout: float) -> bool:
        return self._feed.wait(since, timeout)

    def close(self) -> None:
        """Threads in :meth:`wait` get StoreUnavailableError. Records that expire
        live on until they do."""
        if self._passing:
            self._remove_marker()
        self._feed.close()
        self._members.close()

    def _remove_marker(self) -> None:
        self._passing = False
        try:
            key = {"key": self._keys.client(self._client)}
            self._members.write("/kv/deleterange", key)
        except (StoreUnavailableError, OutcomeUnknownError):
            pass  # a hundred bytes that stay

    def _range(self, prefix: bytes) -> tuple[int, Iterator[Entry]]:
        """All records below ``prefix`` at one revision, read page by page."""
        end = encode(end_of(prefix))
        request: Json = {"key": encode(prefix), "range_end": end, "limit": str(_PAGE)}
        answer = self._members.read("/kv/range", request)
        revision = int(answer["header"].get("revision", 0))
        return revision, self._pages(request, answer, revision)

    def _pages(self, request: Json, answer: Json, revision: int) -> Iterator[Entry]:
        while True:
            kvs = answer.get("kvs", [])
            yield from map(self._keys.entry, kvs)
            if not answer.get("more"):
                return
            after = encode(_next_key(kvs[-1]["key"]))
            answer = self._members.read(
                "/kv/range", {**request, "key": after, "revision": str(revision)}
            )


def _next_key(key: str) -> bytes:
    """The first key after one (in base64)."""
    return decode(key) + b"\0"
