"""Where the daemon stands, in memory that outlives it: for the one that comes next after a crash.

A batch is a fact once the ring's consumer position says so: that is one store to memory, which
happens or does not. What belongs to the batch (the log's size, the next seq, the books) is written
before, beside that of the batch before, together with the position that will make it true. So
whoever comes next finds the one state that is true, cuts from the log what was not yet a fact, and
takes the same records out of the ring again.
"""

from __future__ import annotations

import mmap
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from struct import Struct
from typing import Final

from qmond.events.table import NAMES
from qmond.log.files import Position

__all__ = ["BOOKS", "LAYOUT", "Journal", "State"]

BOOKS: Final = ("made", "written", "not_logged", "told_ring", "told_log")
_HEAD: Final = Struct("=6Q")  # generation, consumed, seq, the log's end
_BOOK: Final = Struct(f"={len(NAMES)}Q")
_SLOT: Final = _HEAD.size + len(BOOKS) * _BOOK.size
_GENERATION: Final = Struct("=Q")
LAYOUT: Final = repr((_HEAD.format, BOOKS, NAMES))
"""What must be the same for one daemon to read what another has noted."""


@dataclass(frozen=True, slots=True)
class State:
    """What is true once the ring has been consumed up to `consumed`; `books` by BOOKS."""

    consumed: int
    seq: int
    end: Position
    """Where the log ends."""
    books: Mapping[str, Counter[str]] = field(default_factory=dict)


class Journal:
    """The states after the last two batches, in a file in memory; `fd` is its own."""

    def __init__(self, fd: int | None = None) -> None:
        """Open one that somebody left, or make one. Raises OSError, ValueError."""
        self.fd = os.memfd_create("qmond-journal") if fd is None else fd
        if fd is None:
            os.ftruncate(self.fd, 2 * _SLOT)
        self._memory = mmap.mmap(self.fd, 2 * _SLOT)
        self._generation = max(self._generation_of(0), self._generation_of(1))

    def note(self, state: State) -> None:
        """Write down what will be true; until then the state before stays."""
        generation = self._generation + 1
        at = generation % 2 * _SLOT
        _GENERATION.pack_into(self._memory, at, 0)
        _HEAD.pack_into(self._memory, at, 0, state.consumed, state.seq, *state.end)
        for index, name in enumerate(BOOKS):
            book = state.books.get(name, Counter())
            counts = [book[event] for event in NAMES]
            _BOOK.pack_into(self._memory, at + _HEAD.size + index * _BOOK.size, *counts)
        _GENERATION.pack_into(self._memory, at, generation)  # from here on it counts
        self._generation = generation

    def state(self, consumed: int) -> State | None:
        """Return what is true where the ring is consumed so far; None where nobody noted that."""
        slots = sorted((0, 1), key=self._generation_of, reverse=True)
        for slot in slots:
            at = slot * _SLOT
            generation, position, seq, *end = _HEAD.unpack_from(self._memory, at)
            if generation and position == consumed:
                books = {
                    name: self._book(at + _HEAD.size + index * _BOOK.size)
                    for index, name in enumerate(BOOKS)
                }
                return State(consumed, seq, Position(*end), books)
        return None

    def close(self) -> None:
        """Give it back."""
        self._memory.close()
        os.close(self.fd)

    def _generation_of(self, slot: int) -> int:
        generation: int = _GENERATION.unpack_from(self._memory, slot * _SLOT)[0]
        return generation

    def _book(self, at: int) -> Counter[str]:
        counts = _BOOK.unpack_from(self._memory, at)
        return Counter({name: count for name, count in zip(NAMES, counts, strict=True) if count})
