"""The books: for every event, seen = written + lost + suppressed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

__all__ = ["BOOKS", "Accounts", "KernelCounter", "Rates"]

BOOKS: Final = ("made", "written", "not_logged", "reported_ring", "reported_log")
"""What of the accounts outlives a daemon: its counters, by attribute."""
_COLUMNS: Final = ("seen", "written", "lost", "suppressed")
_LOST: Final = {"LOST"}
"""Events whose loss alone is not reported: each report could be lost, and cause the next one."""


class KernelCounter(Protocol):
    """What the kernel side counted of one event."""

    @property
    def seen(self) -> int:
        """How many there were."""

    @property
    def lost(self) -> int:
        """How many the ring had no room for."""

    @property
    def suppressed(self) -> int:
        """How many a limit held back."""


@dataclass(slots=True)
class Accounts:
    """What became of each event; `kernel` reads what the kernel side counted, by event."""

    kernel: Callable[[], Mapping[str, KernelCounter]]
    made: Counter[str] = field(default_factory=Counter)
    """Events that the daemon itself made: seen by nobody but it."""
    written: Counter[str] = field(default_factory=Counter)
    not_logged: Counter[str] = field(default_factory=Counter)
    reported_ring: Counter[str] = field(default_factory=Counter)
    reported_log: Counter[str] = field(default_factory=Counter)
    """The losses that have been reported, by stage."""

    def books(self) -> dict[str, Counter[str]]:
        """Return the counters that the next daemon goes on with, by BOOKS."""
        return {name: getattr(self, name) for name in BOOKS}

    def resume(self, books: Mapping[str, Counter[str]]) -> None:
        """Go on with the counters of the daemon before."""
        for name, counts in books.items():
            getattr(self, name).update(counts)

    def count(self, lines: Counter[str], *, logged: bool) -> None:
        """Enter how many lines of each event reached the log, or it had to leave out."""
        (self.written if logged else self.not_logged).update(lines)

    def totals(self) -> dict[str, dict[str, int]]:
        """Return by event what was seen, written, lost and suppressed; only what there was."""
        kernel = self.kernel()
        rows = {
            name: (
                kernel[name].seen + self.made[name],
                self.written[name],
                kernel[name].lost + self.not_logged[name],
                kernel[name].suppressed,
            )
            for name in kernel
        }
        return {
            name: dict(zip(_COLUMNS, row, strict=True)) for name, row in rows.items() if any(row)
        }

    def lost_at_ring(self) -> Counter[str]:
        """Return by event how many the ring had no room for."""
        return Counter({name: counter.lost for name, counter in self.kernel().items()})

    def advice(self, ring_size: int) -> list[str]:
        """Return what can be done about losses that there were, by the config key to change."""
        found = []
        lost = self.lost_at_ring()
        if count := lost.total():
            most = lost.most_common(1)[0][0]
            found.append(
                f"{count} events found no room in the ring: raise ring.size ({ring_size}), limit "
                f"the most frequent ({most}) by limits, or leave it out of events"
            )
        if count := self.not_logged.total():
            found.append(f"{count} events could not be written: look at log.dir and its disk")
        return found

    def are_complete(self) -> bool:
        """Whether every event that was seen has been written, or counted as lost or suppressed.

        They are not while a program of the kernel side has counted an event and not yet sent it:
        recent kernels let a task be preempted between its arrival at a tracepoint and the program.
        """
        rows = self.totals().values()
        return all(row["seen"] <= sum(row.values()) - row["seen"] for row in rows)

    def owes_log(self) -> bool:
        """Whether events are missing from the log that were not reported yet."""
        return bool(set(self.not_logged - self.reported_log) - _LOST)

    def newly_lost(self, stages: Iterable[str] = ("ring", "log")) -> dict[str, dict[str, int]]:
        """Return the losses since the last report, at some stages: stage → event → count."""
        books = {
            "ring": (self.lost_at_ring(), self.reported_ring),
            "log": (self.not_logged, self.reported_log),
        }
        fresh = {}
        for stage in stages:
            lost, reported = books[stage]
            news = lost - reported
            if set(news) - _LOST:
                reported.update(news)
                fresh[stage] = dict(news)
        return fresh


class Rates:
    """How many lines each process made, in all and in the last second."""

    def __init__(self) -> None:
        self._totals: Counter[int] = Counter()
        self._now: Counter[int] = Counter()
        self._last: Counter[int] = Counter()

    def count(self, lines: Counter[int]) -> None:
        """Enter how many lines there are of each process in a batch."""
        self._now.update(lines)

    def tick(self) -> None:
        """Begin a new second."""
        self._totals.update(self._now)
        self._last, self._now = self._now, Counter()

    def forget(self, pids: Iterable[int]) -> None:
        """Forget processes that have ended."""
        for pid in pids:
            for counter in (self._totals, self._now, self._last):
                del counter[pid]

    def total(self, pid: int) -> int:
        """Return how many lines there were of a process."""
        return self._totals[pid] + self._now[pid]

    def rate(self, pid: int) -> int:
        """Return how many of them in the second that ended last."""
        return self._last[pid]
