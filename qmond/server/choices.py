"""Which lines of a batch a client gets, by their events and processes alone."""

from __future__ import annotations

import weakref
from typing import Protocol

from qmond.events.content import without_content
from qmond.server.broadcast import Pids
from qmond.server.protocol import EVERYTHING, Selection

__all__ = ["Batch", "Choice", "Choices"]


class Batch(Protocol):
    """Lines that come together."""

    def __len__(self) -> int:
        """How many there are."""

    @property
    def seq(self) -> int:
        """The number of the line that comes after them."""

    @property
    def data(self) -> memoryview:
        """All of them; valid only now."""

    def select(self, mask: int, pids: Pids | None) -> tuple[bytes, int]:
        """Return those of some events and processes, and their number."""


class Choice:
    """Events and processes that somebody wants; who wants the same has the same one."""

    def __init__(self, selection: Selection) -> None:
        self._all = selection == EVERYTHING
        self._mask = selection.mask
        self._pids = None if selection.pids is None else Pids(selection.pids)

    def of(self, batch: Batch, *, content: bool) -> tuple[bytes, int]:
        """Return the chosen lines of a batch, and their number."""
        if self._all:
            lines, count = bytes(batch.data), len(batch)
        else:
            lines, count = batch.select(self._mask, self._pids)
        return (lines if content else without_content(lines)), count


class Choices:
    """The choices that there are."""

    def __init__(self) -> None:
        self._known: weakref.WeakValueDictionary[Selection, Choice] = weakref.WeakValueDictionary()

    def __getitem__(self, selection: Selection) -> Choice:
        found = self._known.get(selection)
        if found is None:
            found = self._known[selection] = Choice(selection)
        return found
