"""A page of docs/ with one table, made by a script that runs for long."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path


class Report:
    """A page in Markdown; `about` is the text between its title and its table."""

    def __init__(self, title: str, about: str, columns: Sequence[str]) -> None:
        self._lines = [f"# {title}", "", about, _row(columns), f"|{'---|' * len(columns)}"]

    def add(self, *cells: object, note: str = "") -> None:
        """Add a row, and show it on standard error; a note is shown there alone."""
        self._lines.append(_row(cells))
        print(self._lines[-1], note, file=sys.stderr, flush=True)

    def write(self, out: Path | None) -> None:
        """Write the page into a file; None: to standard output."""
        text = "".join(f"{line}\n" for line in self._lines)
        if out:
            out.write_text(text)
        else:
            print(text, end="")


def _row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
