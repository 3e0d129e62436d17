# SPDX-License-Identifier: Apache-2.0
"""Transactions in etcd, applied once also when an answer is lost.

A member may die, or be stopped, after it was asked and before it has answered;
what it was asked may even be applied later. Therefore each transaction also
writes this client's marker, and applies only if the marker is as the last one
left it. When an answer is lost, the marker tells whether it was applied; if it
was not, another value is written to the marker in the same step, so that it
never will be. Only then is it tried again.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time

from flyebpf.errors import InvalidError
from flyebpf.store.base import (
    Delete,
    Guard,
    GuardFailedError,
    Json,
    Put,
    StoreUnavailableError,
    Transaction,
)
from flyebpf.store.bodies import to_text
from flyebpf.store.etcdkeys import Keys, encode
from flyebpf.store.etcdlease import Leases
from flyebpf.store.etcdmembers import LeaseGoneError, Members, OutcomeUnknownError

log = logging.getLogger(__name__)

MOST_OPERATIONS = 128  # of etcd's --max-txn-ops, by default
MOST_GUARDS = MOST_OPERATIONS - 3
_TRIES = 20  # with a marker that somebody else writes


class Committer:
    """Thread safe; commits of one client are one after the other."""

    def __init__(self, members: Members, keys: Keys, leases: Leases, client: str) -> None:
        self._members = members
        self._keys = keys
        self._leases = leases
        self._marker = keys.client(client)
        self._marked: int | None = None  # the marker's revision; None: not known
        self._lock = threading.Lock()

    def commit(self, transaction: Transaction, extra: tuple[str, ...] = ()) -> int | None:
        """The revision; None when a key of ``extra`` is absent, which is guarded
        against. Raises GuardFailedError."""
        deadline = time.monotonic() + self._members.timeout
        if not self._lock.acquire(timeout=self._members.timeout):
            raise StoreUnavailableError(
                "etcd is slow: other changes of this host are still waiting for it", "try again"
            )
        try:
            for _ in range(_TRIES):
                done, revision = self._attempt(transaction, extra, deadline)
                if done:
                    return revision
                if time.monotonic() > deadline:
                    raise StoreUnavailableError(
                        "etcd did not take this change in time; it was not made", "try again"
                    )
        finally:
            self._lock.release()
        raise StoreUnavailableError(
            "another client of etcd uses the same name as this host",
            "Give each host a name of its own in its configuration.",
        )

    def _attempt(
        self, transaction: Transaction, extra: tuple[str, ...], deadline: float
    ) -> tuple[bool, int | None]:
        token = secrets.token_hex(8)
        if self._marked is None:
            self._marked = self._read_marker()
        marked = self._marked
        try:
            body = self._request(transaction, extra, token, marked)
            answer = self._members.write("/kv/txn", body, deadline)
        except LeaseGoneError:
            self._leases.forget()
            return False, None
        except OutcomeUnknownError as error:
            log.warning("the answer to a commit was lost: %s", error)
            self._marked = None
            revision = self._resolve(token, marked, deadline, str(error))
            return revision is not None, revision
        if answer.get("succeeded"):
            self._marked = int(answer["header"]["revision"])
            return True, self._marked
        return self._failed(transaction, extra, answer)

    def _request(
        self, transaction: Transaction, extra: tuple[str, ...], token: str, marked: int
    ) -> Json:
        guards = list(dict.fromkeys(transaction.guards))
        if len(guards) + len(extra) > MOST_GUARDS:
            raise InvalidError(
                f"this change depends on {len(guards)} records; etcd takes {MOST_GUARDS} at once",
                "make it in smaller steps",
            )
        keys = [self._keys.record(guard.kind, guard.id) for guard in guards]
        compare = [
            _is_at(self._marker, marked),
            *(_is_at(key, guard.revision) for key, guard in zip(keys, guards, strict=True)),
            *({"key": key, "target": "VERSION", "result": "GREATER", "version": "0"}
              for key in extra),
        ]  # fmt: skip
        writes = [self._operation(write) for write in transaction.writes]
        marker = {"request_put": {"key": self._marker, "value": encode(token.encode())}}
        return {
            "compare": compare,
            "success": [marker, *_nested(writes, len(compare))],
            "failure": [
                {"request_range": {"key": key, "keys_only": True}}
                for key in (self._marker, *keys, *extra)
            ],
        }

    def _operation(self, write: Put | Delete) -> Json:
        if isinstance(write, Put):
            put = {
                "key": self._keys.record(write.kind, write.id),
                "value": encode(to_text(write.body).encode()),
            }
            if write.ttl is not None:
                put["lease"] = self._leases.of(write.ttl)
            return {"request_put": put}
        return {"request_delete_range": {"key": self._keys.record(write.kind, write.id)}}

    def _failed(
        self, transaction: Transaction, extra: tuple[str, ...], answer: Json
    ) -> tuple[bool, int | None]:
        """Which comparison did not hold. The marker's is no fault of the caller."""
        found = [revision_of(one["response_range"]) for one in answer["responses"]]
        self._marked = found[0]
        guards = list(dict.fromkeys(transaction.guards))
        for guard, revision in zip(guards, found[1:], strict=False):
            check_guard(guard, revision)
        gone = extra and 0 in found[len(found) - len(extra) :]
        return bool(gone), None

    def _read_marker(self) -> int:
        return revision_of(
            self._members.read("/kv/range", {"key": self._marker, "keys_only": True})
        )

    def _resolve(self, token: str, marked: int, deadline: float, why: str) -> int | None:
        """The revision of the commit that wrote ``token``, or None when it was
        not applied and never will be."""
        fence = secrets.token_hex(8)
        value = {"key": self._marker, "target": "VALUE", "result": "EQUAL"}
        look = {"request_range": {"key": self._marker}}
        body = {
            "compare": [{**value, "value": encode(token.encode())}],
            "success": [look],
            "failure": [
                look,
                {"request_put": {"key": self._marker, "value": encode(fence.encode())}},
            ],
        }
        while time.monotonic() < deadline:
            try:
                answer = self._members.write("/kv/txn", body, deadline)
            except OutcomeUnknownError:
                continue
            except StoreUnavailableError:
                break
            kvs = answer["responses"][0]["response_range"].get("kvs", [])
            revision = int(kvs[0]["mod_revision"]) if kvs else 0
            if answer.get("succeeded"):
                self._marked = revision
                return revision
            if revision == marked or (kvs and kvs[0].get("value") == encode(fence.encode())):
                self._marked = int(answer["header"]["revision"])
                return None
            break
        raise StoreUnavailableError(
            f"etcd's answer was lost, and it is not known whether the change was made: {why}",
            "Look whether it was made before you make it again.",
        )


def check_guard(guard: Guard, revision: int) -> None:
    """Raises GuardFailedError when the record is at another revision."""
    if guard.revision != revision:
        raise GuardFailedError(
            f"{guard.kind} {guard.id!r} was changed by somebody else", "try again"
        )


def _nested(writes: list[Json], compared: int) -> list[Json]:
    """The operations in as few as etcd takes at one level: those of a nested
    transaction count less the number of those around it."""
    if len(writes) < MOST_OPERATIONS:
        return writes
    for count in range(2, MOST_OPERATIONS - 1):
        size = MOST_OPERATIONS - max(count + 1, compared)
        if count * size >= len(writes):
            parts = [writes[at : at + size] for at in range(0, len(writes), size)]
            return [{"request_txn": {"success": part}} for part in parts]
    raise InvalidError(
        f"this change writes {len(writes)} records, more than etcd takes at once",
        "make it in smaller steps",
    )


def _is_at(key: str, revision: int) -> Json:
    """An absent key is at revision 0."""
    return {"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}


def revision_of(answer: Json) -> int:
    """The revision of the one key that a range asked for; 0 when it is absent."""
    kvs = answer.get("kvs", [])
    return int(kvs[0]["mod_revision"]) if kvs else 0
