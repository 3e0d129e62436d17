# SPDX-License-Identifier: Apache-2.0
"""The event stream: what changes in the store, one JSON object a line."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TypeVar

import anyio
import anyio.to_thread

from flyebpf.api.requests import GoneError
from flyebpf.errors import FlyebpfError, InvalidError, UnavailableError
from flyebpf.model.acme import AcmeChallenge
from flyebpf.model.certificates import KeyPair, SelfSigned, public_fields
from flyebpf.model.records import Cluster
from flyebpf.store.base import Change, CompactedError, Json, Store

T = TypeVar("T")

HEARTBEAT_SECONDS = 15.0
POLL_SECONDS = 1.0
"""How long a worker thread waits in the store before it looks whether the
stream should end."""
MAX_STREAMS = 32
"""Each stream keeps a thread waiting in the store."""
SHOWN = {
    Cluster.kind: frozenset(("next_network", "next_machine", "next_host")),
    KeyPair.kind: public_fields(KeyPair),
    SelfSigned.kind: public_fields(SelfSigned),
    AcmeChallenge.kind: public_fields(AcmeChallenge),
}
"""Of records with secrets: not those, nor the text of a record that cannot be
read and may have them."""


class EventStreams:
    """The open streams of one application."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._limiter = anyio.CapacityLimiter(MAX_STREAMS)
        self._open = 0
        self.closing = threading.Event()

    async def open(self, since: int | None) -> AsyncIterator[bytes]:
        """A stream of the changes after ``since`` (None: from now on).

        Raises UnavailableError with too many streams, InvalidError for a
        revision that does not exist yet, GoneError for one whose changes are no
        longer kept.
        """
        if self._open >= MAX_STREAMS:
            raise UnavailableError(
                f"{MAX_STREAMS} event streams are open already", "Close one and try again."
            )
        self._open += 1  # meanwhile, so that many at once are counted too
        try:
            start = await self._run(partial(check_start, self._store, since))
        finally:
            self._open -= 1
        return self._lines(start)

    async def _run(self, work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=self._limiter, abandon_on_cancel=True)

    async def _lines(self, since: int) -> AsyncIterator[bytes]:
        self._open += 1
        try:
            yield line({"type": "heartbeat", "revision": since})
            spoken = time.monotonic()
            while not self.closing.is_set():
                changes = await self._run(partial(next_changes, self._store, since))
                for change in changes:
                    yield line(describe(change))
                if changes:
                    since = changes[-1].revision
                elif time.monotonic() - spoken < HEARTBEAT_SECONDS:
                    continue
                else:
                    yield line({"type": "heartbeat", "revision": since})
                spoken = time.monotonic()
        except FlyebpfError as error:
            # The status line is long gone: say it in the stream and end it.
            yield line({"type": "error", "revision": since, "message": str(error)})
        finally:
            self._open -= 1


def check_start(store: Store, since: int | None) -> int:
    """The revision that a stream starts after."""
    revision = store.revision()
    if since is None:
        return revision
    if since > revision:
        raise InvalidError(
            f"since={since} is after the store's last revision, {revision}",
            "Leave out 'since' to follow from now on.",
        )
    try:
        store.changes(since, 1)
    except CompactedError as error:
        raise GoneError(
            f"the changes after revision {since} are no longer kept",
            "List the resources again and follow from the present revision.",
        ) from error
    return since


def next_changes(store: Store, since: int) -> list[Change]:
    """The next changes, or nothing after POLL_SECONDS."""
    changes = store.changes(since)
    if not changes and store.wait(since, POLL_SECONDS):
        changes = store.changes(since)
    return changes


def describe(change: Change) -> Json:
    """A change as the stream shows it; secrets stay inside."""
    body = change.body
    if body is not None and change.kind in SHOWN:
        shown = SHOWN[change.kind]
        body = {name: value for name, value in body.items() if name in shown}
    return {
        "type": "put" if change.body is not None else "delete",
        "revision": change.revision,
        "kind": change.kind,
        "id": change.id,
        "body": body,
    }


def line(event: Json) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"
