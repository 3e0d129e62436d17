# SPDX-License-Identifier: Apache-2.0
"""What is no body is reported under its id and stops nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

from flyebpf.store.base import Change
from flyebpf.store.bodies import from_text, to_text, unreadable
from flyebpf.store.sqlite import SqliteStore
from flyebpf.store.sqlitecopy import Copy

HALF = '{"name":"\\ud800"}'


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "[" * 100_000, HALF, HALF.upper()])
def test_what_is_none(text: str) -> None:
    assert from_text(text) == unreadable(text)


@pytest.mark.parametrize("text", ['{"a":"\\ud83d\\ude00"}', '{"a":"\\\\ud800"}', '{"a":1}'])
def test_what_is_one_can_be_written_again(text: str) -> None:
    assert from_text(to_text(from_text(text))) == from_text(text)
    assert from_text(text) != unreadable(text)


def test_a_copy_takes_half_a_character(tmp_path: Path) -> None:
    """etcd does, as an escape; a daemon that has read it keeps a copy."""
    copy = Copy(tmp_path / "copy.db", "/flyebpf/")
    assert list(copy.replaced(1, ())) == []
    copy.apply([Change(2, "machine", "a", from_text(HALF))])
    assert copy.revision() == 2
    assert [entry.body for entry in copy.list()] == [unreadable(HALF)]
    copy.close()


def test_nor_does_it_hide_other_records(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.db", durable=False)
    with store._write_lock:
        rows = [("app", "a", HALF, 1), ("app", "b", '{"x":1}', 1)]
        store._writer.executemany("INSERT INTO records VALUES (?, ?, ?, ?)", rows)
    assert [entry.body for entry in store.list("app")] == [unreadable(HALF), {"x": 1}]
    store.close()
