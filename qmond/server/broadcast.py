"""The memory by which the core's lines come to the front: the core writes it, the front reads it.

The core never waits. Where the front is too slow, the oldest lines are overwritten. The front sees
that by the lines' numbers, and goes on with the next. See broadcast.c.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import Any, Final, NamedTuple, Protocol

from qmond._encode import ffi, lib
from qmond.log.files import Position

__all__ = ["SIZE", "BrokenShareError", "Frame", "Frames", "Pids", "Share", "State"]

SIZE: Final = 8 << 20
"""Bytes of frames."""
_FUTURE_WRITE: Final = 0x10  # F_SEAL_FUTURE_WRITE, since Linux 5.1: include/uapi/linux/fcntl.h
_unset = ffi.new_allocator(should_clear_after_alloc=False)
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _FUTURE_WRITE


class BrokenShareError(Exception):
    """The content of the memory is damaged: no core has written this."""


class Lines(Protocol):
    """A batch of lines."""

    def __len__(self) -> int:
        """How many there are."""

    @property
    def seq(self) -> int:
        """The number of the line that comes after them."""

    @property
    def data(self) -> memoryview:
        """All of them; valid only now."""

    @property
    def index(self) -> Any:  # noqa: ANN401 - a cdata
        """Where each is: struct qmond_line; valid only now."""


class State(NamedTuple):
    """The state after a batch: the next frame's place, the next line's number, the log's end."""

    head: int
    seq: int
    end: Position


class Share:
    """The core's end; the front maps `fd`, and can only read it."""

    def __init__(self, size: int = SIZE) -> None:
        """Make one of `size` bytes, a multiple of a page. Raises OSError."""
        self.fd = os.memfd_create("qmond-lines", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, lib.SHARE_DATA + size)
        self._size = size
        self._memory = mmap.mmap(self.fd, lib.SHARE_DATA + size)
        self._c = ffi.cast("struct qmond_share *", ffi.from_buffer(self._memory))
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)

    def put(self, lines: Lines, before: Position, after: Position) -> None:
        """Write a batch; the log ended at these places before and after it."""
        text = ffi.from_buffer(lines.data)
        first = lines.seq - len(lines)
        places = ffi.new("struct qmond_place[2]", [tuple(before), tuple(after)])
        lib.qmond_share_put(
            self._c,
            self._size,
            lines.index,
            len(lines),
            text,
            len(text),
            first,
            places,
            places + 1,
        )

    def tell(self, seq: int, end: Position) -> None:
        """Write the state after a batch."""
        lib.qmond_share_tell(self._c, seq, ffi.new("struct qmond_place *", tuple(end)))

    def close(self) -> None:
        """Close the descriptor; the memory lives as long as somebody has it."""
        os.close(self.fd)


class Pids:
    """Processes to look for, sorted and prepared once."""

    def __init__(self, pids: frozenset[int]) -> None:
        self.found = sorted(pid for pid in pids if 0 <= pid < 1 << 32)
        self.c = ffi.new("uint32_t[]", self.found)


class Frame:
    """Lines that came together; they are valid until the next frame is taken."""

    def __init__(self, buffer: Any) -> None:  # noqa: ANN401 - a cdata
        self._buffer = buffer
        self._c = ffi.cast("struct qmond_frame *", buffer)

    def __len__(self) -> int:
        """How many there are."""
        count: int = self._c.lines
        return count

    @property
    def first(self) -> int:
        """The number of the first line."""
        number: int = self._c.first
        return number

    @property
    def seq(self) -> int:
        """The number of the line that comes after them."""
        return self.first + len(self)

    @property
    def before(self) -> Position:
        """Where the log ended before them."""
        return _position(self._c.before)

    @property
    def end(self) -> Position:
        """Where the log ended after them."""
        return _position(self._c.after)

    @property
    def data(self) -> memoryview:
        """All of them."""
        begin = ffi.sizeof("struct qmond_frame") + len(self) * ffi.sizeof("struct qmond_entry")
        return memoryview(ffi.buffer(self._buffer))[begin : begin + self._c.text]

    def select(self, mask: int, pids: Pids | None = None) -> tuple[bytes, int]:
        """Return the lines of the events in `mask` and of these processes, and their number.

        A line may belong to two processes, and one of them is enough.
        """
        out, chosen = _unset("char[]", self._c.text), ffi.new("uint64_t *")
        wanted, count = (ffi.NULL, 0) if pids is None else (pids.c, len(pids.found))
        size = lib.qmond_frame_select(self._buffer, mask, wanted, count, out, chosen)
        return bytes(ffi.buffer(out, size)), chosen[0]


class Frames:
    """The front's end, which takes the frames one after the other."""

    def __init__(self, fd: int) -> None:
        """Map what the core shares. Raises OSError, ValueError."""
        self._size = os.fstat(fd).st_size - lib.SHARE_DATA
        self._memory = mmap.mmap(fd, lib.SHARE_DATA + self._size, prot=mmap.PROT_READ)
        self._c = ffi.cast("const struct qmond_share *", ffi.from_buffer(self._memory))
        # an mmap has a page only once it is used, where ffi.new would fill all of them
        room = mmap.mmap(-1, self._size // lib.SHARE_PART)
        self._buffer = ffi.from_buffer("unsigned char[]", room)
        self._frame = Frame(self._buffer)
        self._cursor = ffi.new("uint64_t *")

    def state(self) -> State:
        """Return the state as it is now. Raises BrokenShareError."""
        found = ffi.new("struct qmond_state *")
        if not lib.qmond_share_state(self._c, found):
            raise BrokenShareError("the state is never whole")
        return State(found.head, found.seq, _position(found.end))

    def skip(self) -> State:
        """Go to the next frame that comes; returns where that is. Raises BrokenShareError."""
        state = self.state()
        self._cursor[0] = state.head
        return state

    def take(self) -> Frame | None:
        """Return the next frame, or None where there is none yet.

        Raises OverflowError where it has been overwritten, BrokenShareError.
        """
        found = lib.qmond_share_take(self._c, self._size, self._cursor, self._buffer)
        if found == lib.SHARE_OVERRUN:
            raise OverflowError
        if found == lib.SHARE_BROKEN:
            raise BrokenShareError("there is no frame where one should be")
        return self._frame if found == lib.SHARE_FRAME else None


def _position(place: Any) -> Position:  # noqa: ANN401 - a cdata
    return Position(place.device, place.inode, place.offset)
