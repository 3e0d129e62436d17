# SPDX-License-Identifier: Apache-2.0
"""What a driver is: how one or more kinds of rows get into the kernel."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

from flyebpf.model.rows import Row


@dataclass(frozen=True, slots=True)
class Failure:
    """A row that could not be applied; it stays dirty and is tried again.

    ``permanent``: trying again cannot help until the row or the world changes
    (an interface that does not exist); it is retried only on such a change or
    in the periodic full pass.
    """

    kind: type[Row]
    key: Hashable
    error: str
    remedy: str = ""
    permanent: bool = False


class Driver(Protocol):
    """Owns some kinds of rows. Methods are called from one thread only."""

    name: str
    kinds: tuple[type[Row], ...]

    def read(self, kind: type[Row]) -> dict[Hashable, object]:
        """What is in the kernel: key to fingerprint, of our own objects only.

        A fingerprint equals ``fingerprint(row)`` of the row that it came from
        when the kernel holds exactly that, and differs from it otherwise.
        """

    def fingerprint(self, row: Row) -> object:
        """What :meth:`read` would report for this row if it were applied."""

    def apply(
        self, kind: type[Row], puts: Sequence[Row], deletes: Sequence[Hashable]
    ) -> list[Failure]:
        """Create or replace ``puts``, delete ``deletes`` (idempotent).

        Never raises for one bad row: it reports it and goes on. Where a put
        takes what is ``exclusive`` (a slot its interface) from a row that is
        still there, nothing more is delivered to that one: after a restart
        nobody else can know that it had it.
        """
