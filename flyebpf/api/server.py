# SPDX-License-Identifier: Apache-2.0
"""Serving the API: the unix socket, and uvicorn in a thread of the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import logging
import os
import socket
import threading
import time
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from flyebpf.api.app import build
from flyebpf.api.backend import Backend
from flyebpf.errors import UnavailableError

log = logging.getLogger(__name__)

START_SECONDS = 10.0
STOP_SECONDS = 3
MAX_CONNECTIONS = 256
"""Open at a time, idle ones included; more are closed at once, so that clients
cannot use up the descriptors that the daemon needs for its own work."""


def listen(path: str, group: str) -> socket.socket:
    """A listening unix socket at ``path``, 0660 and of ``group``.

    It appears at its path with its rights already set, replacing one that
    nobody listens on any more. Without such a group it belongs to root alone.
    Raises UnavailableError where that cannot be, or another daemon serves it.
    """
    if _is_served(path):
        raise UnavailableError(
            f"another process serves {path}", "Stop the other flyebpf daemon first."
        )
    if Path(path).exists() and not Path(path).is_socket():
        raise UnavailableError(
            f"{path} is there and is not a socket", "Move it away, or change api.socket."
        )
    aside = f"{path}.{os.getpid()}"
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)
        server.bind(aside)
        os.chmod(aside, 0o600)
        server.listen(128)
        _give_to_group(aside, group, path)
        os.rename(aside, path)
    except OSError as error:
        server.close()
        raise UnavailableError(
            f"cannot listen on {path}: {error.strerror or error}",
            "Check api.socket in the configuration.",
        ) from error
    return server


def _is_served(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


def _give_to_group(path: str, group: str, name: str) -> None:
    """``name`` is what the socket will be called."""
    try:
        gid = grp.getgrnam(group).gr_gid
    except KeyError:
        log.warning("no group %s: only root can use %s (groupadd --system %s)", group, name, group)
        return
    os.chown(path, -1, gid)
    os.chmod(path, 0o660)


class Protocol(H11Protocol):  # type: ignore[misc]  # uvicorn is not followed
    """HTTP/1.1 on one connection, if there are not too many."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.close()


class ApiServer:
    """The API of ``backend`` on a listening socket, in its own thread."""

    def __init__(self, backend: Backend, listening: socket.socket) -> None:
        self._app = build(backend)
        self._socket = listening
        config = uvicorn.Config(
            self._app,
            loop="asyncio",
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="api", daemon=True)

    def start(self) -> None:
        """Return when requests are answered; raises UnavailableError if not."""
        self._thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not self._server.started:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise UnavailableError("the API did not start", "The log says why.")
            time.sleep(0.005)

    def stop(self) -> None:
        """End open streams, let running requests finish, close the socket."""
        self._app.state.events.closing.set()
        self._server.should_exit = True
        self._thread.join(STOP_SECONDS + 2)
        self._socket.close()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        except Exception:
            log.exception("the API stopped")
            raise
