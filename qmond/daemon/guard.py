"""A thread that attaches allocation probes, and detaches them at once when a process execs.

The new program could be a guest that maps the probed library as its own code. It would run into the
probe, and be killed. So the kernel side reports such an exec in a second ring, which this thread
reads. It does not wait for the events, and the probes are gone long before the guest has mapped
anything. If a looker attaches probes to a process that has just exec'd, they are detached too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Final

from qmond.bpf.probes import Probes
from qmond.clock import TICK_NS
from qmond.looker.asking import Lookers
from qmond.processes.table import Process

__all__ = ["Guard", "Place"]

_CLOSERS: Final = 8
"""Threads that detach probes; each waits for the kernel most of the time."""


@dataclass(slots=True, eq=False)
class Place:
    """The probes of one process, attached or about to be, while it runs the same program."""

    process: Process
    links: list[int] = field(default_factory=list)
    is_revoked: bool = False


class Guard:
    """The thread and its looker; only that thread uses the links."""

    def __init__(self, probes: Probes, root: Path) -> None:
        """Start the thread."""
        self._probes = probes
        self._root = root
        self._places: dict[int, set[Place]] = {}
        self._closers = ThreadPoolExecutor(_CLOSERS, "qmond-closer")
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._ready = Event()
        self._thread = Thread(target=self._run, name="qmond-guard")
        self._thread.start()
        self._ready.wait()

    @property
    def left_behind(self) -> int:
        """How many lookers were killed and have not ended yet."""
        return self._lookers.left_behind

    def put(self, place: Place) -> Future[str | None]:
        """Attach probes; the result is a word of OUTCOMES, or None if it is not known.

        The future raises OSError if too many processes have probes.
        """
        return asyncio.run_coroutine_threadsafe(self._put(place), self._loop)

    def take_out(self, place: Place) -> None:
        """Detach probes, also those that are being attached now."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._revoke, place)

    async def close(self) -> None:
        """Detach every probe, and end the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            await asyncio.to_thread(self._thread.join)
            await asyncio.to_thread(self._closers.shutdown)

    # ---- in the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._guard())

    async def _guard(self) -> None:
        self._lookers = Lookers(self._root, self._probes.allocation_program)
        self._loop.add_reader(self._probes.urgent.fd, self._take_out_urgently)
        self._ready.set()
        await self._end.wait()
        await self._lookers.close()
        self._loop.remove_reader(self._probes.urgent.fd)
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))
        for place in [place for places in self._places.values() for place in places]:
            self._revoke(place)

    async def _put(self, place: Place) -> str | None:
        process = place.process
        if place.is_revoked:
            return None
        self._places.setdefault(process.pid, set()).add(place)
        try:
            self._probes.expect_allocations(process.pid)  # from here on, an exec is reported
            start = process.start // TICK_NS
            found = await self._lookers.probe(process.pid, process.uid, start, process.bin)
        except BaseException:
            self._forget(place)
            raise
        outcome, place.links = found or (None, [])
        if place.is_revoked or outcome != "counted":
            self._revoke(place)
            self._forget(place)
        return None if place.is_revoked and outcome == "counted" else outcome

    def _take_out_urgently(self) -> None:
        for pid in self._probes.urgently():
            for place in tuple(self._places.get(pid, ())):
                self._revoke(place)

    def _revoke(self, place: Place) -> None:
        place.is_revoked = True
        links, place.links = place.links, []
        if links:
            self._closers.submit(_close, links)
            self._forget(place)

    def _forget(self, place: Place) -> None:
        places = self._places.get(place.process.pid, set())
        places.discard(place)
        if not places:
            self._places.pop(place.process.pid, None)


def _close(links: Iterable[int]) -> None:
    """Detach probes; the kernel takes up to a tenth of a second for each."""
    for link in links:
        os.close(link)
