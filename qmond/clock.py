"""The clocks: convert monotonic times to UTC, and notice when the wall clock is set."""

from __future__ import annotations

import ctypes
import os
import time
from struct import pack
from typing import Final

__all__ = ["TICK_NS", "Anchor", "StepWatch", "WallClock", "wall_offset"]

TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
"""One clock tick in nanoseconds, the unit of start times in /proc."""

_DRIFT_NS: Final = 1_000_000
"""A gradual correction of the wall clock is followed once it is larger than this."""

_libc = ctypes.CDLL(None, use_errno=True)


class Anchor:
    """The offset of CLOCK_REALTIME from CLOCK_MONOTONIC, to format monotonic times as UTC."""

    def __init__(self, offset_ns: int) -> None:
        """Take CLOCK_REALTIME minus CLOCK_MONOTONIC, in nanoseconds."""
        self.offset_ns = offset_ns
        self._second = -1
        self._text = b""

    def utc(self, ts: int) -> bytes:
        """Format a monotonic time in nanoseconds as RFC 3339 in UTC, with microseconds."""
        second, rest = divmod(ts + self.offset_ns, 1_000_000_000)
        if second != self._second:
            self._second = second
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        return b"%b.%06dZ" % (self._text, rest // 1000)


def wall_offset() -> int:
    """Return CLOCK_REALTIME minus CLOCK_MONOTONIC, in nanoseconds."""
    return time.time_ns() - time.monotonic_ns()


class StepWatch:
    """A descriptor that becomes readable when the wall clock is set, or the host resumes.

    It is a timer that never expires, and that the kernel cancels in these cases: see
    TFD_TIMER_CANCEL_ON_SET in timerfd_create(2). Gradual correction of the clock does not count.
    """

    def __init__(self) -> None:
        """Create and arm the timer. Raises OSError."""
        self.fd: int = _libc.timerfd_create(time.CLOCK_REALTIME, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._arm()

    def stepped(self) -> bool:
        """Return whether the clock was set since the last call."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            return False
        except OSError:  # ECANCELED
            self._arm()
            return True
        return False

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)

    def _arm(self) -> None:
        absolute_cancelled_on_set = 1 | 2
        never = pack("=qqqq", 0, 0, 2**62 // 1_000_000_000, 0)  # interval, expiry
        if _libc.timerfd_settime(self.fd, absolute_cancelled_on_set, never, None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")


class WallClock:
    """The wall clock as it goes now: `anchor` follows its steps and gradual corrections.

    `fd` becomes readable when the clock is stepped.
    """

    def __init__(self) -> None:
        """Begin to watch it. Raises OSError."""
        self.anchor = Anchor(wall_offset())
        self._steps = StepWatch()
        self.fd = self._steps.fd

    def follow(self) -> bool:
        """Make another anchor where this one is wrong; says whether the clock was stepped."""
        offset, stepped = wall_offset(), self._steps.stepped()
        if stepped or abs(offset - self.anchor.offset_ns) > _DRIFT_NS:
            self.anchor = Anchor(offset)
        return stepped

    def close(self) -> None:
        """Watch it no longer."""
        self._steps.close()
