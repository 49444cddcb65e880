"""Timers: work at the end of each interval of the statistics, and work once a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

__all__ = ["each_interval", "each_second"]

_SETTLE: Final = 0.02
"""Seconds until programs of the kernel side that run at this moment have surely ended."""


async def each_interval(
    seconds: Callable[[], float],
    *,
    is_idle: Callable[[float], bool],
    turn: Callable[[], int],
    tell: Callable[[int], None],
) -> None:
    """Report statistics at the end of each interval, until cancelled.

    `turn` begins another interval and returns the number of the one that ended, for `tell`. If
    `is_idle` is true for the length of two intervals, there is nothing to report.
    """
    while True:
        interval = seconds()
        await _end_of(interval)
        if is_idle(2 * interval):
            continue
        ended = turn()
        try:
            await asyncio.sleep(_SETTLE)
        finally:  # when the daemon stops just then, too
            tell(ended)


async def each_second(work: Sequence[Callable[[], None]]) -> None:
    """Do all of the work once a second, in that order, until cancelled."""
    while True:
        await _end_of(1)
        for do in work:
            do()


async def _end_of(seconds: float) -> None:
    """Wait for a period's end; equal periods end together, and wake the host once."""
    await asyncio.sleep(seconds - time.monotonic() % seconds)
