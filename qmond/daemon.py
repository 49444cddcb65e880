"""The daemon: puts the parts together, moves the records through them, and stops in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import signal
import socket
import time
from pathlib import Path
from typing import Any, Final

import sdnotify

from qmond import __version__
from qmond.accounting import Accounts
from qmond.adoption import adopt, look_up
from qmond.allocations import Allocations
from qmond.bpf.header import OTHERS
from qmond.bpf.load import Sizes
from qmond.bpf.probes import Probes, Settings, Statistic
from qmond.cgroups import CgroupPaths
from qmond.config import Config
from qmond.encode import Anchor, Encoder, Line, adoption
from qmond.errors import LogError, QmondError
from qmond.eventlog import EventLog
from qmond.events import NUMBER, SCHEMA_VERSION
from qmond.processes import ProcessTable
from qmond.server import Hub, Lock

__all__ = ["Daemon", "run"]

_log = logging.getLogger(__name__)

_BATCH: Final = 2048
"""Records that are handled before other work gets its turn."""
_REST: Final = 0.005
"""Seconds between two drains, so that batches grow under load."""
_SETTLE: Final = 0.02
"""Seconds until programs of the kernel side that run at this moment are surely done."""
_STEP_NS: Final = 1_000_000
"""The wall clock has been stepped where it is off by more than this."""


class Daemon:
    """A running daemon; it is made when everything is open, and attached."""

    def __init__(self, config: Config, probes: Probes, log: EventLog) -> None:
        self.config = config
        self.probes = probes
        self.log = log
        self.boot_id = _boot_id()
        self.started = time.monotonic()
        self.accounts = Accounts()
        epoch = time.monotonic_ns() if config.timestamps == "relative" else 0
        self.encoder = Encoder(fields=config.fields, epoch_ns=epoch)
        self.processes = ProcessTable(look_up(config.procfs), CgroupPaths())
        self.allocations = Allocations(
            probes.descriptors["program:on_allocation"],
            config.procfs,
            enabled=config.stats.allocations
            and not {"ALLOC_SUM", "FREE_SUM"}.isdisjoint(config.events),
        )
        self.hub = Hub(
            boot_id=self.boot_id,
            configured=config.mask,
            limits=config.socket,
            status=self.status,
            dropped=self._dropped,
        )
        self.seq = _next_seq(log)
        self._anchor = Anchor(_clock_offset())
        self._log_failed = False
        self._lost_since = 0

    # ---- the way of the records ----------------------------------------------------------------

    def drain(self) -> bool:
        """Move one batch from the ring to log and clients; says whether there was any record."""
        records = self.probes.ring.drain(_BATCH)
        if records:
            self._follow_clock()
            lines = self.encoder.encode(records, self.processes, self.seq, self._anchor)
            self._deliver(lines)
            self.allocations.follow(self.processes)
        return bool(records)

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
                await asyncio.sleep(0 if self.probes.ring.used else _REST)

    def tell(self, name: str, values: dict[str, Any]) -> None:
        """Send an event that the daemon itself makes, where it is wanted."""
        if not self.config.mask >> NUMBER[name] & 1:
            return
        self._follow_clock()
        line = self.encoder.compose(name, time.monotonic_ns(), values, self.seq, self._anchor)
        pid = values.get("pid", -1)
        self.accounts.made[name] += 1
        self._deliver([(line, NUMBER[name], pid, pid)])

    def _deliver(self, lines: list[Line]) -> None:
        """Write lines to the log, and hand them to the clients; what the log misses is counted."""
        if not lines:
            return
        self.seq += len(lines)
        try:
            self.log.write(b"".join([line for line, _, _, _ in lines]))
        except LogError as error:
            if not self._log_failed:
                _log.error("the log cannot be written, events are lost: %s", error)
            self._log_failed = True
        else:
            if self._log_failed:
                _log.warning("the log is written again: %s", self.log.path)
            self._log_failed = False
        self.accounts.count(lines, logged=not self._log_failed)
        self.hub.broadcast(lines)

    def _dropped(self, count: int) -> bytes:
        return self.encoder.compose(
            "DROPPED", time.monotonic_ns(), {"count": count}, self.seq, self._anchor
        )

    def _follow_clock(self) -> None:
        offset = _clock_offset()
        if abs(offset - self._anchor.offset_ns) > _STEP_NS:
            self._anchor = Anchor(offset)

    # ---- what comes round --------------------------------------------------------------------

    async def tick_forever(self) -> None:
        """Tell the statistics at each interval's end, until cancelled."""
        while True:
            await asyncio.sleep(self.config.stats.interval)
            ended = self.probes.next_interval()
            await asyncio.sleep(_SETTLE)
            self.tell_statistics(ended)

    def tell_statistics(self, generation: int) -> None:
        """Tell the figures of an interval that has ended; nothing of what is 0."""
        found = self.probes.collect(generation)
        total = sum(found.values(), Statistic())
        for name, key in (("FREE_SUM", "frees"), ("MMAP_SUM", "mmaps"), ("ALLOC_SUM", "allocs")):
            if not (count := getattr(total, key)):
                continue
            meta: dict[str, Any] = {"count": count}
            if name == "MMAP_SUM":
                meta["max_pages"] = total.max_pages
            if self.config.fields == "full":
                meta["by_pid"] = {
                    "others" if pid == OTHERS else str(pid): getattr(row, key)
                    for pid, row in found.items()
                    if getattr(row, key)
                }
            self.tell(name, {"meta": meta})

    async def report_losses_forever(self) -> None:
        """Tell what was lost, at most once a second, until cancelled."""
        while True:
            await asyncio.sleep(1)
            self.tell_losses()

    def tell_losses(self) -> None:
        """Tell what was lost since the last time."""
        now = time.monotonic_ns()
        lost = self.accounts.newly_lost(self.probes.counters())
        if "ring" in lost and not self.probes.ring.used:
            self.processes.keep_only(self.probes.tracked())
        for stage, by_event in lost.items():
            count = sum(by_event.values())
            since = self.encoder.moment(self._lost_since)
            _log.warning("%d events lost at the %s: %s", count, stage, by_event)
            self.tell(
                "LOST", {"stage": stage, "count": count, "by_event": by_event, "since": since}
            )
        self._lost_since = now

    # ---- start, stop, status -------------------------------------------------------------------

    def begin(self) -> None:
        """Put the settings in force, tell START, and adopt what already runs."""
        match = self.config.match
        self.tell(
            "START",
            {
                "message": "Dynamic QEMU-user monitor started",
                "version": __version__,
                "boot_id": self.boot_id,
                "host": socket.gethostname(),
                "kernel": platform.release(),
                "schema": SCHEMA_VERSION,
            },
        )
        self._lost_since = time.monotonic_ns()
        self.probes.configure(
            Settings(
                mask=self.config.mask,
                capture=self.config.capture.bytes,
                prefixes=tuple(map(os.fsencode, match.prefixes)),
                excludes=tuple(map(os.fsencode, match.exclude)),
            )
        )
        self.probes.next_interval()
        for process in adopt(self.probes, match, self.config.procfs):
            self.processes.adopt(process)
            self.tell("TRACK_ADOPT", adoption(process))
        self.allocations.follow(self.processes)

    def end(self) -> None:
        """Watch nothing more, move what still waits, and tell END with the totals."""
        self.probes.detach()
        time.sleep(_SETTLE)
        while self.drain():
            pass
        self.tell_statistics(self.probes.next_interval())
        self.tell_losses()
        totals = self.totals()
        self.tell("END", {"message": "Dynamic QEMU-user monitor stopped", "totals": totals})

    def totals(self) -> dict[str, dict[str, int]]:
        """Return by event what was seen, written, lost and suppressed."""
        return self.accounts.totals(self.probes.counters())

    def status(self) -> dict[str, Any]:
        """Return the answer to `status`."""
        return {
            "version": __version__,
            "uptime": round(time.monotonic() - self.started, 3),
            "boot_id": self.boot_id,
            "probes": self.probes.attached,
            "ring": {"size": self.probes.ring.size, "used": self.probes.ring.used},
            "tracked": len(self.processes),
            "clients": [client.describe() for client in self.hub.clients],
            "log": {
                "path": str(self.log.path),
                "bytes": self.log.bytes,
                "rotated": self.log.rotated,
                "failing": self._log_failed,
            },
            "counters": self.totals(),
        }


