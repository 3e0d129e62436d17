# SPDX-License-Identifier: Apache-2.0
"""A client of the API: HTTP over a unix socket, nothing but the standard library."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from flyebpf.config import ApiConfig
from flyebpf.errors import FlyebpfError, InvalidError, UnavailableError

DEFAULT_SOCKET = ApiConfig().socket
DEFAULT_TIMEOUT = 30.0
"""Seconds for one answer."""
REMEMBERED = "Flyebpf-Remembered"
"""The header of an answer that the daemon gave while the store was away, from
what it had read last: the revision that it is of."""

Json = Any


class ApiError(FlyebpfError):
    """What the daemon answered instead of what was asked for."""

    def __init__(self, status: int, code: str, message: str, remedy: str) -> None:
        super().__init__(message, remedy)
        self.http_status = status
        self.code = code


def path(*segments: str) -> str:
    """``/v1/…`` of names; raises InvalidError for what cannot be a name."""
    for segment in segments:
        if not re.fullmatch(r"[A-Za-z0-9_.:*-]+", segment) or segment in (".", ".."):
            raise InvalidError(
                f"{segment[:80]!r} is not a name",
                "Names have letters, digits and dashes.",
            )
    return "/v1/" + "/".join(quote(segment, safe=":") for segment in segments)


def _with(path: str, query: Mapping[str, str | None] | None) -> str:
    given = {name: value for name, value in (query or {}).items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


class _UnixConnection(http.client.HTTPConnection):
    """HTTP/1.1 to a unix socket."""

    def __init__(self, socket_path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._socket_path = socket_path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._socket_path)


class Client:
    """Asks one daemon. A connection a request; safe to use from several threads.

    Every method raises UnavailableError when the daemon cannot be asked and
    ApiError for what it refuses.
    """

    def __init__(
        self,
        socket_path: str = DEFAULT_SOCKET,
        timeout: float = DEFAULT_TIMEOUT,
        on_remembered: Callable[[str], None] | None = None,
    ) -> None:
        """``on_remembered`` is called with the revision of an answer that is
        out of the daemon's copy of the store."""
        self.socket_path = socket_path
        self._timeout = timeout
        self._on_remembered = on_remembered

    def get(self, path: str, query: Mapping[str, str | None] | None = None) -> Json:
        """``query``: parameters; those that are None are left out."""
        return self._request("GET", _with(path, query))

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Json:
        return self._request("POST", path, body)

    def patch(self, path: str, body: Mapping[str, Any]) -> Json:
        return self._request("PATCH", path, body)

    def delete(self, path: str, query: Mapping[str, str | None] | None = None) -> Json:
        """``query`` as of :meth:`get`."""
        return self._request("DELETE", _with(path, query))

    def events(self, since: int | None = None) -> Iterator[dict[str, Any]]:
        """Store changes after revision ``since`` (None: from now on), for ever.

        Ends when the daemon does; heartbeats come out as events too.
        """
        target = "/v1/events" if since is None else f"/v1/events?since={since}"
        connection = _UnixConnection(self.socket_path, self._timeout)
        try:
            response = self._open(connection, "GET", target, None)
            if response.status != 200:
                self._decode(response.status, response.read())
            while text := response.readline():
                yield json.loads(text)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._broken(error) from error
        finally:
            connection.close()

    def _request(self, method: str, target: str, body: Mapping[str, Any] | None = None) -> Json:
        connection = _UnixConnection(self.socket_path, self._timeout)
        try:
            response = self._open(connection, method, target, body)
            status, content = response.status, response.read()
            revision = response.getheader(REMEMBERED)
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(error) from error
        finally:
            connection.close()
        if revision is not None and self._on_remembered is not None:
            self._on_remembered(revision)
        return self._decode(status, content)

    @staticmethod
    def _open(
        connection: _UnixConnection, method: str, target: str, body: Mapping[str, Any] | None
    ) -> http.client.HTTPResponse:
        content = None if body is None else json.dumps(body).encode()
        headers = {"Accept": "application/json"}
        if content is not None:
            headers["Content-Type"] = "application/json"
        connection.request(method, target, content, headers)
        return connection.getresponse()

    def _decode(self, status: int, content: bytes) -> Json:
        try:
            answer = json.loads(content)
            if status < 400:
                return answer
            error = answer["error"]
            raise ApiError(status, error["code"], error["message"], error["remedy"])
        except (ValueError, TypeError, KeyError) as error:
            raise UnavailableError(
                f"what listens on {self.socket_path} does not answer like a flyebpf daemon "
                f"(HTTP status {status})",
                "Check the path given by --socket or FLYEBPF_SOCKET.",
            ) from error

    def _broken(self, error: Exception) -> FlyebpfError:
        where = self.socket_path
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            return UnavailableError(
                f"the daemon is not running: nothing listens on {where}",
                "Start it with 'systemctl start flyebpf' or 'flyebpf daemon --config FILE', "
                "or name another socket with --socket.",
            )
        if isinstance(error, PermissionError):
            return UnavailableError(
                f"no permission to use {where}",
                "Run this as root, or join the group flyebpf "
                "('usermod -aG flyebpf $USER') and log in again.",
            )
        if isinstance(error, TimeoutError):
            return UnavailableError(
                f"the daemon on {where} did not answer within {self._timeout:g} s",
                "Its log ('journalctl -u flyebpf') says what it is doing.",
            )
        detail = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return UnavailableError(
            f"talking to the daemon on {where} failed: {detail}",
            "Check that it runs ('systemctl status flyebpf') and try again.",
        )
