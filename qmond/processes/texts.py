"""Long texts that many processes bring: kept once each, within a budget.

A command line may have 4,096 bytes and a guest's path as many, and a host tens of thousands of
processes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

__all__ = ["Texts"]

_log = logging.getLogger(__name__)

_SHORT: Final = 128
"""Bytes of a text that is always kept."""


@dataclass(slots=True, eq=False)
class _Kept:
    text: bytes
    users: int


class Texts:
    """The texts of a table, of `most` bytes together."""

    def __init__(self, most: int = 16 << 20) -> None:
        self._most = most
        self._size = 0
        self._told = False
        self._kept: dict[bytes, _Kept] = {}

    def take(self, text: bytes) -> bytes | None:
        """Return a text to keep until it is dropped; None where there is no room for it."""
        if len(text) <= _SHORT:
            return text
        kept = self._kept.get(text)
        if kept is None:
            if self._size + len(text) > self._most:
                self._tell()
                return None
            kept = self._kept[text] = _Kept(text, 0)
            self._size += len(text)
        kept.users += 1
        return kept.text

    def drop(self, text: bytes) -> None:
        """Keep a text no longer that `take` has returned."""
        kept = self._kept.get(text)
        if kept is None or kept.text is not text:  # it was short
            return
        kept.users -= 1
        if not kept.users:
            del self._kept[text]
            self._size -= len(text)

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            _log.warning(
                "the processes under watch have more than %d MiB of command lines: `ps` shows "
                "not all of them",
                self._most >> 20,
            )
