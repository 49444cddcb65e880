"""The checkpoint: the daemon's state after the last batch, in memory that outlives a crash.

A batch is committed by one atomic store, to the ring's consumer position. The state that belongs
to it (the log's size, the next seq, the counters) is written before that, beside the state of the
batch before, and with the position that commits it. So the next daemon finds the one state that
was committed. It cuts the rest from the log, and takes the same records out of the ring again.
"""

from __future__ import annotations

import mmap
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from struct import Struct
from typing import Final

from qmond.daemon.accounts import BOOKS
from qmond.events.table import NAMES
from qmond.log.files import Position

__all__ = ["LAYOUT", "Checkpoint", "State"]

_HEAD: Final = Struct("=6Q")  # generation, consumed, seq, the log's end
_BOOK: Final = Struct(f"={len(NAMES)}Q")
_SLOT: Final = _HEAD.size + len(BOOKS) * _BOOK.size
_GENERATION: Final = Struct("=Q")
LAYOUT: Final = repr((_HEAD.format, BOOKS, NAMES))
"""What must be the same for one daemon to read what another has noted."""


@dataclass(frozen=True, slots=True)
class State:
    """The state once the ring has been consumed up to `consumed`; `books` by BOOKS."""

    consumed: int
    seq: int
    end: Position
    """Where the log ends."""
    books: Mapping[str, Counter[str]] = field(default_factory=dict)


class Checkpoint:
    """The states after the last two batches, in a memfd; `fd` is closed with it."""

    def __init__(self, fd: int | None = None) -> None:
        """Open the one that another daemon left, or make one. Raises OSError, ValueError."""
        self.fd = os.memfd_create("qmond-checkpoint") if fd is None else fd
        if fd is None:
            os.ftruncate(self.fd, 2 * _SLOT)
        self._memory = mmap.mmap(self.fd, 2 * _SLOT)
        self._generation = max(self._generation_of(0), self._generation_of(1))

    def note(self, state: State) -> None:
        """Write a state; it holds once the ring's consumer position is committed."""
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
        """Return the state for a consumer position; None where none was written for it."""
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
        """Close its descriptor."""
        self._memory.close()
        os.close(self.fd)

    def _generation_of(self, slot: int) -> int:
        generation: int = _GENERATION.unpack_from(self._memory, slot * _SLOT)[0]
        return generation

    def _book(self, at: int) -> Counter[str]:
        counts = _BOOK.unpack_from(self._memory, at)
        return Counter({name: count for name, count in zip(NAMES, counts, strict=True) if count})
