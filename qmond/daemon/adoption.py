"""Adoption: processes that ran before the daemon are found by a looker and put under watch.

The probes are attached before, so the kernel side sees each exec and fork from then on. A child may
have been forked just before its parent was put under watch. So the looker scans again until it
finds nothing new.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final, Protocol

from qmond.clock import TICK_NS
from qmond.config.keys import Match
from qmond.events.records import ARGV_MAX
from qmond.looker.asking import GoneError
from qmond.looker.requests import Description, Seen
from qmond.processes.cgroups import container_of
from qmond.processes.guests import architecture, guest_of
from qmond.processes.table import (
    Answer,
    Process,
    ProcessTable,
    text_of,
    words_of,
)

__all__ = ["Adoption", "described"]

_SCANS: Final = 8
"""Scans at most; a process that still forks then is under watch itself."""
_RETRY: Final = 1.0
"""Seconds until a process that was not found is looked for again."""


class Tracked(Protocol):
    """The kernel side's set of processes."""

    def track(self, pid: int) -> bool:
        """Put a process under watch; returns false if it is already."""

    def untrack(self, pid: int) -> None:
        """Watch it no longer."""

    def is_tracked(self, pid: int) -> bool:
        """Whether it is under watch now."""


class Looking(Protocol):
    """The lookers, as adoption needs them."""

    async def scan(self, prefixes: tuple[bytes, ...], excludes: tuple[bytes, ...]) -> list[Seen]:
        """Return the processes that match, with their descendants."""

    async def describe(self, pid: int, uid: int | None = None) -> Description | None:
        """Return the description of a process, or None if it is not known. Raises GoneError."""


class Adoption:
    """Finds processes that the kernel side has not reported, in tasks of its own.

    `tell` is called with each adopted process and its io_uring descriptors, `changed` after each
    change of the process table.
    """

    def __init__(
        self,
        tracked: Tracked,
        lookers: Looking,
        tell: Callable[[Process, tuple[int, ...]], None],
        changed: Callable[[], None],
    ) -> None:
        self._tracked = tracked
        self._lookers = lookers
        self._tell = tell
        self._changed = changed
        self._searches: set[asyncio.Task[None]] = set()
        self._adopting: asyncio.Task[None] | None = None
        self._wanted: Match | None = None

    @property
    def is_done(self) -> bool:
        """Whether no adoption is going on."""
        return self._adopting is None or self._adopting.done()

    def ask(self, pid: int, uid: int | None, answer: Answer) -> None:
        """Describe a process that is under watch, and pass it to `answer`."""
        search = asyncio.get_running_loop().create_task(self._search(pid, uid, answer))
        self._searches.add(search)
        search.add_done_callback(self._searches.discard)

    def begin(self, match: Match, processes: ProcessTable, *, resumed: bool = False) -> None:
        """Put every matching process and its descendants under watch.

        `resumed`: first enter the processes that the last daemon left under watch.
        """
        self._wanted = match
        if self.is_done:
            work = self._adopt(processes, resumed=resumed)
            self._adopting = asyncio.get_running_loop().create_task(work)

    def end(self) -> None:
        """Cancel all of it."""
        for task in (self._adopting, *self._searches):
            if task is not None:
                task.cancel()

    async def _search(self, pid: int, uid: int | None, answer: Answer) -> None:
        try:
            found = await self._lookers.describe(pid, uid)
        except GoneError:
            found = None
        if found is not None and self._tracked.is_tracked(pid):
            answer(described(pid, found))
            self._changed()
        else:
            await asyncio.sleep(_RETRY)
            answer(None)

    async def _adopt(self, processes: ProcessTable, *, resumed: bool) -> None:
        if resumed:
            for seen in await self._lookers.scan((b"",), ()):
                if self._tracked.is_tracked(seen.pid) and seen.pid not in processes:
                    processes[seen.pid]
            while self._searches:
                await asyncio.wait(self._searches)
        while (match := self._wanted) is not None:
            self._wanted = None
            await self._adopt_all(match, processes)

    async def _adopt_all(self, match: Match, processes: ProcessTable) -> None:
        prefixes, excludes = (
            tuple(map(os.fsencode, names)) for names in (match.prefixes, match.exclude)
        )
        for _ in range(_SCANS):
            found = await self._lookers.scan(prefixes, excludes)
            fresh = [seen for seen in found if self._tracked.track(seen.pid)]
            if not fresh:
                return
            answers = {seen: processes.expect(seen.pid) for seen in fresh}
            for seen, answer in answers.items():
                await self._enter(seen, answer, processes)

    async def _enter(self, seen: Seen, answer: Answer, processes: ProcessTable) -> None:
        """Enter a process that was put under watch, and report it."""
        try:
            found = await self._lookers.describe(seen.pid, seen.uid)
        except GoneError:
            found = None
            is_gone = True
        else:
            is_gone = found is not None and found.outline.start != seen.start
        if is_gone:
            answer(None)
            if seen.pid not in processes:
                # it ended before it was under watch, so the kernel side did not see that
                self._tracked.untrack(seen.pid)
            return
        process = described(seen.pid, found) if found else _bare(seen)
        entered = answer(process)
        if entered is None and seen.pid in processes:  # its records came first
            entered = processes[seen.pid]
        if entered is not None:
            self._tell(entered, found.outline.rings if found else ())
            self._changed()


def _bare(seen: Seen) -> Process:
    """Return a process as far as a scan describes it."""
    start = seen.start * TICK_NS
    return Process(
        seen.pid, ppid=seen.ppid, tree=seen.pid, uid=seen.uid, start=start, origin="procfs"
    )


def described(pid: int, found: Description) -> Process:
    """Return the process of a description; without its command line the guest is unknown."""
    outline, words = found.outline, found.words
    name = text_of(os.path.basename(outline.exe.removesuffix(b" (deleted)")))
    arch = architecture(name)
    argv = words.argv if words else b""
    filename = words.filename if words and words.filename else outline.exe
    # with binfmt_misc, the path passed to execve is the guest's
    interpreted = architecture(text_of(os.path.basename(filename))) is None
    cgroup = None if outline.cgroup is None else text_of(outline.cgroup)
    guest = None
    if words is not None:
        line = words_of(argv)
        guest = guest_of(filename, line, emulated=arch is not None, interpreted=interpreted)
        if len(argv) == ARGV_MAX and guest is line[-1]:
            guest = None  # the path was cut
    return Process(
        pid=pid,
        ppid=outline.ppid,
        tree=pid,
        bin=name,
        origin="procfs",
        argv=argv,
        truncated=len(argv) == ARGV_MAX,
        comm=text_of(outline.comm),
        guest=guest,
        arch=arch,
        launch="nested" if arch is None else "binfmt" if interpreted else "direct",
        uid=outline.uid,
        cgroup=cgroup,
        container=container_of(cgroup),
        start=outline.start * TICK_NS,
        parents=tuple((parent, text_of(comm)) for parent, comm in outline.parents),
    ).rendered()
