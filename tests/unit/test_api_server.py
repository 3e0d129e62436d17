# SPDX-License-Identifier: Apache-2.0
"""The socket that the API listens on."""

from __future__ import annotations

import grp
import os
import socket
import stat
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from flyebpf.api import server
from flyebpf.api.client import Client
from flyebpf.errors import FlyebpfError, UnavailableError
from tests.fakes_backend import serving

OWN_GROUP = grp.getgrgid(os.getgid()).gr_name


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_socket_belongs_to_the_group(tmp_path: Path) -> None:
    path = tmp_path / "run" / "api.sock"
    with server.listen(str(path), OWN_GROUP):
        assert mode(path) == 0o660
        assert path.stat().st_gid == os.getgid()
    assert list(path.parent.iterdir()) == [path]


def test_without_the_group_only_the_owner_may(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "api.sock"
    with server.listen(str(path), "no-such-group-here"):
        assert mode(path) == 0o600
    assert "groupadd --system no-such-group-here" in caplog.text


def test_a_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    server.listen(str(path), OWN_GROUP).close()
    assert path.exists()
    server.listen(str(path), OWN_GROUP).close()


def test_a_running_daemon_keeps_its_socket(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, path):
        before = os.stat(path).st_ino
        with pytest.raises(UnavailableError, match="another process serves"):
            server.listen(path, OWN_GROUP)
        assert os.stat(path).st_ino == before


def test_somebody_elses_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    path.write_text("precious")
    with pytest.raises(UnavailableError, match="is not a socket"):
        server.listen(str(path), OWN_GROUP)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("path", ["/proc/none/api.sock", "/tmp/" + "x" * 200])
def test_a_place_that_cannot_be(path: str) -> None:
    with pytest.raises(UnavailableError) as caught:
        server.listen(path, OWN_GROUP)
    assert path in caught.value.message
    assert "api.socket" in caught.value.remedy


def test_idle_connections_do_not_use_up_the_daemons_descriptors(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, path), ExitStack() as idle:
        for _ in range(server.MAX_CONNECTIONS):
            connect(idle, path)
        one_more = connect(idle, path)
        one_more.settimeout(5)
        assert one_more.recv(1) == b"", "closed at once"
        idle.close()
        until(lambda: answers(path))


def connect(stack: ExitStack, path: str) -> socket.socket:
    made = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    made.connect(path)
    return made


def answers(path: str) -> bool:
    try:
        return bool(Client(path).get("/healthz"))
    except FlyebpfError:
        return False


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "not in 10 s"
        time.sleep(0.02)
