"""The lines of a tail as they come, and what is said where the daemon goes and comes back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from qmond.client import Choice, Client
from qmond.ctl.connection import connect
from qmond.cursor import Cursor, is_over
from qmond.errors import QmondError

__all__ = ["once", "retrying"]

_PAUSE: Final = 1.0
"""Seconds before it connects again."""

Look = Callable[[Client], str]
"""Looks around before a tail begins; returns what to say when it has begun, or nothing."""


def once(
    path: Path | None,
    choice: Choice,
    *,
    look: Look,
    say: Callable[[str], None],
) -> Iterator[bytes]:
    """Yield lines until their end. Raises QmondError if the daemon goes before."""
    with connect(path) as client:
        remark = look(client)
        lines = client.tail(**choice)
        if remark:
            say(remark)
        yield from lines
    if choice["follow"] and not is_over(choice.get("until")):
        raise QmondError("the daemon stopped")


def retrying(
    path: Path | None,
    choice: Choice,
    *,
    look: Look,
    say: Callable[[str], None],
) -> Iterator[bytes]:
    """Yield lines across restarts of the daemon, each once; says once that it is away, and back.

    Raises QmondError where another try would not help.
    """
    cursor = Cursor(choice)
    is_away, remark = False, None
    while True:
        try:
            with connect(path) as client:
                remark = look(client) if remark is None else ""
                lines = client.tail(**cursor.ask(client.about, Choice()))
                if said := "the daemon is back" if is_away else remark:
                    say(said)
                is_away = False
                for line in lines:
                    cursor.take(line)
                    yield line
            if cursor.is_over():
                return
            found = "the daemon stopped"
        except QmondError as error:
            if not cursor.may_retry(error):
                raise
            found = str(error).splitlines()[0]
        if not is_away:
            say(f"{found}; trying again until it is back")
        is_away = True
        time.sleep(_PAUSE)
