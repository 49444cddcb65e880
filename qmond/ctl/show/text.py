"""Text for a terminal: escaped, so that a guest's text cannot drive it, and aligned."""

from __future__ import annotations

import os
import sys
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Final, TypeVar

from qmond.escape import json_bytes

__all__ = [
    "age",
    "columns",
    "complaint",
    "cut",
    "fault",
    "pad",
    "pointed",
    "print_json",
    "printable",
    "process_count",
    "tree_lines",
    "width",
]

_Node = TypeVar("_Node")
_WIDE: Final = frozenset({*range(0x3248, 0x3250), *range(0x4DC0, 0x4E00)})
"""Ambiguous in Unicode's table, and two columns wide for glibc's wcwidth(3)."""
_EMOJI: Final = "\ufe0f"
"""After some characters it makes these an emoji, which many terminals show a column wider."""


def printable(text: str) -> str:
    r"""Return text with control and other unprintable characters escaped, like `\x1b`."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def complaint(message: str) -> str:
    """Return an error as it is told. Its text may be from outside: it cannot drive a terminal."""
    return "qmonctl: " + "\n".join(map(printable, message.split("\n"))) + "\n"


def process_count(count: int) -> str:
    """Return a number of processes in words."""
    return "1 process" if count == 1 else f"{count} processes"


def fault(error: Exception) -> str:
    """Return what is told of an exception that nobody has foreseen."""
    import traceback  # noqa: PLC0415 - seldom needed

    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{os.path.basename(last.filename)}, line {last.lineno}"
    return (
        f"internal fault: {type(error).__name__}: {error} ({where})\n"
        "  is the daemon of another version? See `qmonctl doctor`. If not, please report this."
    )


def print_json(value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Print a value as indented JSON. It cannot drive a terminal, and is UTF-8 in any locale."""
    sys.stdout.flush()
    sys.stdout.buffer.write(json_bytes(value, indent=True) + b"\n")


def width(text: str) -> int:
    """Return the width of a printable text on a terminal, in columns: never too little."""
    return len(text) if text.isascii() else sum(map(_width, text))


def _width(char: str) -> int:
    if unicodedata.category(char) in {"Mn", "Me"}:
        return int(char == _EMOJI)
    return 1 + (unicodedata.east_asian_width(char) in "WF" or ord(char) in _WIDE)


def cut(text: str, columns: int) -> str:
    """Return a printable text, cut to a width in columns; `…` marks the cut."""
    if width(text) <= columns:
        return text
    widths = [*accumulate(map(_width, text))]
    return text[: bisect_right(widths, columns - 1)] + "…" * (columns > 0)


def pad(text: str, columns: int) -> str:
    """Return a printable text, padded with spaces to a width in columns."""
    return text + " " * (columns - width(text))


def pointed(text: str, column: int) -> str:
    """Return a text, as far as it fits a terminal, and a line with `^` below a column, from 1."""
    before, after = printable(text[: column - 1]), printable(text[column - 1 :])
    if len(before) > 40:
        before = "…" + before[-39:]
    return f"{before}{cut(after, 30)}\n{' ' * width(before)}^"


def age(seconds: float) -> str:
    """Return a duration as text: `4.2s`, `3m07s`, `5h02m`, `12d03h`."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes:02}m"
    return f"{hours // 24}d{hours % 24:02}h"


def tree_lines(
    roots: Sequence[_Node],
    *,
    label: Callable[[_Node], str],
    children: Callable[[_Node], Sequence[_Node]],
) -> Iterator[str]:
    """Yield the lines of a tree, each with its newline: every node above its children."""
    stack = [(root, "", "") for root in reversed(roots)]
    while stack:
        node, first, others = stack.pop()
        yield f"{first}{label(node)}\n"
        for at, child in enumerate(reversed(children(node))):
            branch, trunk = ("└─ ", "   ") if at == 0 else ("├─ ", "│  ")
            stack.append((child, others + branch, others + trunk))


def columns(rows: Sequence[Sequence[str]], right: Sequence[int]) -> str:
    """Return rows as lines with aligned columns. `right` has the indices of right-aligned ones."""
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    return "".join(
        "  ".join(
            cell.rjust(most) if at in right else pad(cell, most)
            for at, (cell, most) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        + "\n"
        for row in rows
    )
