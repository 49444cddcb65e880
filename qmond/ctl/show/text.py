"""Text for a terminal: what guests choose must not drive it."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

from qmond.escape import json_bytes

__all__ = ["age", "columns", "cut", "json_text", "pad", "printable", "width"]


def printable(text: str) -> str:
    r"""Return text with everything that a terminal might act on as `\x1b` and the like."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def json_text(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Return a value as indented JSON, with a newline, that a terminal only shows."""
    return json_bytes(value, indent=True).decode() + "\n"


def width(text: str) -> int:
    """Return how many columns a printable text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )


def cut(text: str, columns: int) -> str:
    """Return as much of a printable text as fits, with `…` where something is missing."""
    if width(text) <= columns:
        return text
    while text and width(text) >= columns:
        text = text[: min(len(text) - 1, columns)]
    return text + "…" if columns > 0 else ""


def pad(text: str, columns: int) -> str:
    """Return a printable text with spaces behind it, up to so many columns."""
    return text + " " * (columns - width(text))


def age(seconds: float) -> str:
    """Return a time as a person reads it: `4.2s`, `3m07s`, `5h02m`, `12d03h`."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes:02}m"
    return f"{hours // 24}d{hours % 24:02}h"


def columns(rows: Sequence[Sequence[str]], right: Sequence[int]) -> str:
    """Return rows as lines with aligned columns; `right` has those that end, not begin, at one."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join(
        "  ".join(
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        + "\n"
        for row in rows
    )
