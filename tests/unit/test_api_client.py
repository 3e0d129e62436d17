# SPDX-License-Identifier: Apache-2.0
"""The client, and how it tells what is wrong with the daemon."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flyebpf.api.client import ApiError, Client, path
from flyebpf.errors import InvalidError, UnavailableError
from tests.fakes_backend import serving

NOBODY = 65534


@contextlib.contextmanager
def answering(where: Path, answer: bytes | None) -> Iterator[str]:
    """A server that says ``answer`` to the first request (None: nothing at all)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(where))
        server.listen(1)
        done = threading.Event()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                if answer is None:
                    done.wait(5)
                else:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield str(where)
        finally:
            done.set()
            thread.join()


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Root may use every socket: be somebody else for a while."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


def complaint(socket_path: str, timeout: float = 5.0) -> UnavailableError:
    with pytest.raises(UnavailableError) as caught:
        Client(socket_path, timeout).get("/v1/status")
    return caught.value


def test_requests_and_answers(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, socket_path):
        client = Client(socket_path)
        assert client.post("/v1/orgs", {"name": "acme"})["name"] == "acme"
        client.post("/v1/apps", {"name": "web", "org": "acme"})
        assert client.get("/v1/apps", {"org": "acme"})["items"][0]["name"] == "web"
        assert client.get("/v1/apps", {"org": None})["items"]
        assert client.delete(path("apps", "web"))["name"] == "web"


def test_errors_keep_status_code_message_and_remedy(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, socket_path), pytest.raises(ApiError) as caught:
        Client(socket_path).get("/v1/apps/none")
    error = caught.value
    assert (error.http_status, error.code) == (404, "not_found")
    assert "none" in error.message
    assert error.remedy


def test_no_daemon(tmp_path: Path) -> None:
    missing = tmp_path / "none.sock"
    error = complaint(str(missing))
    assert error.message == f"the daemon is not running: nothing listens on {missing}"
    assert "systemctl start flyebpf" in error.remedy
    assert "flyebpf daemon --config" in error.remedy


def test_a_socket_that_a_dead_daemon_left(tmp_path: Path) -> None:
    left = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(left))
    assert "not running" in complaint(str(left)).message


def test_no_permission(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, socket_path):
        os.chmod(socket_path, 0)
        with unprivileged():
            error = complaint(socket_path)
    assert error.message == f"no permission to use {socket_path}"
    assert "group flyebpf" in error.remedy


def test_a_path_too_long_for_a_socket() -> None:
    assert "too long" in complaint("/" + "x" * 200).message


def test_a_daemon_that_hangs(tmp_path: Path) -> None:
    with answering(tmp_path / "s", None) as socket_path:
        error = complaint(socket_path, timeout=0.1)
    assert "did not answer within 0.1 s" in error.message


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "failed: "),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "failed: "),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "not answer like a flyebpf daemon"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\n{}", "HTTP status 500"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\n[]", "HTTP status 500"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", "failed: "),
    ],
)
def test_something_else_listens(tmp_path: Path, answer: bytes, message: str) -> None:
    with answering(tmp_path / "s", answer) as socket_path:
        assert message in complaint(socket_path).message


@pytest.mark.parametrize("segment", ["", ".", "..", "a/b", "a b", "a?b", "a%2fb", "ä", "a\n"])
def test_what_cannot_be_a_name_is_not_sent(segment: str) -> None:
    with pytest.raises(InvalidError):
        path("apps", segment)


def test_names_and_addresses_are_sent() -> None:
    assert path("apps", "web-1", "addresses") == "/v1/apps/web-1/addresses"
    assert path("machines", "0123456789abcd") == "/v1/machines/0123456789abcd"
