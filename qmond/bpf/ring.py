"""The BPF ring buffer, read where it lies.

The layout: kernel/bpf/ringbuf.c in Linux. A page with the consumer's position, a page with the
producer's, then the data, and the same data a second time, so that no record is cut in two at the
end. Every mapped page counts as resident memory of the daemon, so we map a window of the data, and
move it along with what is read; a large ring costs the daemon no more than a small one.
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
"""Bytes: many of the longest records; to move it costs a hundredth of what reading it does."""


class RingBuffer:
    """One consumer of a ring buffer map; the descriptor stays the caller's, and can be polled.

    What is consumed is the caller's; the kernel has its room back when that is committed. `data`
    is the window: what is in the ring from the position `origin` on.

    On hosts with weakly ordered memory a record's content is ordered after its header only by the
    kernel's release and the time that Python takes; the words are each read in one move.
    """

    origin: int
    data: memoryview

    def __init__(self, fd: int, size: int) -> None:
        """Map a ring whose data are `size` bytes, a power of two. Raises OSError."""
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
        """How many bytes wait to be read."""
        return self.produced[0] - self.consumed[0]

    def slide(self) -> bool:
        """Begin the window with what is next to be read; false where it does so already.

        Raises OSError.
        """
        if self.origin == self.consumed[0] & -_PAGE:
            return False
        self._unmap()
        self._map()
        return True

    def drain(self, most: int) -> list[bytes]:
        """Take out up to `most` records, oldest first, and commit that."""
        records: list[bytes] = []
        produced = self.produced[0]
        while (position := self.consumed[0]) < produced and len(records) < most:
            start = position - self.origin + _HEADER
            length = self._words[start - _HEADER >> 2] if start <= len(self.data) else 0
            if length & _BUSY:  # reserved, and not yet written
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
        """Give the room of what was consumed back to the kernel, by one store to memory."""
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
            min(self.size, _WINDOW) + _PAGE,  # the first page may have been read almost to its end
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
