"""The daemon: its parts together, and the way of the records through them."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import socket
import time
from collections.abc import Callable
from typing import Any, Final

from qmond import __version__
from qmond.bpf.probes import Settings
from qmond.clock import Anchor, StepWatch, wall_offset
from qmond.config.keys import Config, hold
from qmond.daemon.accounts import Accounts, Rates
from qmond.daemon.adoption import Adoption
from qmond.daemon.allocations import Allocations
from qmond.daemon.checkpoint import BOOKS, State
from qmond.daemon.fronting import Fronting
from qmond.daemon.identity import front_identity
from qmond.daemon.metrics import Metrics
from qmond.daemon.startup import Kernel, boot_id, limits, next_seq
from qmond.daemon.status import Reports
from qmond.daemon.timers import Rounds
from qmond.events.table import NUMBER, SCHEMA_VERSION
from qmond.lines.encoder import Encoder, adoption
from qmond.lines.redact import Redactor
from qmond.log.keeper import LogKeeper
from qmond.log.lives import Lives
from qmond.log.writer import EventLog
from qmond.looker.asking import Lookers
from qmond.outputs.journal import Forward
from qmond.processes.table import Answer, Process, ProcessTable
from qmond.server.access import group_id
from qmond.server.settings import FrontSettings
from qmond.systemd.journald import Journald
from qmond.systemd.messages import MessageId, about

__all__ = ["Daemon"]

_log = logging.getLogger(__name__)

_REST: Final = 0.005
"""Seconds between two drains, so that batches grow under load."""
_BUSY: Final = 1 << 18
"""Bytes in the ring that do not wait for that."""
_UNFINISHED: Final = 0.2
"""Seconds that a program may take that began before its tracepoint was taken off."""
_ADOPTING: Final = 1.0
"""Seconds that the records wait at the start, for what already runs to be told before them."""
_DRIFT_NS: Final = 1_000_000
"""The wall clock may be corrected gradually by so much before `time` follows it."""


class Daemon:
    """A running daemon; it is made when everything is open, and attached.

    `reload` reads the configuration anew; `admit` lets a group, by its name, connect.
    """

    def __init__(
        self,
        config: Config,
        kernel: Kernel,
        log: EventLog,
        reload: Callable[[], list[str]],
        admit: Callable[[str], None],
    ) -> None:
        self.config = config
        self.reload = reload
        self.admit = admit
        self.kernel = kernel
        self.probes = probes = kernel.probes
        self.log = log
        seq = self._take_up(kernel.state)
        self.boot_id = boot_id()
        self.started = time.monotonic()
        self.accounts = Accounts()
        epoch = time.monotonic_ns() if config.timestamps == "relative" else 0
        self.redactor = Redactor(config.redact)
        self.encoder = Encoder(
            fields=config.fields, epoch_ns=epoch, seq=seq, redactor=self.redactor
        )
        self.rates = Rates()
        self.limits = limits(config.procfs)
        self.allocations = Allocations(probes, config.procfs, off=self._no_allocations(config))
        self.lookers = Lookers(config.procfs)
        self.adoption = Adoption(probes, self.lookers, self._tell_adopted, self._spread_news)
        self.processes = ProcessTable(self._ask, self.allocations.verdict, self.encoder.forget)
        self.reports = Reports(self)
        self.metrics = Metrics(self)
        self._epoch_us = epoch // 1000
        self.front = Fronting(
            self._settings,
            {**self.reports.answers(), "metrics": lambda _: self.metrics.answer()},
            front_identity(config),
            config.log.dir,
        )
        self.forward = Forward(config.journal, Journald())
        self.steps = StepWatch()
        self._anchor = Anchor(wall_offset())
        self.encoder.follow(self._anchor)
        self.keeper = LogKeeper(log, self.accounts.not_logged)
        redone = seq if kernel.state else None
        self.lives = Lives(config.log, log.group, self.processes.uid_of, redone)
        self.rounds = Rounds(self)
        self._taken = -1
        self.moved = 0.0
        """When there was a record last, on the monotonic clock."""
        for name, book in kernel.state.books.items() if kernel.state else ():
            getattr(self.accounts, name).update(book)
        self._commit()

    def _no_allocations(self, config: Config) -> str:
        """Return the word for why no allocations are counted, where they are not."""
        if self.limits:
            return "refused"
        wanted = config.stats.allocations and {"ALLOC_SUM", "FREE_SUM"} & {*config.events}
        return "" if wanted else "off"

    def _take_up(self, state: State | None) -> int:
        """Go on where another daemon ended; returns the number of the next line.

        What that one had not finished is done again. Numbers begin anew with the host, and a file
        with them: none has lines of two boots.
        """
        if state is not None:
            gone = self.log.cut(state.end)
            if gone:
                _log.info("%d bytes of the log's end are written again", gone)
        self.log.recover()
        seq = state.seq if state else next_seq(self.log)
        if seq == 1 and "seq" in self.log.last_line():
            self.log.rotate()
        return seq

    def _commit(self) -> None:
        """Make what was done a fact, for whoever comes after an abrupt end."""
        ring, books = self.probes.ring, {name: getattr(self.accounts, name) for name in BOOKS}
        self.kernel.journal.note(State(ring.consumed[0], self.encoder.seq, self.log.end, books))
        ring.commit()

    # ---- the way of the records ----------------------------------------------------------------

    def drain(self) -> bool:
        """Move one batch from the ring to log and clients; says whether there was any record."""
        ring = self.probes.ring
        if not ring.used:
            return False
        self.follow_clock()
        self.encoder.begin()
        moved = self.encoder.drain(ring, self.processes)
        self.accounts.not_logged.update(self.encoder.take_failed())
        self.moved = time.monotonic()
        self._deliver()
        self._spread_news()
        return moved

    async def drain_forever(self) -> None:
        """Drain whenever the kernel side says that there is something, until cancelled."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        fd = self.probes.ring.fd
        while True:
            loop.add_reader(fd, ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_reader(fd)
            ready.clear()
            while self.drain():
                await asyncio.sleep(0 if self.probes.ring.used > _BUSY else _REST)

    def tell(self, name: str, values: dict[str, Any]) -> None:
        """Send an event that the daemon itself makes, where it is wanted."""
        if not self.config.mask >> NUMBER[name] & 1:
            return
        self.follow_clock()
        self.accounts.made[name] += 1
        self.encoder.begin()
        self.encoder.tell(name, time.monotonic_ns(), values)
        self._deliver()

    def _deliver(self) -> None:
        """Write the batch to the log, and hand it to the clients."""
        if len(self.encoder) == 0:
            self._commit()
            return
        before = self.log.end
        self.accounts.count(self.encoder.by_event(), logged=self.keeper.write(self.encoder.data))
        self._commit()
        self.lives.take(self.encoder)
        self.rates.count(self.encoder.by_process())
        self.front.publish(self.encoder, before, self.log.end)
        self.forward.take(self.encoder)

    def _settings(self) -> FrontSettings:
        """Return what the front goes by."""
        config, socket_ = self.config, self.config.socket
        return FrontSettings(
            client_buffer=socket_.client_buffer,
            client_timeout=socket_.client_timeout,
            max_clients=socket_.max_clients,
            group=socket_.group,
            groups=(group_id(socket_.group), group_id(socket_.payload_group)),
            configured=config.mask,
            numbered=config.fields == "full",
            epoch_us=self._epoch_us,
            version=__version__,
            boot_id=self.boot_id,
        )

    def follow_clock(self) -> None:
        """Render moments by the wall clock as it goes now, and tell where it was stepped."""
        offset = wall_offset()
        stepped = self.steps.stepped()
        if stepped or abs(offset - self._anchor.offset_ns) > _DRIFT_NS:
            self._anchor = Anchor(offset)
            self.encoder.follow(self._anchor)
        if stepped:
            _log.warning(
                "the wall clock was stepped: it is %.6f s from the monotonic",
                offset / 1e9,
                extra=about(MessageId.CLOCK_STEP, offset=round(offset / 1e9, 6)),
            )
            self.tell("CLOCK", {"offset": round(offset / 1e9, 6)})

    def is_stuck(self) -> bool:
        """Whether something waits in the ring, and nothing was taken since the last call."""
        before, self._taken = self._taken, self.probes.ring.consumed[0]
        return before == self._taken and self.probes.ring.used > 0

    # ---- start, stop, status -------------------------------------------------------------------

    async def begin(self) -> None:
        """Put the settings in force, tell START, and begin to adopt what already runs."""
        self.tell(
            "START",
            {
                "message": "Dynamic QEMU-user monitor started",
                "version": __version__,
                "boot_id": self.boot_id,
                "host": socket.gethostname(),
                "kernel": platform.release(),
                "schema": SCHEMA_VERSION,
            }
            | ({"resumed": True} if self.kernel.state else {}),
        )
        self.rounds.begin()
        self._put_in_force()
        self.probes.next_interval()
        for limit in self.limits:
            _log.warning("%s", limit)
        self._adopt_all(resumed=self.kernel.state is not None)
        ring, deadline = self.probes.ring, time.monotonic() + _ADOPTING
        while not self.adoption.is_done and 2 * ring.used < ring.size:
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(_REST)

    def _put_in_force(self) -> None:
        """Tell the kernel side what is wanted."""
        config = self.config
        self.probes.configure(
            Settings(
                mask=config.mask,
                capture=config.capture.bytes,
                budget=config.stats.budget,
                prefixes=tuple(map(os.fsencode, config.match.prefixes)),
                excludes=tuple(map(os.fsencode, config.match.exclude)),
                limits={NUMBER[name]: rate for name, rate in config.limits},
            )
        )

    def _adopt_all(self, *, resumed: bool = False) -> None:
        """Begin to adopt what already runs."""
        if not self.limits:
            self.adoption.begin(self.config.match, self.processes, resumed=resumed)

    def _ask(self, pid: int, uid: int | None, answer: Answer) -> None:
        """Look for a process that no record told of."""
        if self.limits:
            answer(None)
        else:
            self.adoption.ask(pid, uid, answer)

    def apply(self, config: Config) -> list[str]:
        """Go by another configuration; returns the keys that only a restart can change.

        What is watched already stays watched; processes that match only now are adopted. Raises
        ConfigError, and then nothing has changed.
        """
        config, later = hold(config, self.config)
        if config.socket.group != self.config.socket.group:
            self.admit(config.socket.group)
        self.config = config
        self.front.configure()
        self.redactor = Redactor(config.redact)
        self.encoder.masking.configure(self.redactor)
        self.log.configure(config.log)
        self.lives.configure(config.log)
        self.forward.configure(config.journal)
        self.allocations.off = self._no_allocations(config)
        self._put_in_force()
        self._adopt_all()
        return later

    def _spread_news(self) -> None:
        news = self.processes.take_news()
        self.allocations.follow(news)
        self.rates.forget(news.ended)

    def _tell_adopted(self, process: Process, rings: tuple[int, ...]) -> None:
        """Tell a process that already ran, and what it has that cannot be seen."""
        self.tell("TRACK_ADOPT", adoption(process, self.encoder.masking.argv(process)))
        for fd in rings:
            self.tell("IO_URING", {"pid": process.pid, "fd": fd})

    def end(self) -> None:
        """Watch nothing more, move what still waits, and tell END with the totals."""
        self.adoption.end()
        self.kernel.detach()
        ring, deadline = self.probes.ring, time.monotonic() + _UNFINISHED
        last = ring.consumed[0] + ring.used
        # what comes after that is of no event: processes' lives, for a table that nobody needs now
        while ring.consumed[0] < last or self._is_owed():
            if not self.drain() and time.monotonic() > deadline:
                break
        self.rounds.finish()
        totals = self.reports.totals()
        self.tell("END", {"message": "Dynamic QEMU-user monitor stopped", "totals": totals})

    def _is_owed(self) -> bool:
        """Whether a program of the kernel side has counted what it is about to send.

        Recent kernels let a task be preempted between its arrival at a tracepoint and the program.
        """
        counters = self.probes.counters()
        rows = self.accounts.totals(counters).values()
        return any(row["seen"] > sum(row.values()) - row["seen"] for row in rows)

    def close(self) -> None:
        """Give back what is the daemon's own."""
        self.forward.close()
        self.steps.close()
        self.front.share.close()
