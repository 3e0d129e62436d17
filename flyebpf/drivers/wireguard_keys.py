# SPDX-License-Identifier: Apache-2.0
"""This host's private keys, one file each, root's alone."""

from __future__ import annotations

import base64
import os
import secrets
import stat
from pathlib import Path

from flyebpf.errors import UnavailableError
from flyebpf.model.records import PEERS_KEY
from flyebpf.wireguardkeys import LENGTH, new_private, public_half


class Keys:
    """``folder``: the daemon's state. For any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, name: int | str) -> Path:
        """Of the key of a generation, or of PEERS_KEY."""
        return self._folder / (f"{name}.key" if name == PEERS_KEY else f"mesh-{name}.key")

    def private(self, name: int | str) -> bytes:
        """The key; made when there is none. Raises UnavailableError."""
        path = self.path(name)
        try:
            if not path.exists():
                create(path, new_private())
            return load(path)
        except OSError as error:
            raise UnavailableError(
                f"the key {path} cannot be had: {error.strerror}",
                "Make state_dir a folder that root can write.",
            ) from error

    def public(self, name: int | str) -> str:
        """The public half, base64; the key is made when there is none."""
        return public_half(self.private(name))

    def generations(self) -> set[int]:
        """Those with a key here."""
        names = (path.stem.removeprefix("mesh-") for path in self._folder.glob("mesh-*.key"))
        return {int(name) for name in names if name.isdecimal()}

    def remove(self, name: int) -> None:
        """Forget a key that no device uses any more."""
        self.path(name).unlink(missing_ok=True)


def create(path: Path, private: bytes) -> None:
    """Write it whole or not at all, and never over another one. Raises OSError."""
    aside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(base64.b64encode(private) + b"\n")
            file.flush()
            os.fsync(descriptor)
        try:
            os.link(aside, path)
        except FileExistsError:
            return  # somebody else was first: theirs counts
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        aside.unlink()


def load(path: Path) -> bytes:
    """Raises OSError, and UnavailableError for a file that cannot be trusted."""
    with open(path, "rb") as file:
        info = os.fstat(file.fileno())
        text = file.read(256)
    if info.st_uid != os.geteuid() or stat.S_IMODE(info.st_mode) & 0o077:
        raise UnavailableError(
            f"the key {path} can be read or written by others",
            f"Remove it, and a new one is made and published: rm {path}",
        )
    try:
        private = base64.b64decode(text.strip(), validate=True)
    except ValueError:
        private = b""
    if len(private) != LENGTH:
        raise UnavailableError(
            f"the key {path} is damaged", f"Remove it, and a new one is made: rm {path}"
        )
    return private
