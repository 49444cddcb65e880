"""The daemon: makes its parts, puts the configuration in force, and ends them in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from qmond import __version__
from qmond.clock import WallClock
from qmond.config.keys import Config, hold
from qmond.daemon.accounts import Accounts, Rates
from qmond.daemon.answers import answers
from qmond.daemon.entrance import Entrance
from qmond.daemon.exporting import listening, write_forever
from qmond.daemon.fronting import Fronting
from qmond.daemon.identity import front_identity
from qmond.daemon.losses import Losses
from qmond.daemon.metrics import Metrics
from qmond.daemon.pipeline import REST, Pipeline
from qmond.daemon.startup import Kernel, boot_id, resume_log
from qmond.daemon.statistics import sums
from qmond.daemon.status import Status
from qmond.daemon.timers import each_interval, each_second
from qmond.daemon.watch import Watch
from qmond.events.table import SCHEMA_VERSION
from qmond.lines.encoder import Encoder, adoption
from qmond.lines.redact import Redactor
from qmond.log.keeper import LogKeeper
from qmond.log.lives import Lives
from qmond.log.writer import EventLog
from qmond.outputs.journal import Forward
from qmond.processes.table import Process
from qmond.server.access import group_id
from qmond.server.settings import FrontSettings
from qmond.systemd.journald import Journald
from qmond.systemd.messages import flush

__all__ = ["Daemon"]

_log = logging.getLogger(__name__)

_UNFINISHED: Final = 0.2
"""Seconds that a program may take that began before its tracepoint was detached."""
_ADOPTING: Final = 1.0
"""Seconds that records wait at the start, so that adopted processes come before them."""
_SOCKET: Final = "socket"
"""What the front calls the socket where clients come in."""


class Daemon:
    """A running daemon: it is made once the kernel side, the log and the socket are open."""

    def __init__(self, config: Config, kernel: Kernel, log: EventLog, entrance: Entrance) -> None:
        self.config = config
        self.kernel = kernel
        self._entrance = entrance
        self._encoder = encoder = Encoder(
            fields=config.fields,
            epoch_ns=(epoch := time.monotonic_ns() if config.timestamps == "relative" else 0),
            seq=(seq := resume_log(log, kernel.state)),
            redactor=Redactor(config.redact),
        )
        self._boot_id = boot = boot_id()
        self._accounts = accounts = Accounts(kernel.probes.counters)
        accounts.resume(kernel.state.books if kernel.state else {})
        self._rates = rates = Rates()
        self.log = LogKeeper(log, accounts.not_logged)
        self.front = Fronting(front_identity(config), config.log.dir)
        self._forward = forward = Forward(config.journal, Journald())
        clock = WallClock()
        self.watch = watch = Watch(  # it starts a thread, so nothing that may fail comes after it
            config,
            kernel.probes,
            adopted=self._tell_adopted,
            forget=encoder.forget,
            ended=rates.forget,
        )
        redone = seq if kernel.state else None
        lives = Lives(config.log, log.group, watch.processes.uid_of, redone)
        self.pipeline = Pipeline(
            ring=kernel.probes.ring,
            encoder=encoder,
            processes=watch.processes,
            accounts=accounts,
            log=self.log,
            checkpoint=kernel.checkpoint,
            clock=clock,
            sinks=(
                lambda batch, *_: lives.take(batch),
                lambda batch, *_: rates.count(batch.by_process()),
                self.front.publish,
                lambda batch, *_: forward.take(batch),
            ),
            drained=watch.spread_news,
        )
        self._losses = Losses(
            accounts=accounts,
            probes=kernel.probes,
            processes=watch.processes,
            log=self.log,
            tell=self.pipeline.tell,
            moment=encoder.moment,
        )
        self.status = Status(
            boot_id=boot,
            probes=kernel.probes,
            encoder=encoder,
            accounts=accounts,
            watch=watch,
            log=self.log,
            front=self.front,
        )
        self._followers: tuple[Callable[[Config], None], ...] = (
            lambda config: encoder.masking.configure(Redactor(config.redact)),
            lambda config: log.configure(config.log),
            lambda config: lives.configure(config.log),
            lambda config: forward.configure(config.journal),
            lambda config: self.front.configure(lambda: _front_settings(config, epoch, boot)),
            watch.configure,
        )
        """Put a configuration in force, each in one part."""
        self.metrics = Metrics(
            config=lambda: self.config,
            ring=kernel.probes.ring,
            accounts=accounts,
            processes=watch.processes,
            log=self.log,
            front=self.front,
        )

    # ---- start, work, stop ---------------------------------------------------------------------

    async def begin(self, reload: Callable[[], list[str]]) -> None:
        """Put the configuration in force, tell START, begin to adopt what already runs, and serve.

        `reload` reads the configuration anew, for clients who ask for that.
        """
        kernel = self.kernel
        self.pipeline.wanted = self.config.mask
        self.pipeline.tell(
            "START",
            {
                "message": "Dynamic QEMU-user monitor started",
                "version": __version__,
                "boot_id": self._boot_id,
                "host": socket.gethostname(),
                "kernel": platform.release(),
                "schema": SCHEMA_VERSION,
            }
            | ({"resumed": True} if kernel.state else {}),
        )
        self._losses.begin()
        self._put_in_force(self.config)
        kernel.probes.next_interval()
        for restriction in self.watch.restrictions:
            _log.warning("%s", restriction)
        await self._adopt_first()
        self.front.give(_SOCKET, self._entrance.listener)
        self.front.start(
            answers(
                config=lambda: self.config,
                reload=reload,
                status=self.status,
                metrics=self.metrics,
                watch=self.watch,
                rates=self._rates,
                encoder=self._encoder,
                log=self.log,
            )
        )

    async def _adopt_first(self) -> None:
        """Begin to adopt what already runs; records wait for that, unless the ring fills up."""
        self.watch.adopt(self.config, resumed=self.kernel.state is not None)
        ring, deadline = self.kernel.probes.ring, time.monotonic() + _ADOPTING
        while self.watch.is_adopting and 2 * ring.used < ring.size:
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(REST)

    def work(self, pulse: Callable[[], None]) -> list[Coroutine[Any, Any, None]]:
        """Return all that goes on until it is cancelled; `pulse` is called once a second."""
        metrics = self.config.metrics
        return [
            self.pipeline.drain_forever(),
            each_interval(
                lambda: self.config.stats.interval,
                is_idle=self.pipeline.is_idle,
                turn=self.kernel.probes.next_interval,
                tell=self._tell_statistics,
            ),
            each_second(
                (
                    pulse,
                    self._renew_entrance,
                    self.front.check,
                    self._forward.tell,
                    flush,
                    self.log.check,
                    self._keep_books,
                )
            ),
            listening(
                metrics.listen,
                lambda: self._entrance.group,
                lambda listener: self.front.give("metrics", listener),
            ),
            write_forever(metrics, self.metrics.file),
        ]

    def apply(self, config: Config) -> list[str]:
        """Go by another configuration; returns the keys that only a restart can change.

        What is watched already stays watched; processes that match only now are adopted. Raises
        ConfigError, and then nothing has changed.
        """
        config, later = hold(config, self.config)
        self._entrance.admit(config.socket)
        if self.config.limits:
            self._losses.tell_suppressed()
        self.config = config
        self._put_in_force(config)
        self.watch.adopt(config)
        return later

    def end(self) -> None:
        """Watch nothing more, move what still waits, and tell END with the totals."""
        self.watch.adopt_no_more()
        self.kernel.detach()
        self.pipeline.finish(self._accounts.are_complete, _UNFINISHED)
        self._tell_statistics(self.kernel.probes.next_interval())
        self._losses.tell_lost(at_last=True)
        self._losses.tell_suppressed()
        self.pipeline.tell(
            "END",
            {
                "message": "Dynamic QEMU-user monitor stopped",
                "totals": self._accounts.totals(),
            },
        )

    async def prepare_handover(self) -> None:
        """End what takes time and does not outlive the daemon, while lines still move on."""
        await self.front.close()
        await self.watch.allocations.close()

    async def close(self) -> None:
        """End every process and thread of the daemon's own, and close what it opened."""
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self.front.share.close)
            stack.callback(self.pipeline.clock.close)
            stack.callback(self._forward.close)
            stack.push_async_callback(self.watch.close)
            stack.push_async_callback(self.front.close)

    # ---- events and periodic work --------------------------------------------------------------

    def _put_in_force(self, config: Config) -> None:
        self.pipeline.wanted = config.mask
        for configure in self._followers:
            configure(config)

    def _tell_adopted(self, process: Process, rings: tuple[int, ...]) -> None:
        """Tell a process that already ran, and what it has that cannot be seen."""
        self.pipeline.tell("TRACK_ADOPT", adoption(process, self._encoder.masking.argv(process)))
        for fd in rings:
            self.pipeline.tell("IO_URING", {"pid": process.pid, "fd": fd})

    def _tell_statistics(self, interval: int) -> None:
        """Tell the figures of an interval that has ended; nothing of what is 0."""
        found = self.kernel.probes.collect(interval)
        partial = self.watch.allocations.take_partial()
        for name, meta in sums(found, partial, full=self.config.fields == "full"):
            self.pipeline.tell(name, {"meta": meta})

    def _renew_entrance(self) -> None:
        if listener := self._entrance.renew():
            self.front.give(_SOCKET, listener)

    def _keep_books(self) -> None:
        """Tell what was lost or held back; an idle host is left alone."""
        if self.pipeline.is_idle(2) and not self._accounts.owes_log():
            return
        self._losses.tell_lost()
        if self.config.limits:
            self._losses.tell_suppressed()
        self.watch.processes.confirm()
        self._rates.tick()


def _front_settings(config: Config, epoch_ns: int, boot: str) -> FrontSettings:
    """Return the settings of the front; relative times count from `epoch_ns`, `boot` is its ID."""
    socket_ = config.socket
    return FrontSettings(
        client_buffer=socket_.client_buffer,
        client_timeout=socket_.client_timeout,
        max_clients=socket_.max_clients,
        group=socket_.group,
        groups=(group_id(socket_.group), group_id(socket_.payload_group)),
        configured=config.mask,
        numbered=config.fields == "full",
        epoch_us=epoch_ns // 1000,
        version=__version__,
        boot_id=boot,
    )
