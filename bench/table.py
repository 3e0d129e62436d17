# SPDX-License-Identifier: Apache-2.0
"""A table on the terminal and, with ``--json FILE``, the same as JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

Cell = str | int | float


class Table:
    """Rows under named columns; numbers are aligned to the right."""

    def __init__(self, name: str, *columns: str) -> None:
        self.name = name
        self.columns = columns
        self.rows: list[tuple[Cell, ...]] = []

    def add(self, *cells: Cell) -> None:
        if len(cells) != len(self.columns):
            raise ValueError(f"{self.name} has {len(self.columns)} columns, not {len(cells)}")
        self.rows.append(cells)

    def text(self) -> str:
        lines = [self.columns, *(tuple(str(cell) for cell in row) for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
            for line in lines
        )

    def json(self) -> str:
        rows = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        return json.dumps({"benchmark": self.name, "results": rows}, indent=2) + "\n"

    def show(self, arguments: list[str]) -> None:
        """Print the table; write JSON to the file of ``--json``, ``-`` being
        standard output instead of the table."""
        parser = argparse.ArgumentParser(prog=f"python -m bench.{self.name}")
        parser.add_argument("--json", metavar="FILE", help="also write JSON; - for stdout alone")
        target = parser.parse_args(arguments).json
        if target == "-":
            print(self.json(), end="")
            return
        print(self.text())
        if target:
            Path(target).write_text(self.json())
