"""The clocks: monotonic moments as wall time, and word of every step of the wall clock."""

from __future__ import annotations

import ctypes
import os
import time
from struct import pack
from typing import Final

__all__ = ["TICK_NS", "Anchor", "StepWatch", "WallClock", "wall_offset"]

TICK_NS: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
"""The clock tick that /proc counts start times in."""

_DRIFT_NS: Final = 1_000_000
"""A gradual correction of the wall clock is followed once it is larger than this."""

_libc = ctypes.CDLL(None, use_errno=True)


class Anchor:
    """Where the wall clock stands against CLOCK_MONOTONIC: renders a moment as UTC."""

    def __init__(self, offset_ns: int) -> None:
        """Take the wall clock's nanoseconds less the monotonic clock's."""
        self.offset_ns = offset_ns
        self._second = -1
        self._text = b""

    def utc(self, ts: int) -> bytes:
        """Return a monotonic time in ns as RFC 3339 with microseconds."""
        second, rest = divmod(ts + self.offset_ns, 1_000_000_000)
        if second != self._second:
            self._second = second
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        return b"%b.%06dZ" % (self._text, rest // 1000)


def wall_offset() -> int:
    """Return the wall clock's nanoseconds less the monotonic clock's."""
    return time.time_ns() - time.monotonic_ns()


class StepWatch:
    """A descriptor that becomes readable when somebody sets the wall clock, or the host wakes.

    A timer that never expires, which the kernel cancels then: TFD_TIMER_CANCEL_ON_SET of
    timerfd_create(2). The clock's gradual correction does not touch it.
    """

    def __init__(self) -> None:
        """Arm it. Raises OSError."""
        self.fd: int = _libc.timerfd_create(time.CLOCK_REALTIME, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._arm()

    def stepped(self) -> bool:
        """Whether the clock was set since the last time."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            return False
        except OSError:  # ECANCELED
            self._arm()
            return True
        return False

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.fd)

    def _arm(self) -> None:
        absolute_cancelled_on_set = 1 | 2
        never = pack("=qqqq", 0, 0, 2**62 // 1_000_000_000, 0)  # interval, then the moment
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
