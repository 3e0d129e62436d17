# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from flyebpf.daemon.identity import NAME, identity
from flyebpf.errors import UnavailableError


def test_it_is_made_once(tmp_path: Path) -> None:
    made = identity(tmp_path)
    assert len(made) == 16
    assert identity(tmp_path) == made
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
    other = tmp_path / "other"
    other.mkdir()
    assert identity(other) != made


@pytest.mark.parametrize("content", [b"", b"x" * 16, b"0" * 17, b"\xff" * 16])
def test_a_damaged_one_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(UnavailableError, match="host-id is damaged"):
        identity(tmp_path)
    assert (tmp_path / NAME).read_bytes() == content


def test_one_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(UnavailableError, match="cannot be read: Is a directory"):
        identity(tmp_path)
