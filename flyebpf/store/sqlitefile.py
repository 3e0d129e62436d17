# SPDX-License-Identifier: Apache-2.0
"""The state file: its creation, its checks before it is opened, connections."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import struct
from pathlib import Path

from flyebpf.errors import ConflictError
from flyebpf.store.base import StoreUnavailableError

APPLICATION_ID = 0x666C7962  # "flyb"
VERSION = 1
_BUSY_SECONDS = 10.0
_START_EMPTY = "move it away to start empty, or set `state_dir` to another folder"

# The file header, https://www.sqlite.org/fileformat.html#the_database_header
_MAGIC = b"SQLite format 3\x00"
_HEADER_SIZE = 100
_VERSION_OFFSET = 60
_APPLICATION_OFFSET = 68

_SCHEMA = f"""
BEGIN;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
CREATE TABLE state (revision INTEGER NOT NULL, compacted INTEGER NOT NULL);
INSERT INTO state VALUES (0, 0);
CREATE TABLE records (
    kind TEXT NOT NULL, id TEXT NOT NULL, body TEXT NOT NULL, revision INTEGER NOT NULL,
    PRIMARY KEY (kind, id)
) WITHOUT ROWID;
CREATE TABLE changes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    revision INTEGER NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL, body TEXT
);
CREATE INDEX changes_by_revision ON changes (revision);
COMMIT;
"""


def prepare(path: Path) -> None:
    """Create the file if it is absent, else check that it is sound and ours.

    The header is read first and then the rest read-only, so that SQLite's own
    recovery changes neither a foreign file nor a damaged one.
    """
    try:
        if not path.exists():
            _create(path)
        _check_header(path)
        _check_contents(path)
    except OSError as error:
        raise StoreUnavailableError(
            f"cannot use the state file {path}: {error.strerror}",
            "check that its folder exists and is writable, and that it is a file",
        ) from error


def connect(path: Path, *, durable: bool = True, mode: str = "rw") -> sqlite3.Connection:
    """A connection for any thread, without implicit transactions."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    return connection


def _create(path: Path) -> None:
    """Build the file aside and link it into place: nobody sees half of it."""
    aside = path.with_name(f"{path.name}.new-{os.getpid()}")
    aside.unlink(missing_ok=True)  # of a process that was killed and had this number
    os.close(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        with contextlib.closing(connect(aside)) as connection:
            connection.executescript(_SCHEMA)
            connection.execute("PRAGMA journal_mode = WAL")
        with contextlib.suppress(FileExistsError):  # another process was first
            os.link(aside, path)
        _sync_folder(path.parent)
    except sqlite3.Error as error:
        raise StoreUnavailableError(
            f"cannot create the state file {path}: {error}", "make room on its file system"
        ) from error
    finally:
        aside.unlink()


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _check_header(path: Path) -> None:
    with path.open("rb") as file:
        header = file.read(_HEADER_SIZE)
    if len(header) < _HEADER_SIZE or not header.startswith(_MAGIC):
        raise StoreUnavailableError(
            f"the state file {path} is damaged or not a state file", _START_EMPTY
        )
    (application,) = struct.unpack_from(">I", header, _APPLICATION_OFFSET)
    (version,) = struct.unpack_from(">I", header, _VERSION_OFFSET)
    if application != APPLICATION_ID:
        raise StoreUnavailableError(
            f"the state file {path} is a database of another program", _START_EMPTY
        )
    if version != VERSION:
        raise ConflictError(
            f"the state file {path} has version {version}, this flyebpf reads version {VERSION}",
            f"run the flyebpf that wrote it, or {_START_EMPTY}",
        )


def _check_contents(path: Path) -> None:
    """Every page of the file; 30 ms for 100,000 records."""
    try:
        with contextlib.closing(connect(path, mode="ro")) as connection:
            (finding,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        finding = str(error)
    if finding != "ok":
        summary = finding.strip().splitlines()[-1]
        raise StoreUnavailableError(
            f"the state file {path} is damaged: {summary}",
            f"restore it from a copy, or {_START_EMPTY}",
        )
