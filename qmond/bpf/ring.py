"""The BPF ring buffer, read in place.

Linux' kernel/bpf/ringbuf.c has the layout: a page with the consumer's position, a page with the
producer's, then the data, and the same data a second time, so that no record is split at the end.
Every mapped page counts as resident memory of the daemon. So only a window of the data is mapped,
and moves along. A large ring costs the daemon no more than a small one.
"""

from __future__ import annotations

import mmap
from typing import Final

__all__ = ["RingBuffer"]

_PAGE: Final = mmap.PAGESIZE
_BUSY: Final = 1 << 31
_DISCARD: Final = 1 << 30
_HEADER: Final = 8
_WINDOW: Final = 1 << 20
"""Bytes. It has space for many of the longest records. Moving it costs 1 % of reading it."""


class RingBuffer:
    """The consumer of a ring buffer map. The caller owns the descriptor, and can poll it.

    The caller advances `consumed`. `commit` then gives that space back to the kernel. `data` is
    the mapped window of the ring, from the position `origin` on.

    On hosts with weakly ordered memory, a record's content is ordered after its header only by
    the kernel's release and by the time that Python takes. Each word is read at once.
    """

    origin: int
    data: memoryview

    def __init__(self, fd: int, size: int) -> None:
        """Map a ring with `size` bytes of data, a power of two. Raises OSError."""
        self.fd = fd
        self.size = size
        self._own = mmap.mmap(fd, _PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._other = mmap.mmap(fd, _PAGE, mmap.MAP_SHARED, mmap.PROT_READ, offset=_PAGE)
        self._committed = memoryview(self._own).cast("Q")
        self.consumed = memoryview(bytearray(8)).cast("Q")
        self.consumed[0] = self._committed[0]
        self.produced = memoryview(self._other)[:8].cast("Q")
        self._map()

    @property
    def used(self) -> int:
        """Bytes that are not consumed yet."""
        return self.produced[0] - self.consumed[0]

    def slide(self) -> bool:
        """Move the window to the consumer's position; returns false if it is there already.

        Raises OSError.
        """
        if self.origin == self.consumed[0] & -_PAGE:
            return False
        self._unmap()
        self._map()
        return True

    def drain(self, most: int) -> list[bytes]:
        """Consume, commit and return up to `most` records, the oldest first."""
        records: list[bytes] = []
        produced = self.produced[0]
        while (position := self.consumed[0]) < produced and len(records) < most:
            start = position - self.origin + _HEADER
            length = self._words[start - _HEADER >> 2] if start <= len(self.data) else 0
            if length & _BUSY:  # reserved, but not written yet
                break
            stop = start + (length & ~_DISCARD)
            if stop > len(self.data):
                if not self.slide():
                    break
                continue
            if not length & _DISCARD:
                records.append(bytes(self.data[start:stop]))
            self.consumed[0] = self.origin + (stop + 7 & ~7)
        self.commit()
        return records

    def commit(self) -> None:
        """Give the consumed space back to the kernel, by one atomic store."""
        self._committed[0] = self.consumed[0]

    def close(self) -> None:
        """Unmap the ring."""
        self._unmap()
        for view in (self.produced, self._committed):
            view.release()
        self._other.close()
        self._own.close()

    def _map(self) -> None:
        self.origin = self.consumed[0] & -_PAGE
        self._window = mmap.mmap(
            self.fd,
            min(self.size, _WINDOW) + _PAGE,  # the first page may be almost consumed
            mmap.MAP_SHARED,
            mmap.PROT_READ,
            offset=2 * _PAGE + (self.origin & self.size - 1),
        )
        self.data = memoryview(self._window)
        self._words = self.data.cast("I")

    def _unmap(self) -> None:
        self._words.release()
        self.data.release()
        self._window.close()
