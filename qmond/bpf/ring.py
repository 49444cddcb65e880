"""The BPF ring buffer, read where it lies.

The layout: kernel/bpf/ringbuf.c in Linux. A page with the consumer's position, a page with the
producer's, then the data. The kernel offers the data a second time behind the first, so that no
record is cut in two at the end; every mapped page counts as resident memory of the daemon, so we
map them once and join the one record of each round that is cut.
"""

from __future__ import annotations

import mmap
from typing import Final

__all__ = ["RingBuffer"]

_PAGE: Final = mmap.PAGESIZE
_BUSY: Final = 1 << 31
_DISCARD: Final = 1 << 30
_HEADER: Final = 8


class RingBuffer:
    """One consumer of a ring buffer map; the descriptor stays the caller's, and can be polled.

    What is consumed is the caller's; the kernel has its room back when that is committed.

    On hosts with weakly ordered memory a record's content is ordered after its header only by the
    kernel's release and the time that Python takes; the words are each read in one move.
    """

    def __init__(self, fd: int, size: int) -> None:
        """Map a ring whose data are `size` bytes, a power of two. Raises OSError."""
        self.fd = fd
        self.size = size
        self._own = mmap.mmap(fd, _PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._shared = mmap.mmap(fd, _PAGE + size, mmap.MAP_SHARED, mmap.PROT_READ, offset=_PAGE)
        self._committed = memoryview(self._own).cast("Q")
        self.consumed = memoryview(bytearray(8)).cast("Q")
        self.consumed[0] = self._committed[0]
        view = memoryview(self._shared)
        self.produced = view[:_HEADER].cast("Q")
        self.data = view[_PAGE:]
        self._words = self.data.cast("I")

    @property
    def used(self) -> int:
        """How many bytes wait to be read."""
        return self.produced[0] - self.consumed[0]

    def drain(self, most: int) -> list[bytes]:
        """Take out up to `most` records, oldest first, and commit that."""
        records: list[bytes] = []
        position, produced = self.consumed[0], self.produced[0]
        data, words, mask = self.data, self._words, self.size - 1
        while position < produced and len(records) < most:
            at = position & mask
            length = words[at >> 2]
            if length & _BUSY:  # reserved, and not yet written
                break
            start = at + _HEADER & mask
            if not length & _DISCARD:
                record = bytes(data[start : start + length])
                if len(record) < length:
                    record += bytes(data[: length - len(record)])
                records.append(record)
            position += (length & ~_DISCARD) + _HEADER + 7 & ~7
        self.consumed[0] = position
        self.commit()
        return records

    def commit(self) -> None:
        """Give the room of what was consumed back to the kernel, by one store to memory."""
        self._committed[0] = self.consumed[0]

    def close(self) -> None:
        """Unmap the ring."""
        for view in (self._words, self.data, self.produced, self._committed):
            view.release()
        self._shared.close()
        self._own.close()
