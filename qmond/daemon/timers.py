"""What comes round: the statistics at each interval's end, and once a second what was lost."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from qmond.daemon.statistics import sums
from qmond.daemon.status import Running
from qmond.events.records import OTHERS
from qmond.outputs.journal import Forward
from qmond.systemd.messages import MessageId, about, flush

__all__ = ["Rounds"]

_log = logging.getLogger(__name__)

_DOUBT: Final = 5.0
"""Seconds after a loss until the processes are doubted, though the ring is never empty."""
_SETTLE: Final = 0.02
"""Seconds until programs of the kernel side that run at this moment are surely done."""


class Telling(Running, Protocol):
    """The parts of a running daemon, and how it tells an event of its own."""

    forward: Forward
    moved: float

    def tell(self, name: str, values: dict[str, Any]) -> None:
        """Send an event that the daemon itself makes."""


class Rounds:
    """The work that the clock brings, for the parts of one daemon."""

    def __init__(self, daemon: Telling) -> None:
        self._of = daemon
        self._lost_since: dict[str, int] = {}  # by stage
        self._doubt_by = float("inf")

    def begin(self) -> None:
        """Count losses from now on."""
        self._lost_since = dict.fromkeys(("ring", "log"), time.monotonic_ns())

    async def tick_forever(self) -> None:
        """Tell the statistics at each interval's end, until cancelled."""
        of = self._of
        while True:
            await _end_of(of.config.stats.interval)
            if self._is_idle(2 * of.config.stats.interval):
                continue
            ended = of.probes.next_interval()
            try:
                await asyncio.sleep(_SETTLE)
            finally:  # when the daemon stops just then, too
                self.tell_statistics(ended)

    async def keep_house_forever(self, pulse: Callable[[], None]) -> None:
        """Tell what was lost or held back, at most once a second, until cancelled.

        `pulse` is called each time.
        """
        of = self._of
        while True:
            await _end_of(1)
            pulse()
            of.front.check()
            of.forward.tell()
            flush()
            of.keeper.check()
            if self._is_idle(2) and not of.accounts.owes_log():
                continue
            self.tell_losses()
            self.tell_suppressed()
            of.processes.confirm()
            of.rates.tick()

    def finish(self) -> None:
        """Tell what is still to be told, at the end."""
        self.tell_statistics(self._of.probes.next_interval())
        self.tell_losses(at_last=True)
        self.tell_suppressed()

    def tell_statistics(self, generation: int) -> None:
        """Tell the figures of an interval that has ended; nothing of what is 0."""
        of = self._of
        found, partial = of.probes.collect(generation), of.allocations.take_partial()
        for name, meta in sums(found, partial, full=of.config.fields == "full"):
            of.tell(name, {"meta": meta})

    def tell_losses(self, *, at_last: bool = False) -> None:
        """Tell what was lost since the last time.

        What the log lacks is told when it is written again: it is for those who read it.
        """
        of, now = self._of, time.monotonic_ns()
        stages = ("ring",) if of.keeper.failing and not at_last else ("ring", "log")
        lost = of.accounts.newly_lost(of.probes.counters(), stages)
        if "ring" in lost:
            self._doubt_by = min(self._doubt_by, time.monotonic() + _DOUBT)
        self._doubt()
        for stage, by_event in lost.items():
            count = sum(by_event.values())
            since = of.encoder.moment(self._lost_since[stage])
            if stage == "ring":
                _log.warning(
                    "%d events lost at the ring: %s",
                    count,
                    by_event,
                    extra=about(MessageId.LOSS, stage=stage, lost=count, event=[*by_event]),
                )
            of.tell("LOST", {"stage": stage, "count": count, "by_event": by_event, "since": since})
        self._lost_since |= dict.fromkeys(stages, now)

    def _doubt(self) -> None:
        """Doubt the processes after a loss, when all that was before it has been read."""
        of, now = self._of, time.monotonic()
        if self._doubt_by < float("inf") and (now > self._doubt_by or not of.probes.ring.used):
            self._doubt_by = float("inf")
            of.processes.doubt(of.probes.is_tracked)

    def tell_suppressed(self) -> None:
        """Tell what limits held back since the last time."""
        of = self._of
        if not of.config.limits:
            return
        for pid, by_event in of.probes.newly_suppressed().items():
            shown = -1 if pid == OTHERS else pid
            count = sum(by_event.values())
            of.tell("SUPPRESSED", {"count": count, "by_event": by_event, "pid": shown})

    def _is_idle(self, seconds: float) -> bool:
        """Whether nobody is under watch, and nothing has come for so long that all is told."""
        return not self._of.processes and time.monotonic() - self._of.moved > seconds


async def _end_of(seconds: float) -> None:
    """Wait for a period's end, the same for all that comes round: that wakes the host once."""
    await asyncio.sleep(seconds - time.monotonic() % seconds)
