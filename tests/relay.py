# SPDX-License-Identifier: Apache-2.0
"""A TCP relay that loses answers, or delivers requests late, on demand."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Rule = Callable[[bytes], bool]


class Relay:
    """Listens on ``url`` for one server. ``lose``: requests whose answer never
    comes back. ``keep``: requests that are not sent on until :meth:`release`;
    their connections are closed at once. Each rule works once. ``dead``: no
    request is sent on any more."""

    def __init__(self, server: str) -> None:
        host, _, port = server.removeprefix("http://").partition(":")
        self._server = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.lose: Rule | None = None
        self.keep: Rule | None = None
        self.dead = False
        self.done = threading.Event()
        self._kept: list[bytes] = []
        self._open: list[socket.socket] = []
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def release(self) -> list[bytes]:
        """Send on what was kept; the server's answers."""
        answers = []
        for request in self._kept:
            with socket.create_connection(self._server) as server:
                server.sendall(request)
                server.settimeout(5)
                answers.append(server.recv(65_536))
        self._kept.clear()
        return answers

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes whoever accepts
        self._acceptor.join()
        self._listener.close()
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._open += [client, server]
                threading.Thread(target=self._up, args=(client, server), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        """Requests, and for each a thread that brings the answer."""
        deaf = threading.Event()
        threading.Thread(target=self._down, args=(server, client, deaf), daemon=True).start()
        with contextlib.suppress(OSError):
            while data := read_request(client):
                if self.dead:
                    client.shutdown(socket.SHUT_RDWR)
                    return
                if self.keep is not None and self.keep(data):
                    self.keep = None
                    self._kept.append(data)
                    client.shutdown(socket.SHUT_RDWR)
                    self.done.set()
                    return
                if self.lose is not None and self.lose(data):
                    self.lose = None
                    deaf.set()
                server.sendall(data)

    def _down(self, server: socket.socket, client: socket.socket, deaf: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65_536):
                if deaf.is_set():
                    client.shutdown(socket.SHUT_RDWR)
                    self.done.set()
                    return
                client.sendall(data)


def read_request(client: socket.socket) -> bytes:
    """One HTTP request with its body, or nothing at the end."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(65_536)
        if not piece:
            return b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        piece = client.recv(65_536)
        if not piece:
            return b""
        data += piece
        body += piece
    return data


@contextmanager
def relay(server: str) -> Iterator[Relay]:
    made = Relay(server)
    try:
        yield made
    finally:
        made.close()
