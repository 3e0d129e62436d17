# SPDX-License-Identifier: Apache-2.0
"""This host's keys."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flyebpf.drivers.wireguard_keys import Keys, create
from flyebpf.errors import UnavailableError
from flyebpf.model.records import PEERS_KEY
from flyebpf.wireguardkeys import public_half


def test_a_key_is_made_once_and_is_the_owners_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        keys = Keys(tmp_path)
        private = keys.private(3)
    finally:
        os.umask(old)
    assert Keys(tmp_path).private(3) == private
    assert keys.public(3) == public_half(private)
    assert (tmp_path / "mesh-3.key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["mesh-3.key"]


def test_the_key_for_users_has_a_file_of_its_own(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    keys.private(0)
    keys.private(PEERS_KEY)
    assert (tmp_path / "peers.key").is_file()
    assert keys.generations() == {0}
    keys.remove(0)
    keys.remove(0)
    assert keys.generations() == set()


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "mesh-0.key"
    create(path, bytes(32))
    create(path, b"x" * 32)
    assert Keys(tmp_path).private(0) == bytes(32)


def test_all_who_ask_at_once_get_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: Keys(tmp_path).private(0), range(32)))
    assert len(found) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mesh-0.key"]


@pytest.mark.parametrize("content", [b"", b"AAAA\n", b"x" * 44, b"\xff" * 100])
def test_a_damaged_key_is_not_replaced_in_silence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mesh-0.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(UnavailableError, match="is damaged") as caught:
        Keys(tmp_path).private(0)
    assert str(path) in caught.value.remedy
    assert path.read_bytes() == content


def test_a_key_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    keys.private(0)
    keys.path(0).chmod(0o640)
    with pytest.raises(UnavailableError, match="can be read or written by others"):
        keys.private(0)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"none/mesh-0\.key cannot be had"):
        Keys(tmp_path / "none").private(0)
