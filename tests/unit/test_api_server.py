# SPDX-License-Identifier: Apache-2.0
"""The socket that the API listens on."""

from __future__ import annotations

import grp
import os
import stat
from pathlib import Path

import pytest

from flyebpf.api import server
from flyebpf.errors import UnavailableError
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