async def run(config: Config) -> None:
    """Run the daemon until SIGTERM or SIGINT. Raises QmondError."""
    notifier = sdnotify.SystemdNotifier()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
            stack.callback(loop.remove_signal_handler, number)
        path = config.socket.path
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            stack.callback(Lock(path.with_name(path.name + ".lock")).close)
        except OSError as error:
            raise QmondError(f"{error.filename or path}: {error.strerror}") from error
        log = EventLog(
            config.log.dir, rotate_size=config.log.rotate.size, keep_files=config.log.keep.files
        )
        stack.callback(log.close)
        probes = await asyncio.to_thread(Probes.load, Sizes(ring=config.ring.size))
        stack.callback(probes.close)
        daemon = Daemon(config, probes, log)
        stack.push_async_callback(daemon.allocations.close)
        await daemon.hub.listen(path)
        stack.push_async_callback(daemon.hub.close)
        daemon.begin()
        stack.callback(daemon.end)
        async with asyncio.TaskGroup() as tasks:
            work = [
                tasks.create_task(daemon.drain_forever()),
                tasks.create_task(daemon.tick_forever()),
                tasks.create_task(daemon.report_losses_forever()),
                tasks.create_task(daemon.allocations.work_forever()),
            ]
            _log.info("ready: socket %s, log %s", path, log.path)
            notifier.notify("READY=1")
            await stop.wait()
            notifier.notify("STOPPING=1")
            for task in work:
                task.cancel()
    _log.info("stopped")


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _clock_offset() -> int:
    return time.time_ns() - time.monotonic_ns()


def _next_seq(log: EventLog) -> int:
    """Return the number after the log's last line, where that was written since the host booted."""
    last = log.last_line() or {}
    seq, moment = last.get("seq"), last.get("time")
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    boot = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(booted))
    return seq + 1 if isinstance(seq, int) and isinstance(moment, str) and moment >= boot else 1
