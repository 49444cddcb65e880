"""The processes under watch: how they are found, entered, probed for allocations, and let go."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from qmond.bpf.probes import Probes, Settings
from qmond.config.keys import Config
from qmond.daemon.adoption import Adoption
from qmond.daemon.allocations import Allocations
from qmond.daemon.startup import restrictions
from qmond.events.table import NUMBER
from qmond.looker.asking import Lookers
from qmond.processes.table import Answer, Process, ProcessTable

__all__ = ["Watch"]


class Watch:
    """The process table, and those who serve it.

    `adopted` is called with each process that already ran when it was put under watch, and its
    io_uring descriptors. `forget` is called with each process that is known no longer, `ended`
    with the processes that have ended.
    """

    def __init__(
        self,
        config: Config,
        probes: Probes,
        *,
        adopted: Callable[[Process, tuple[int, ...]], None],
        forget: Callable[[int], None],
        ended: Callable[[Iterable[int]], None],
    ) -> None:
        self.restrictions = restrictions(config.procfs)
        """What cannot be done on this host, in words for people."""
        self.allocations = Allocations(probes, config.procfs, off=self._no_allocations(config))
        self._probes = probes
        self._ended = ended
        self._lookers = Lookers(config.procfs)
        self._adoption = Adoption(probes, self._lookers, adopted, self.spread_news)
        self.processes = ProcessTable(self._ask, self.allocations.verdict, forget)

    def configure(self, config: Config) -> None:
        """Tell the kernel side what is wanted from now on."""
        self.allocations.off = self._no_allocations(config)
        self._probes.configure(
            Settings(
                mask=config.mask,
                capture=config.capture.bytes,
                budget=config.stats.budget,
                prefixes=tuple(map(os.fsencode, config.match.prefixes)),
                excludes=tuple(map(os.fsencode, config.match.exclude)),
                limits={NUMBER[name]: rate for name, rate in config.limits},
            )
        )

    def adopt(self, config: Config, *, resumed: bool = False) -> None:
        """Begin to put under watch what already runs.

        `resumed`: first enter what is under watch since a daemon before this one.
        """
        if not self.restrictions:
            self._adoption.begin(config.match, self.processes, resumed=resumed)

    @property
    def is_adopting(self) -> bool:
        """Whether processes that already run are still being looked for."""
        return not self._adoption.is_done

    @property
    def left_behind(self) -> int:
        """How many lookers were killed and have not ended."""
        return self._lookers.left_behind + self.allocations.left_behind

    def spread_news(self) -> None:
        """Have others follow what the process table has learned since the last call."""
        news = self.processes.take_news()
        self.allocations.follow(news)
        self._ended(news.ended)

    def adopt_no_more(self) -> None:
        """Look for no process any more."""
        self._adoption.end()

    async def close(self) -> None:
        """End the lookers, and take out every allocation probe."""
        self._adoption.end()
        try:
            await self._lookers.close()
        finally:
            await self.allocations.close()

    def _ask(self, pid: int, uid: int | None, answer: Answer) -> None:
        """Look for a process that no record has described."""
        if self.restrictions:
            answer(None)
        else:
            self._adoption.ask(pid, uid, answer)

    def _no_allocations(self, config: Config) -> str:
        """Return the word for why no allocations are counted, or "" where they are."""
        if self.restrictions:
            return "refused"
        wanted = config.stats.allocations and {"ALLOC_SUM", "FREE_SUM"} & {*config.events}
        return "" if wanted else "off"
