# SPDX-License-Identifier: Apache-2.0
"""What daemon and DNS process say to each other on a unix socket.

Frames of JSON: a length of 4 bytes in network order, then an object. Each
frame gets one back. ``op`` is one of

- ``hello``: who is there (:class:`Hello`);
- ``begin``: records from now on make a new view, which nobody sees yet;
- ``records``: ``[kind, id, body]`` each, ``body`` null where it was deleted;
  into the new view, or into the one in use when none was begun;
- ``commit``: the new view is in use from now on, at ``revision``;
- ``metrics``: ``Metrics.snapshot`` and more;
- ``ask``: ``query`` (hex) from ``asker`` (the fields of ``Asker``), by ``tcp`` or
  not, answered with ``answer`` (hex, or null for silence);
- ``stop``: answer what has come in, and end.
"""

from __future__ import annotations

import hashlib
import json
import socket
import struct
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flyebpf.config import LogConfig
from flyebpf.dns.forward import ForwardConfig
from flyebpf.dns.limits import LimitsConfig
from flyebpf.dns.server import ServerConfig
from flyebpf.errors import UnavailableError
from flyebpf.model.codec import encode
from flyebpf.model.records import AnyRecord
from flyebpf.model.state import Update

FRAME_MAX = 16 << 20
BATCH = 100
"""Records of one frame: taking them in delays queries by a millisecond or two."""
_LENGTH = struct.Struct("!I")
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ProcessConfig:
    """``socket``: path of the unix socket. ``addresses``: to listen on. ``user``:
    whose rights the process has after it has opened them; "" keeps its own.
    ``log``: as the daemon's."""

    socket: str
    addresses: tuple[str, ...]
    port: int = 53
    user: str = "nobody"
    server: ServerConfig = field(default_factory=ServerConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ProcessConfig:
        """The inverse of :meth:`to_json`."""
        values = json.loads(text)
        server = values.pop("server")
        forward = server["forward"]
        forward["upstreams"] = tuple(forward["upstreams"])
        made = ServerConfig(
            ForwardConfig(**forward),
            LimitsConfig(**server["limits"]),
            tuple(server["latency"]),
        )
        values["addresses"] = tuple(values["addresses"])
        log = LogConfig(**values.pop("log"))
        return cls(server=made, log=log, **values)

    def digest(self) -> str:
        """Of this configuration and of the code that would serve it: a process
        with another one has to be replaced."""
        found = hashlib.sha256(self.to_json().encode())
        package = Path(__file__).parents[1]
        for path in sorted((*package.glob("dns/*.py"), *package.glob("model/*.py"))):
            found.update(path.name.encode() + path.read_bytes())
        return found.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Hello:
    """``revision``: of the view in use; -1 when there is none yet."""

    digest: str
    pid: int
    revision: int


def change(update: Update) -> list[Any]:
    """An update as a ``records`` frame has it."""
    return [update.kind, update.id, None if update.after is None else encode(update.after)]


def records(found: Iterable[AnyRecord]) -> Iterable[list[Any]]:
    """Records as a ``records`` frame has them."""
    for record in found:
        yield [record.kind, record.ident, encode(record)]


def pack(frame: Json) -> bytes:
    body = json.dumps(frame, separators=(",", ":")).encode()
    return _LENGTH.pack(len(body)) + body


def unpack_length(data: bytes) -> int:
    """Raises ValueError for a frame that is too long to be one."""
    (length,) = _LENGTH.unpack(data)
    if length > FRAME_MAX:
        raise ValueError(f"a frame of {length} bytes")
    return int(length)


class Connection:
    """The daemon's end, blocking. Raises UnavailableError for all that fails."""

    def __init__(self, path: str, timeout: float = 10.0) -> None:
        self._path = path
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._sock.settimeout(timeout)
        try:
            self._sock.connect(path)
        except OSError as error:
            self._sock.close()
            raise self._failed(error) from error

    def call(self, op: str, **values: Any) -> Json:
        """Send a frame; the one that comes back."""
        try:
            self._sock.sendall(pack({"op": op, **values}))
            answer = json.loads(self._read(unpack_length(self._read(4))))
        except (OSError, ValueError) as error:
            raise self._failed(error) from error
        if not isinstance(answer, dict) or "error" in answer:
            raise UnavailableError(f"the DNS process refuses {op}: {answer}", "see its log")
        return answer

    def hello(self) -> Hello:
        return Hello(**self.call("hello"))

    def close(self) -> None:
        self._sock.close()

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self._sock.recv(size - len(data))
            if not part:
                raise OSError("it has closed the connection")
            data += part
        return bytes(data)

    def _failed(self, error: Exception) -> UnavailableError:
        return UnavailableError(
            f"the DNS process at {self._path} does not answer: {error}",
            "the daemon starts it again; see its log for the cause",
        )
