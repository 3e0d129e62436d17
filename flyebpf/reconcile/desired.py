# SPDX-License-Identifier: Apache-2.0
"""The rows that should be there, and who asked for each."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from flyebpf.model.roworder import ROW_ORDER
from flyebpf.model.rows import Row

Owner = tuple[str, ...]
RowId = tuple[type[Row], Hashable]


class Desired:
    """Rows by kind and key, each with one owner as a rule.

    Where several owners want one key, the one that sorts first has it; the
    others get their turn when it lets go. An owner names each key once.
    """

    def __init__(self) -> None:
        self.rows: dict[type[Row], dict[Hashable, Row]] = {kind: {} for kind in ROW_ORDER}
        self._holders: dict[type[Row], dict[Hashable, Owner]] = {kind: {} for kind in ROW_ORDER}
        self._contested: dict[RowId, dict[Owner, Row]] = {}
        self._owned: dict[Owner, tuple[Row, ...]] = {}

    def owners(self) -> list[Owner]:
        """Everybody who wants a row now."""
        return list(self._owned)

    def replace(self, owner: Owner, rows: Iterable[Row]) -> list[RowId]:
        """Let ``rows`` be all that ``owner`` wants; returns what changed by it."""
        wanted = tuple(rows)
        before = {(type(row), row.key): row for row in self._owned.pop(owner, ())}
        changed: list[RowId] = []
        for row in wanted:
            row_id = (type(row), row.key)
            if before.pop(row_id, None) != row and self._claim(owner, row_id, row):
                changed.append(row_id)
        changed += [row_id for row_id in before if self._release(owner, row_id)]
        if wanted:
            self._owned[owner] = wanted
        return changed

    def problems(self) -> list[str]:
        """Keys for which owners want different rows."""
        found = []
        for (kind, key), claims in self._contested.items():
            if len(set(claims.values())) > 1:
                winner, *others = (" ".join(owner) for owner in sorted(claims))
                found.append(
                    f"{kind.__name__} {key}: {winner} has it, {', '.join(others)} wants another: "
                    f"change or remove one of them"
                )
        return found

    def _claim(self, owner: Owner, row_id: RowId, row: Row) -> bool:
        kind, key = row_id
        claims = self._contested.get(row_id)
        if claims is None:
            holder = self._holders[kind].setdefault(key, owner)
            if holder == owner:
                self.rows[kind][key] = row
                return True
            claims = self._contested[row_id] = {holder: self.rows[kind][key]}
        claims[owner] = row
        winner = min(claims)
        return self._give(row_id, winner, claims[winner])

    def _release(self, owner: Owner, row_id: RowId) -> bool:
        kind, key = row_id
        claims = self._contested.get(row_id)
        if claims is None:
            del self.rows[kind][key]
            del self._holders[kind][key]
            return True
        del claims[owner]
        if len(claims) == 1:
            del self._contested[row_id]
        winner = min(claims)
        return self._give(row_id, winner, claims[winner])

    def _give(self, row_id: RowId, owner: Owner, row: Row) -> bool:
        kind, key = row_id
        changed = self.rows[kind].get(key) != row
        self.rows[kind][key] = row
        self._holders[kind][key] = owner
        return changed
