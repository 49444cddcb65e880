"""One run of the daemon: start in order, serve until told to stop, stop in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal

import sdnotify

from qmond import __version__
from qmond.access import group_id
from qmond.bpf.load import Options
from qmond.config import Config
from qmond.daemon import Daemon
from qmond.errors import QmondError
from qmond.eventlog import EventLog
from qmond.messages import MessageId, about
from qmond.metrics import Metrics
from qmond.scrape import Exporter
from qmond.server import Lock
from qmond.startup import have_precedence, obtain

__all__ = ["run"]

_log = logging.getLogger(__name__)


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
        group = group_id(config.socket.group)
        log = EventLog(config.log, group)
        stack.callback(log.close)
        kernel = await asyncio.to_thread(obtain, Options(ring=config.ring.size))
        stack.callback(kernel.close)
        daemon = Daemon(config, kernel, log)
        stack.callback(daemon.close)
        stack.push_async_callback(daemon.allocations.close)
        await daemon.hub.listen(path)
        stack.push_async_callback(daemon.hub.close)
        daemon.begin()
        stack.callback(daemon.end)
        have_precedence()
        loop.add_signal_handler(signal.SIGUSR1, daemon.reopen_log)
        stack.callback(loop.remove_signal_handler, signal.SIGUSR1)
        loop.add_reader(daemon.steps.fd, daemon.follow_clock)
        stack.callback(loop.remove_reader, daemon.steps.fd)
        metrics = Metrics(daemon)
        exporter = Exporter(config.metrics, metrics.text, metrics.file, group)
        async with asyncio.TaskGroup() as tasks:
            work = [
                tasks.create_task(daemon.drain_forever()),
                tasks.create_task(daemon.tick_forever()),
                tasks.create_task(daemon.keep_house_forever()),
                tasks.create_task(exporter.serve_forever()),
                tasks.create_task(exporter.write_forever()),
            ]
            _log.info(
                "ready: socket %s, log %s",
                path,
                log.path,
                extra=about(MessageId.START, version=__version__),
            )
            notifier.notify("READY=1")
            await stop.wait()
            notifier.notify("STOPPING=1")
            for task in work:
                task.cancel()
    _log.info("stopped", extra=about(MessageId.STOP))
