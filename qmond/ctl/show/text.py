"""Text for a terminal: escaped, so that a guest's text cannot drive it, and aligned."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from qmond.escape import json_bytes

__all__ = ["age", "columns", "cut", "pad", "print_json", "printable", "tree_lines", "width"]

_Node = TypeVar("_Node")


def printable(text: str) -> str:
    r"""Return text with control and other unprintable characters escaped, like `\x1b`."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def print_json(value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Print a value as indented JSON. It cannot drive a terminal, and is UTF-8 in any locale."""
    sys.stdout.flush()
    sys.stdout.buffer.write(json_bytes(value, indent=True) + b"\n")


def width(text: str) -> int:
    """Return the width of a printable text on a terminal, in columns."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )


def cut(text: str, columns: int) -> str:
    """Return a printable text, cut to a width in columns; `…` marks the cut."""
    if width(text) <= columns:
        return text
    while text and width(text) >= columns:
        text = text[: min(len(text) - 1, columns)]
    return text + "…" if columns > 0 else ""


def pad(text: str, columns: int) -> str:
    """Return a printable text, padded with spaces to a width in columns."""
    return text + " " * (columns - width(text))


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
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join(
        "  ".join(
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        + "\n"
        for row in rows
    )
