"""One run of the daemon, under systemd or by hand: start, serve, reload, hand over or stop.

It opens the kernel side, the log and the socket, and gives them to `Daemon` (daemon.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import sdnotify

from qmond import __version__
from qmond.bpf.load import Options
from qmond.config.keys import Config
from qmond.daemon.daemon import Daemon
from qmond.daemon.entrance import Entrance
from qmond.daemon.identity import log_group
from qmond.daemon.startup import Kernel, have_precedence, obtain
from qmond.errors import ConfigError, QmondError
from qmond.log.writer import EventLog
from qmond.privileges import lower
from qmond.server.access import Lock
from qmond.systemd import fdstore as store
from qmond.systemd.messages import MessageId, about

__all__ = ["Service"]

_log = logging.getLogger(__name__)

_SOCKET: Final = "socket"
"""The name of the listening socket that a socket unit hands over (FileDescriptorName=)."""
_PATIENCE: Final = 30
"""Seconds by which the time to start or stop is extended, as long as there is progress."""
_ASKING: Final = 5
"""Seconds that systemctl and the next version have to answer."""
_SETTLED: Final = 10
"""Seconds after which a failure is none of what the daemon began with."""


class Service:
    """The daemon from its start to its end; `reread` gives the configuration as it is now."""

    def __init__(self, config: Config, reread: Callable[[], Config]) -> None:
        self._config = config
        self._reread = reread
        self._notifier = sdnotify.SystemdNotifier()
        self._stop = asyncio.Event()
        self._lending = False
        """Whether the next daemon goes on with the kernel side."""
        self._status = ""
        """What systemd shows of the service now."""

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises QmondError."""
        async with contextlib.AsyncExitStack() as stack:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
                stack.callback(signal.signal, number, signal.SIG_IGN)  # until the process exits
                stack.callback(loop.remove_signal_handler, number)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._stop.set)
            self._ignore_reloads()  # there is nothing to reload yet
            daemon = await stack.enter_async_context(self._started())
            stack.callback(self._ignore_reloads)
            loop.add_signal_handler(signal.SIGHUP, self._hang_up, daemon)
            loop.add_signal_handler(signal.SIGUSR1, daemon.log.reopen)
            try:
                async with asyncio.TaskGroup() as tasks:
                    work = [
                        tasks.create_task(part) for part in daemon.work(lambda: self._pulse(daemon))
                    ]
                    _log.info(
                        "ready: socket %s, log %s",
                        self._config.socket.path,
                        daemon.log.path,
                        extra=about(MessageId.START, version=__version__),
                    )
                    self._notifier.notify("READY=1")
                    await self._stop.wait()
                    await self._prepare_end(daemon)
                    for task in work:
                        task.cancel()
            except BaseExceptionGroup:
                # as after kill -9; but what failed at once would fail again with the same records
                lasted = daemon.status.uptime > _SETTLED
                self._lending = lasted and bool(daemon.kernel.kept)
                raise
        if self._lending:
            _log.info("handed over", extra=about(MessageId.HANDED_OVER))
        else:
            _log.info("stopped", extra=about(MessageId.STOP))

    @staticmethod
    def _ignore_reloads() -> None:
        """Ignore the signals that reload the configuration and reopen the log."""
        for number in (signal.SIGHUP, signal.SIGUSR1):
            asyncio.get_running_loop().add_signal_handler(number, lambda: None)

    async def _prepare_end(self, daemon: Daemon) -> None:
        """Find out whether another daemon follows, and prepare for it."""
        self._notifier.notify(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={_PATIENCE}000000")
        if not daemon.kernel.kept or not await _is_restart():
            return
        self._lending = await self._fits_next(daemon.kernel.signature)
        if self._lending:
            await daemon.prepare_handover()

    async def _fits_next(self, signature: str) -> bool:
        """Whether the daemon that is installed now can go on where this one ends."""
        try:
            ring = self._reread().ring.size
        except ConfigError as error:
            _log.error("the next daemon will not start: %s", error)
            return False
        said = await _answer(sys.executable, "-P", "-m", "qmond.daemon.startup", str(ring))
        if not said:
            _log.warning("what probes the next version needs is not known; detaching")
        elif said.strip() != signature:
            _log.warning("the next version needs different probes; detaching")
        return said.strip() == signature

    @contextlib.asynccontextmanager
    async def _started(self) -> AsyncIterator[Daemon]:
        """Open and attach everything; give it back in order, or leave it to the next daemon."""
        config, path = self._config, self._config.socket.path
        async with contextlib.AsyncExitStack() as stack:
            handed = store.take()
            given = handed.pop(_SOCKET, None)
            try:
                path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                stack.callback(Lock(path.with_name(path.name + ".lock")).close)
            except OSError as error:
                raise QmondError(f"{error.filename or path}: {error.strerror}") from error
            log = EventLog(config.log, log_group(config))
            stack.callback(lambda: log.close(sync=not self._lending))
            kernel = await self._obtain(Options(ring=config.ring.size), handed)
            stack.callback(lambda: kernel.close(lend=self._lending))
            lower(kernel.probes.counters)  # the lookers have what they need, this process no more
            entrance = Entrance(path, config.socket, given)
            stack.callback(entrance.close)
            daemon = Daemon(config, kernel, log, entrance)
            stack.push_async_callback(daemon.close)
            await daemon.begin(lambda: self._reload(daemon))
            stack.callback(lambda: None if self._lending else daemon.end())
            have_precedence()
            loop = asyncio.get_running_loop()
            loop.add_reader(daemon.pipeline.clock.fd, daemon.pipeline.follow_clock)
            stack.callback(loop.remove_reader, daemon.pipeline.clock.fd)
            yield daemon

    async def _obtain(self, options: Options, handed: dict[str, int]) -> Kernel:
        """Get the kernel side; a slow machine may take its time to compile it."""
        loading = asyncio.create_task(asyncio.to_thread(obtain, options, handed))
        while not loading.done():
            self._notifier.notify(f"EXTEND_TIMEOUT_USEC={_PATIENCE}000000")
            await asyncio.wait([loading], timeout=_PATIENCE / 3)
        return await loading

    # ---- while it runs -------------------------------------------------------------------------

    def _pulse(self, daemon: Daemon) -> None:
        """Tell systemd that the work goes on, and how much there is; called about once a second."""
        if not daemon.pipeline.is_stuck():
            self._notifier.notify("WATCHDOG=1")
        status = daemon.status.summary()
        if status != self._status:
            self._status = status
            self._notifier.notify(f"STATUS={status}")

    def _reload(self, daemon: Daemon) -> list[str]:
        """Read the configuration anew; returns the keys that wait for a restart.

        Raises ConfigError, and then nothing has changed.
        """
        if self._stop.is_set():
            raise ConfigError(["the daemon is stopping"])
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notifier.notify(f"RELOADING=1\nMONOTONIC_USEC={now}")
        try:
            later = daemon.apply(self._reread())
        except ConfigError as error:
            _log.error(
                "not reloaded, the configuration stays as it was: %s",
                error,
                extra=about(MessageId.BAD_CONFIG),
            )
            raise
        finally:
            self._notifier.notify("READY=1")
        if later:
            _log.warning("reloaded; these keys change only with a restart: %s", ", ".join(later))
        else:
            _log.info("reloaded")
        return later

    def _hang_up(self, daemon: Daemon) -> None:
        """Reload, as SIGHUP asks; a wrong configuration has been logged."""
        with contextlib.suppress(ConfigError):
            self._reload(daemon)


async def _is_restart() -> bool:
    """Whether systemd stops this service in order to start it again."""
    unit = Path("/proc/self/cgroup").read_text(encoding="utf-8").strip().rpartition("/")[2]
    if not os.environ.get("NOTIFY_SOCKET") or not unit.endswith(".service"):
        return False
    said = await _answer("systemctl", "list-jobs", "--no-legend", "--plain", unit)
    jobs = [line.split()[1:] for line in said.splitlines()]
    _log.info("systemd's job: %s", " ".join(jobs[0]) if jobs else "none")
    return [unit, "restart"] in [job[:2] for job in jobs]


async def _answer(*command: str) -> str:
    """Return what a command prints; nothing where it has no answer in good time."""
    try:
        async with asyncio.timeout(_ASKING):
            asked = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            said, _ = await asked.communicate()
    except (OSError, TimeoutError) as error:
        _log.warning("%s did not answer: %s", command[0], error or "it took too long")
        return ""
    return said.decode(errors="replace")
