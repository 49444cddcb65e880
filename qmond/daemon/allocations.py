"""Which processes have allocation probes: attached when they start, detached when they end.

Attaching takes a fraction of a millisecond, detaching up to a tenth of a second. A looker reads the
files of others for it. No event waits for any of this.
"""

from __future__ import annotations

import asyncio
import logging
import platform
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qmond.bpf.probes import Probes
from qmond.daemon.guard import Guard, Place
from qmond.processes.table import News, Process

__all__ = ["PAUSE", "Allocations", "is_safe"]

_log = logging.getLogger(__name__)

_TRIES: Final = (0.005, 0.02, 0.1, 0.5, 2.0)
"""Seconds between tries: an emulator has to map libc before it can be probed."""
_FORKED: Final = 2
"""The first try for a forked child: most children exec or end before it, and cost nothing."""
PAUSE: Final = 10.0
"""Seconds that a process over its budget has no probes."""
_HOSTS_OWN: Final = {"x86_64": {"x86_64", "i386"}, "aarch64": {"aarch64", "arm"}}


def is_safe(arch: str | None, host: str) -> bool:
    """Whether a guest of that architecture cannot run the host's libc as its own code."""
    return arch is not None and arch not in _HOSTS_OWN.get(host, {arch})


@dataclass(slots=True, eq=False)
class _Entry:
    """One process, while it runs the same program."""

    process: Process
    state: str
    place: Place | None = None


class Allocations:
    """The probes of all processes.

    `off` says why no more probes are attached, or is "". A process' state is a word of ALLOCATIONS,
    or `waiting` (for its C library), `paused` (it was over its budget), `none` (no C library came).
    """

    def __init__(self, probes: Probes, root: Path, *, off: str = "") -> None:
        """Start the guard's thread."""
        self.off = off
        self._guard = Guard(probes, root)
        self._entries: dict[int, _Entry] = {}
        self._work: set[asyncio.Task[None]] = set()
        self._partial: set[int] = set()

    def verdict(self, process: Process) -> str:
        """Return whether a process' allocations are counted, as a word of ALLOCATIONS.

        Only its name is known now; its file may show something else later.
        """
        if process.arch is None:
            return "native"
        if self.off:
            return self.off
        if not is_safe(process.arch, platform.machine()):
            return "unsafe"
        return "static" if process.bin.endswith("-static") else "counted"

    def state(self, pid: int) -> str:
        """Return a process' state."""
        entry = self._entries.get(pid)
        return entry.state if entry else "none"

    def states(self) -> dict[str, int]:
        """Return how many processes are in each state."""
        return dict(Counter(entry.state for entry in self._entries.values()))

    @property
    def left_behind(self) -> int:
        """How many lookers were killed and have not ended."""
        return self._guard.left_behind

    def take_partial(self) -> list[int]:
        """Return the processes that were paused at some time since the last call."""
        partial, self._partial = self._partial, set()
        self._partial = {pid for pid in partial if self.state(pid) == "paused"}
        return sorted(partial)

    def follow(self, news: News) -> None:
        """Attach and detach probes after changes of the process table."""
        for process in news.started:
            self._release(process.pid)
            entry = self._entries[process.pid] = _Entry(process, process.allocations)
            if entry.state == "counted":
                if self.off:
                    entry.state = self.off
                    continue
                entry.state = "waiting"
                self._try_later(entry, _FORKED if process.origin == "fork" else 0)
        for pid in news.over_budget:
            self._pause(pid)
        for pid in news.ended:
            self._release(pid)

    async def close(self) -> None:
        """Detach every probe, and end the guard's thread."""
        self.off = "off"
        for pid in tuple(self._entries):
            self._release(pid)
        await self._guard.close()
        while self._work:
            await asyncio.gather(*self._work, return_exceptions=True)

    def _release(self, pid: int) -> None:
        """Forget a process or its former program; its probes are detached first."""
        entry = self._entries.pop(pid, None)
        if entry is not None:
            entry.state = "none"
            self._detach(entry)

    def _pause(self, pid: int) -> None:
        entry = self._entries.get(pid)
        if entry is None or entry.state != "counted":
            return
        _log.info(
            "process %d allocates too often: its allocations are not counted for %g s", pid, PAUSE
        )
        entry.state = "paused"
        self._partial.add(pid)
        self._detach(entry)
        asyncio.get_running_loop().call_later(PAUSE, self._try, entry, 0)

    def _detach(self, entry: _Entry) -> None:
        place, entry.place = entry.place, None
        if place is not None:
            self._guard.take_out(place)

    def _try_later(self, entry: _Entry, attempt: int) -> None:
        if attempt < len(_TRIES):
            asyncio.get_running_loop().call_later(_TRIES[attempt], self._try, entry, attempt)
        else:
            entry.state = "none"

    def _try(self, entry: _Entry, attempt: int) -> None:
        if self._is_current(entry):
            self._start(self._attach(entry, attempt))

    async def _attach(self, entry: _Entry, attempt: int) -> None:
        place = entry.place = Place(entry.process)
        try:
            outcome = await asyncio.wrap_future(self._guard.put(place))
        except OSError as error:
            _log.info("process %d has no allocation probes: %s", entry.process.pid, error)
            outcome = "refused"
        if not self._is_current(entry) or entry.place is not place:
            return
        if outcome in {None, "none"}:
            self._try_later(entry, attempt + 1)
        else:
            entry.state = str(outcome)

    def _is_current(self, entry: _Entry) -> bool:
        return self._entries.get(entry.process.pid) is entry

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
