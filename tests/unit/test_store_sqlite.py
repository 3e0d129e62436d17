# SPDX-License-Identifier: Apache-2.0
"""The SQLite file: rights, damage, other versions, kills at any point."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from flyebpf.errors import ConflictError, FlyebpfError
from flyebpf.store import sqlitefile
from flyebpf.store.base import Put, StoreUnavailableError, Transaction
from flyebpf.store.sqlite import SqliteStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def fill(path: Path, count: int = 500) -> None:
    store = SqliteStore(path, durable=False)
    writes = tuple(Put("thing", str(n), {"text": "x" * 100}) for n in range(count))
    store.commit(Transaction(writes=writes))
    store.close()


def assert_refused(path: Path, error: type[FlyebpfError], match: str) -> None:
    """Refused with a message that names the file, which stays as it was."""
    before = path.read_bytes()
    with pytest.raises(error, match=match) as caught:
        SqliteStore(path)
    assert str(path) in caught.value.message
    assert caught.value.remedy
    assert path.read_bytes() == before


def test_only_the_owner_can_read_it(path: Path) -> None:
    store = SqliteStore(path)
    store.commit(Transaction(writes=(Put("thing", "a", {}),)))
    files = sorted(path.parent.iterdir())
    assert path in files
    assert [f"{f.stat().st_mode:o}" for f in files] == ["100600"] * len(files)
    store.close()


def test_commits_are_durable_by_default(path: Path) -> None:
    store = SqliteStore(path)
    assert store._writer.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.close()


def test_nothing_is_left_beside_a_closed_file(path: Path) -> None:
    fill(path)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"hello", b"SQLite format 3\0", b"\0" * 8192])
def test_a_file_that_is_no_database(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert_refused(path, StoreUnavailableError, "damaged or not a state file")


def test_a_database_of_another_program(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE records (x)")
    connection.commit()
    connection.close()
    assert_refused(path, StoreUnavailableError, "another program")


def test_a_file_of_another_version(path: Path) -> None:
    fill(path)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {sqlitefile.VERSION + 1}")
    connection.close()
    assert_refused(path, ConflictError, f"version {sqlitefile.VERSION + 1}")


def test_a_damaged_file(path: Path) -> None:
    fill(path)
    data = bytearray(path.read_bytes())
    data[4096 * 2 : 4096 * 12] = random.Random(1).randbytes(4096 * 10)
    path.write_bytes(data)
    assert_refused(path, StoreUnavailableError, "damaged")


def test_a_truncated_file(path: Path) -> None:
    fill(path)
    path.write_bytes(path.read_bytes()[: 4096 * 3])
    assert_refused(path, StoreUnavailableError, "damaged")


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match="no-folder"):
        SqliteStore(tmp_path / "no-folder" / "state.db")


def test_a_folder_in_its_place(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StoreUnavailableError, match="Is a directory"):
        SqliteStore(path)


def test_a_broken_body_does_not_hide_the_others(path: Path) -> None:
    fill(path, 3)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE records SET body = '{\"text\":' WHERE id = '1'")
    connection.commit()
    connection.close()
    store = SqliteStore(path)
    bodies = {entry.id: entry.body for entry in store.snapshot()[1]}
    assert bodies["1"] == {"unreadable": '{"text":'}
    assert bodies["0"] == bodies["2"] == {"text": "x" * 100}
    store.close()


def test_a_full_disk_is_reported_and_survived(path: Path) -> None:
    store = SqliteStore(path)
    pages = store._writer.execute("PRAGMA page_count").fetchone()[0]
    store._writer.execute(f"PRAGMA max_page_count = {pages + 1}")
    writes = tuple(Put("thing", str(n), {"text": "x" * 1000}) for n in range(100))
    with pytest.raises(StoreUnavailableError, match="full") as caught:
        store.commit(Transaction(writes=writes))
    assert "make room" in caught.value.remedy
    revision, entries = store.snapshot()
    assert (revision, list(entries)) == (0, [])
    store._writer.execute(f"PRAGMA max_page_count = {pages + 1000}")
    assert store.commit(Transaction(writes=writes)) == 1
    store.close()


WRITER = textwrap.dedent(
    """
    import itertools, os, signal, sys
    from flyebpf.store.base import Put, Transaction
    from flyebpf.store.sqlite import SqliteStore

    def write(path):
        store = SqliteStore(path, changes_kept=200)
        for step in itertools.count(store.revision() + 1):
            value = {"value": step, "padding": "x" * (step * 37 % 2000)}
            writes = tuple(Put("thing", name, value) for name in "abcd")
            revision = store.commit(Transaction(writes=writes))
            os.write(1, revision.to_bytes(8, "little"))

    for line in sys.stdin:  # a fork for each line; importing takes much longer
        child = os.fork()
        if child == 0:
            write(sys.argv[1])
        os.write(1, (-child).to_bytes(8, "little", signed=True))
        os.waitpid(child, 0)
        os.write(1, bytes(8))
    """
)


class Killer:
    """Starts writers of ``path`` and kills each in the middle of its work."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def run_and_kill(self, after: float, written: int) -> int:
        """So many seconds after it has written so often; the last revision that
        the writer said was committed; 0: none."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        pid, last, count = 0, 0, 0
        while pid == 0 or count < written:
            number = self._read()
            if number < 0:
                pid = -number
            else:
                last, count = number, count + 1
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)
        while number := self._read():
            last = number
        return last

    def _read(self) -> int:
        assert self.process.stdout is not None
        data = self.process.stdout.read(8)
        assert data is not None
        assert len(data) == 8, "the writer failed"
        return int.from_bytes(data, "little", signed=True)

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        assert self.process.wait(10) == 0
        self.process.stdout.close()


def test_500_kills_lose_nothing_and_leave_no_half_transaction(path: Path) -> None:
    killer = Killer(path)
    chance = random.Random(500)
    acknowledged = 0
    for kill in range(500):
        last = killer.run_and_kill(chance.uniform(0, 0.02), written=kill % 3)
        acknowledged = max(acknowledged, last)
        if kill % 10 and kill > 20:
            continue  # opening checks every page: often enough
        check_whole(path, acknowledged)
    killer.close()
    check_whole(path, acknowledged)
    assert acknowledged >= 500 - 2


def check_whole(path: Path, acknowledged: int) -> None:
    if not path.exists():
        assert acknowledged == 0
        return
    store = SqliteStore(path)
    revision, found = store.snapshot()
    entries = list(found)
    assert revision >= acknowledged
    assert [e.revision for e in entries] == [revision] * len(entries)
    assert [e.body["value"] for e in entries] == [revision] * len(entries)
    assert len(entries) == (4 if revision else 0)
    if revision:
        assert {(c.revision, c.id) for c in store.changes(revision - 1)} == {
            (revision, name) for name in "abcd"
        }
    store.close()
