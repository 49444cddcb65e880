"""Which processes have allocation probes: put in as they start, taken out as they end.

Attaching takes a fraction of a millisecond and closing up to 50, so both are done in threads, and
no event waits for them.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import platform
from pathlib import Path
from typing import Final

from qmond.bpf.uprobes import attach, is_safe
from qmond.processes import Process, ProcessTable

__all__ = ["Allocations"]

_log = logging.getLogger(__name__)

_TRIES: Final = (0.005, 0.02, 0.1, 0.5, 2.0)
"""Seconds from one try to the next: an interpreter has to map libc before it can be probed."""
_FORKED: Final = 2
"""The first try for a forked child: most exec or end before it, and cost nothing then."""


class Allocations:
    """The links of all processes, by process."""

    def __init__(self, program: int, root: Path, *, enabled: bool) -> None:
        """Take the descriptor of the program to attach, which stays the caller's."""
        self._program = program
        self._root = root
        self._enabled = enabled
        self._links: dict[int, int] = {}
        self._alive: dict[int, Process] = {}
        self._queue: asyncio.Queue[tuple[Process | None, int, int]] = asyncio.Queue()

    def follow(self, processes: ProcessTable) -> None:
        """Take note of the processes that started, changed their program, or ended."""
        started, ended = processes.take_news()
        if not self._enabled:
            return
        for process in started:
            self._alive[process.pid] = process
            self._try_later(process, _FORKED if process.origin == "fork" else 0)
        for pid in ended:
            self._alive.pop(pid, None)
            if pid in self._links:
                self._queue.put_nowait((None, pid, 0))

    async def work_forever(self) -> None:
        """Attach and close in the order of the news, until cancelled."""
        while True:
            process, pid, attempt = await self._queue.get()
            if (link := self._links.pop(pid, None)) is not None:
                await asyncio.to_thread(os.close, link)
            if process is None or self._alive.get(pid) is not process:
                continue
            try:
                link = await asyncio.to_thread(attach, self._program, pid, self._root)
            except OSError as error:
                if error.errno == errno.ESRCH:
                    continue
                self._enabled = False
                _log.warning("no allocation statistics: the kernel refuses the probes: %s", error)
                return
            if link is None:
                self._try_later(process, attempt + 1)
            else:
                self._links[pid] = link

    def _try_later(self, process: Process, attempt: int) -> None:
        if attempt < len(_TRIES) and is_safe(process.arch, platform.machine()):
            entry = process, process.pid, attempt
            asyncio.get_running_loop().call_later(_TRIES[attempt], self._queue.put_nowait, entry)

    async def close(self) -> None:
        """Take out every probe; many at once, as each waits for the kernel."""
        links = list(self._links.values())
        self._links.clear()
        await asyncio.gather(*(asyncio.to_thread(os.close, link) for link in links))
