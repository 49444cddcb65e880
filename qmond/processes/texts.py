"""Command lines, guest paths and directories: each distinct text is kept once, within a budget.

Each may have 4,096 bytes, and a host tens of thousands of processes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

__all__ = ["Texts"]

_log = logging.getLogger(__name__)

_SHORT: Final = 128
"""Bytes; a text that is not longer is always kept."""


@dataclass(slots=True, eq=False)
class _Kept:
    text: bytes
    users: int


class Texts:
    """The texts of a process table, at most `most` bytes together."""

    def __init__(self, most: int = 16 << 20) -> None:
        self._most = most
        self._size = 0
        self._warned = False
        self._kept: dict[bytes, _Kept] = {}

    def take(self, text: bytes) -> bytes | None:
        """Return the text to keep until `drop`, or None if it exceeds the budget."""
        if len(text) <= _SHORT:
            return text
        kept = self._kept.get(text)
        if kept is None:
            if self._size + len(text) > self._most:
                self._warn()
                return None
            kept = self._kept[text] = _Kept(text, 0)
            self._size += len(text)
        kept.users += 1
        return kept.text

    def drop(self, text: bytes) -> None:
        """Release a text that `take` has returned."""
        kept = self._kept.get(text)
        if kept is None or kept.text is not text:  # it was short
            return
        kept.users -= 1
        if not kept.users:
            del self._kept[text]
            self._size -= len(text)

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                "the watched processes have more than %d MiB of command lines: `ps` does not show "
                "all of them",
                self._most >> 20,
            )
