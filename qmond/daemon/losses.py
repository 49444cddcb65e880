"""Reports lost and suppressed events as LOST and SUPPRESSED, at most once a second."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from qmond.bpf.probes import Probes
from qmond.daemon.accounts import Accounts
from qmond.events.records import OTHERS
from qmond.log.keeper import LogKeeper
from qmond.processes.table import ProcessTable
from qmond.systemd.messages import MessageId, about

__all__ = ["Losses"]

_log = logging.getLogger(__name__)

_DOUBT_AFTER: Final = 5.0
"""Seconds after a loss until the process table is checked, though the ring is never empty."""


class Losses:
    """Sends LOST and SUPPRESSED by `tell`; `moment` turns a monotonic time in ns into a `ts`."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        probes: Probes,
        processes: ProcessTable,
        log: LogKeeper,
        tell: Callable[[str, dict[str, Any]], None],
        moment: Callable[[int], Any],
    ) -> None:
        self._accounts = accounts
        self._probes = probes
        self._processes = processes
        self._log = log
        self._tell = tell
        self._moment = moment
        self._since: dict[str, int] = {}
        """When losses were reported last, by stage: CLOCK_MONOTONIC in ns."""
        self._doubt_by = float("inf")

    def begin(self) -> None:
        """Count losses from now on."""
        self._since = dict.fromkeys(("ring", "log"), time.monotonic_ns())

    def tell_lost(self, *, at_last: bool = False) -> None:
        """Report what was lost since the last time.

        Losses of the log are reported once it can be written again: the report is for its readers.
        """
        now = time.monotonic_ns()
        stages = ("ring",) if self._log.failing and not at_last else ("ring", "log")
        lost = self._accounts.newly_lost(stages)
        if "ring" in lost:
            self._doubt_by = min(self._doubt_by, time.monotonic() + _DOUBT_AFTER)
        self._doubt()
        for stage, by_event in lost.items():
            count = sum(by_event.values())
            since = self._moment(self._since[stage])
            if stage == "ring":
                _log.warning(
                    "%d events lost at the ring: %s",
                    count,
                    by_event,
                    extra=about(MessageId.LOSS, stage=stage, lost=count, event=[*by_event]),
                )
            self._tell(
                "LOST", {"stage": stage, "count": count, "by_event": by_event, "since": since}
            )
        self._since |= dict.fromkeys(stages, now)

    def tell_suppressed(self) -> None:
        """Report what limits held back since the last time."""
        for pid, by_event in self._probes.newly_suppressed().items():
            shown = -1 if pid == OTHERS else pid
            count = sum(by_event.values())
            self._tell("SUPPRESSED", {"count": count, "by_event": by_event, "pid": shown})

    def _doubt(self) -> None:
        """Have the process table checked after a loss, once all records before it were read."""
        if self._doubt_by == float("inf"):
            return
        if time.monotonic() > self._doubt_by or not self._probes.ring.used:
            self._doubt_by = float("inf")
            self._processes.doubt(self._probes.is_tracked)
