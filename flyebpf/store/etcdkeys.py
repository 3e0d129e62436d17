# SPDX-License-Identifier: Apache-2.0
"""Keys and values in etcd, and the requests that name them.

A record is ``<prefix>records/<kind>/<id>``, its value the body as JSON. Each
client has ``<prefix>clients/<name>``, which tells it whether a commit whose
answer was lost was applied. Requests and answers are those of etcd's HTTP
gateway, https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/: bytes in base64,
64-bit numbers as strings, zeros left out.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

from flyebpf.store.base import Change, Entry, Json
from flyebpf.store.bodies import from_text, unreadable


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def decode(text: str) -> bytes:
    return base64.b64decode(text)


def end_of(prefix: bytes) -> bytes:
    """The first key after all that start with ``prefix``, which is ASCII."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))


@dataclass(frozen=True, slots=True)
class RawChange:
    """A change whose body is still text, which takes a fifth of the memory."""

    revision: int
    kind: str
    id: str
    text: str | None
    sound: bool = True

    def decoded(self) -> Change:
        body = None if self.text is None else _body(self.text, self.sound)
        return Change(self.revision, self.kind, self.id, body)


class Keys:
    """All keys below one prefix, which starts and ends with a slash."""

    def __init__(self, prefix: str) -> None:
        self.records = f"{prefix}records/".encode()
        self._clients = f"{prefix}clients/".encode()

    def record(self, kind: str, id: str) -> str:
        """The key of a record, in base64."""
        return encode(self.records + f"{kind}/{id}".encode())

    def kind(self, kind: str) -> bytes:
        """What all records of a kind start with."""
        return self.records + f"{kind}/".encode()

    def client(self, name: str) -> str:
        """The key of a client's marker, in base64."""
        return encode(self._clients + name.encode())

    def entry(self, kv: Json) -> Entry:
        """The record that a key and its value are. Where either has not the form
        that we write, its body is one that no record is decoded from."""
        kind, ident, sound = self._split(kv["key"])
        text, readable = _text(kv)
        return Entry(kind, ident, _body(text, sound and readable), int(kv["mod_revision"]))

    def change(self, event: Json) -> RawChange:
        """An event of a watch."""
        kv = event["kv"]
        kind, ident, sound = self._split(kv["key"])
        revision = int(kv["mod_revision"])
        if event.get("type") == "DELETE":
            return RawChange(revision, kind, ident, None)
        text, readable = _text(kv)
        return RawChange(revision, kind, ident, text, sound and readable)

    def _split(self, key: str) -> tuple[str, str, bool]:
        """Kind, id, and whether the key has the form of a record's. One that has
        not is the id of a record without a kind."""
        raw = decode(key)[len(self.records) :]
        try:
            text, sound = raw.decode(), True
        except UnicodeDecodeError:
            text, sound = raw.decode(errors="backslashreplace"), False
        kind, _, ident = text.partition("/")
        if sound and kind and ident:
            return kind, ident, True
        return "", text, False


def _text(kv: Json) -> tuple[str, bool]:
    """A value, and whether it is text."""
    raw = decode(kv.get("value", ""))
    try:
        return raw.decode(), True
    except UnicodeDecodeError:
        return raw.decode(errors="backslashreplace"), False


def _body(text: str, sound: bool) -> Json:
    return from_text(text) if sound else unreadable(text)
