"""How `tail` prints lines: for people, as strace does, for diff, or as they are in the log."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from datetime import datetime, tzinfo
from typing import Any, Final

from qmond.ctl.show import render, strace
from qmond.ctl.show.text import cut

__all__ = ["FORMS", "Short", "TerminalWidth", "printer"]

FORMS: Final = ("short", "json", "strace", "cat")
_PAUSE: Final = 0.1
"""Seconds until the terminal's width is asked for again: an eye does not see that it changed."""


class TerminalWidth:
    """The width of the terminal, which may change at any time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._columns = 0
        self._asked: float | None = None

    def __call__(self) -> int:
        """Return it, in columns."""
        now = self._clock()
        if self._asked is None or now - self._asked >= _PAUSE:
            self._columns, self._asked = shutil.get_terminal_size().columns, now
        return self._columns


class Short:
    """Prints lines for people. A day that is not that of the line before has a line of its own."""

    def __init__(
        self,
        *,
        width: Callable[[], int | None],
        colour: bool,
        zone: tzinfo | None,
        now: datetime,
    ) -> None:
        """Take the width of a line, or None for all of it; `zone` is None for the system's."""
        self._width = width
        self._colour = colour
        self._zone = zone
        self._day = render.day({"time": now.isoformat()}, zone)

    def __call__(self, line: bytes) -> bytes:
        """Return what to print for a line."""
        event: dict[str, Any] = json.loads(line)
        width = self._width()
        shown = render.line(event, width=width, colour=self._colour, zone=self._zone)
        day = render.day(event, self._zone)
        if day is None or day == self._day:
            return shown.encode()
        self._day = day
        return f"{day if width is None else cut(day, width)}\n{shown}".encode()


def printer(form: str, short: Short, zone: tzinfo | None) -> Callable[[bytes], bytes]:
    """Return what makes the bytes to print, without a newline, of a line of the log."""
    forms: dict[str, Callable[[bytes], bytes]] = {
        "short": short,
        "json": lambda line: line,
        "strace": lambda line: strace.line(json.loads(line), zone).encode(),
        "cat": lambda line: render.plain(json.loads(line)).encode(),
    }
    return forms[form]
