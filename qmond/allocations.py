"""Which processes have allocation probes: put in as they start, taken out as they end.

Attaching takes a fraction of a millisecond and closing up to a tenth of a second, so both are
done in threads, and no event waits for them.

A probe that is still there when a process executes another program could be met by a guest that
maps the probed library as its own code, and end it. So the kernel side says by a way of its own
whose probes must go at once, and a thread of its own waits for that: however long the events have
to wait, the probes are gone long before such a guest has mapped anything.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import select
from collections import Counter
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, Thread
from typing import Final

from qmond import procfs
from qmond.bpf import uprobes
from qmond.bpf.probes import Probes
from qmond.clock import TICK_NS
from qmond.processes import News, Process

__all__ = ["PAUSE", "Allocations"]

_log = logging.getLogger(__name__)

_TRIES: Final = (0.005, 0.02, 0.1, 0.5, 2.0)
"""Seconds from one try to the next: an interpreter has to map libc before it can be probed."""
_FORKED: Final = 2
"""The first try for a forked child: most exec or end before it, and cost nothing then."""
_CLOSERS: Final = 8
"""Threads that close probes: what a close takes, it takes as it waits for the kernel."""
PAUSE: Final = 10.0
"""Seconds without probes for a process that was over its budget."""


@dataclass(slots=True, eq=False)
class _Entry:
    """One process, as long as it runs the same program."""

    process: Process
    state: str
    links: list[int] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)
    """Held while probes are put in: who takes them out meets all of them or none."""

    def take_links(self) -> list[int]:
        """Take out what there is to close."""
        with self.lock:
            links, self.links = self.links, []
        return links


class Allocations:
    """The probes of all processes.

    `off` is the word for why there are no probes, where there are to be none from now on. A
    process' state is a word of ALLOCATIONS, or `waiting` for its C library, `paused` because it
    was over its budget, `none` where no C library came.
    """

    def __init__(self, probes: Probes, root: Path, *, off: str = "") -> None:
        """Begin to guard."""
        self._probes = probes
        self._root = root
        self.off = off
        self._entries: dict[int, _Entry] = {}
        self._work: set[asyncio.Task[None]] = set()
        self._partial: set[int] = set()
        self._closers = ThreadPoolExecutor(_CLOSERS, "qmond-closer")
        self._end, self._ended = os.pipe2(os.O_CLOEXEC)
        self._guard = Thread(target=self._guard_forever, name="qmond-guard")
        self._guard.start()

    def verdict(self, process: Process) -> str:
        """Return whether a process' allocations are counted, as a word of ALLOCATIONS."""
        if process.arch is None:
            return "native"
        if self.off:
            return self.off
        if not uprobes.is_safe(process.arch, platform.machine()):
            return "unsafe"
        try:
            if uprobes.is_static_program(process.pid, self._root):
                return "static"
            procfs.read_own_pid(process.pid, self._root)
        except OSError:  # it has ended already: what its name says must do
            return "static" if process.bin.endswith("-static") else "counted"
        except ValueError:
            return "refused"
        return "counted"

    def state(self, pid: int) -> str:
        """Return a process' state."""
        entry = self._entries.get(pid)
        return entry.state if entry else "none"

    def states(self) -> dict[str, int]:
        """Return how many processes are in each state."""
        return dict(Counter(entry.state for entry in self._entries.values()))

    def take_partial(self) -> list[int]:
        """Return whose probes were off for their budget's sake at some time since the last call."""
        partial, self._partial = self._partial, set()
        self._partial = {pid for pid in partial if self.state(pid) == "paused"}
        return sorted(partial)

    def follow(self, news: News) -> None:
        """Act on what the process table has learned."""
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
        """Take out every probe, and guard no longer."""
        if not self._guard.is_alive():
            return
        self.off = "off"
        for pid in tuple(self._entries):
            self._release(pid)
        while self._work:
            await asyncio.gather(*self._work)
        os.close(self._ended)
        await asyncio.to_thread(self._guard.join)
        await asyncio.to_thread(self._closers.shutdown)
        os.close(self._end)

    def _release(self, pid: int) -> None:
        """Forget a process, or what it was; its probes go at once, before anything else."""
        entry = self._entries.pop(pid, None)
        if entry is not None:
            entry.state = "none"
            self._close(entry)

    def _pause(self, pid: int) -> None:
        entry = self._entries.get(pid)
        if entry is None or entry.state != "counted":
            return
        _log.info("process %d allocates too often to be counted: not for %g s", pid, PAUSE)
        entry.state = "paused"
        self._partial.add(pid)
        self._close(entry)
        asyncio.get_running_loop().call_later(PAUSE, self._try, entry, 0)

    def _guard_forever(self) -> None:
        """Take out the probes that must go at once, until `_ended` is closed: a thread's work."""
        poll = select.poll()
        poll.register(self._probes.urgent.fd, select.POLLIN)
        poll.register(self._end, select.POLLIN)
        while self._end not in dict(poll.poll()):
            for pid in self._probes.urgently():
                if (entry := self._entries.get(pid)) is not None:
                    self._close(entry)

    def _close(self, entry: _Entry) -> None:
        if links := entry.take_links():
            self._closers.submit(uprobes.close, links)

    def _try_later(self, entry: _Entry, attempt: int) -> None:
        if attempt < len(_TRIES):
            asyncio.get_running_loop().call_later(_TRIES[attempt], self._try, entry, attempt)
        else:
            entry.state = "none"

    def _try(self, entry: _Entry, attempt: int) -> None:
        if self._is_current(entry):
            self._start(self._attach(entry, attempt))

    async def _attach(self, entry: _Entry, attempt: int) -> None:
        try:
            await asyncio.to_thread(self._attach_now, entry)
        except uprobes.NotProbedError:
            if self._is_current(entry):
                self._try_later(entry, attempt + 1)
        except uprobes.UnsafeError:
            entry.state = "unsafe"
        except OSError as error:
            entry.state = "refused"
            if not self.off:
                _log.warning("no allocation statistics: the kernel refuses the probes: %s", error)
            self.off = "refused"
        else:
            if self._is_current(entry):
                entry.state = "counted"
            else:
                self._close(entry)

    def _attach_now(self, entry: _Entry) -> None:
        """Put the probes in; the kernel side tells of an exec from before that on."""
        process = entry.process
        self._probes.expect_allocations(process.pid)
        with entry.lock:
            entry.links = uprobes.attach(
                self._probes.allocation_program,
                process.pid,
                process.start // TICK_NS,
                process.bin,
                self._root,
            )

    def _is_current(self, entry: _Entry) -> bool:
        return self._entries.get(entry.process.pid) is entry

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
