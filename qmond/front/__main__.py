"""The front: the process that talks to strangers. It serves the socket's clients, and the metrics.

The core starts it, with descriptors and nothing else: `python -m qmond.front CONTROL HANDOVER WAKE
LINES LOG`. It has no privilege, and no say over the core's time: lines come through memory that it
can only read, what it asks is answered when the core has the time, and when it fails there is
another.
"""

from __future__ import annotations

import sys

# asyncio would bring TLS with it, and hashlib OpenSSL: 5 MB of memory that nothing here uses
for name in ("ssl", "_hashlib"):
    sys.modules.setdefault(name, None)  # type: ignore[arg-type]

import asyncio  # noqa: E402
import contextlib  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, Final  # noqa: E402

import orjson  # noqa: E402

from qmond.clock import Anchor, wall_offset  # noqa: E402
from qmond.errors import ProtocolError  # noqa: E402
from qmond.front.answers import operations  # noqa: E402
from qmond.front.core import Core  # noqa: E402
from qmond.log.files import Position  # noqa: E402
from qmond.log.history import History  # noqa: E402
from qmond.outputs.exporter import Exporter  # noqa: E402
from qmond.privileges import die_with_parent, drop_all  # noqa: E402
from qmond.server.broadcast import Frames  # noqa: E402
from qmond.server.control import Beat, beat  # noqa: E402
from qmond.server.feed import Joint  # noqa: E402
from qmond.server.hub import Hub  # noqa: E402
from qmond.server.settings import FrontSettings  # noqa: E402
from qmond.server.source import Log, Source  # noqa: E402
from qmond.systemd.messages import flush, set_up  # noqa: E402

__all__ = ["Front", "main"]

_log = logging.getLogger(__name__)

_BEAT: Final = 3
"""Seconds until the core is told again what has not changed."""
_EXPENDABLE: Final = "250"
"""Where memory is short, it goes before the core, and after its readers: oom_score_adj, proc(5)."""
_DESCRIPTORS: Final = 5
_PROCESSES: Final = 128
"""Processes and threads of its user: the core needs some of the service's tasks, too."""
_MEMORY: Final = 2 << 30
"""Bytes of address space."""


class Front:
    """The parts of one front; the core's `settings` come before anything else."""

    def __init__(self, core: Core, frames: Frames, settings: FrontSettings, log: int) -> None:
        self._core = core
        self._frames = frames
        self._log = log
        self._seq, self._end = 0, Position(0, 0, 0)
        self._follows = False
        self._following = asyncio.Lock()
        self._wanted = 0  # by those who wait for it
        self._oldest: int | None = None
        self._oldest_in = Position(0, 0, 0)
        self._operations = operations(core, self._connected)
        source = Source(
            operations=self._operations,
            about=self._about,
            dropped=self._dropped,
            log=Log(f"/proc/self/fd/{log}", log),
            follow=self._follow,
            tree=self._tree,
        )
        self.hub = Hub(settings, source)

    # ---- lines ---------------------------------------------------------------------------------

    def pump(self) -> bool:
        """Give the clients what came together; says whether there was anything."""
        if not self._follows:
            return False
        try:
            frame = self._frames.take()
        except OverflowError:
            self._go_on(*self._frames.skip()[1:])
            return True
        if frame is None:
            return False
        self._go_on(frame.first, frame.before)
        self.hub.broadcast(frame)
        self._seq, self._end = frame.seq, frame.end
        return True

    def _go_on(self, seq: int, end: Position) -> None:
        """Tell of the lines before a number that did not come."""
        if seq > self._seq:
            self.hub.miss(self._seq, seq - 1)
        self._seq, self._end = seq, end

    async def _follow(self) -> Joint:
        """Have lines come, and all that already has come behind us; returns where that is."""
        self._wanted += 1
        try:
            async with self._following:
                if not self._follows:
                    await self._core.ask("follow")
                    _, self._seq, self._end = self._frames.skip()
                    self._follows = True
        finally:
            self._wanted -= 1
        while self.pump():
            pass
        return Joint(self._seq, self._end)

    async def _tree(self, pid: int) -> Joint:
        told = orjson.loads((await self._core.ask("tree", {"pid": pid})).text)
        while self.pump():  # what came before the answer is of the past, which the log has
            pass
        return Joint(told["seq"], Position(*told["end"]), tuple(told["members"]))

    def _dropped(self, count: int) -> bytes:
        """Return the line that tells of lines that a client did not get."""
        settings, now = self.hub.settings, time.monotonic_ns()
        moment = divmod(max(0, now // 1000 - settings.epoch_us), 1_000_000)
        more = b""
        if settings.numbered:
            more = b',"time":"%b","seq":%d' % (Anchor(wall_offset()).utc(now), self._seq)
        return b'{"ts":%d.%06d,"event":"DROPPED","count":%d%b}\n' % (*moment, count, more)

    # ---- what it says of itself ----------------------------------------------------------------

    def _about(self) -> dict[str, Any]:
        """Return what a greeting says: who this is, what it can do, which lines there are."""
        settings = self.hub.settings
        return {
            "version": settings.version,
            "boot_id": settings.boot_id,
            "capabilities": ["tail", "stop", *self._operations],
            "oldest": self._oldest,
            "newest": self._frames.state().seq - 1,
        }

    def _connected(self) -> list[dict[str, Any]]:
        return [connection.describe() for connection in self.hub.audience]

    async def look_at_log(self) -> None:
        """See which line of this boot is the oldest in the log: files go as others come."""
        end = self._frames.state().end
        if self._oldest is None or end.inode != self._oldest_in.inode:
            try:
                found = await asyncio.to_thread(_oldest, Path(f"/proc/self/fd/{self._log}"))
            except OSError as error:
                _log.debug("the log cannot be read: %s", error.strerror)
            else:
                self._oldest, self._oldest_in = found, end

    async def keep_house_forever(self) -> None:
        """Look after the clients once a second, and tell the core how many there are."""
        audience, sent, sent_at = self.hub.audience, None, 0.0
        while True:
            wanted = self.hub.follows or self._wanted > 0
            self._follows = self._follows and wanted
            now, news = time.monotonic(), Beat(len(audience), audience.dropped, wanted)
            if news != sent or now - sent_at > _BEAT:
                self._core.send(beat(news))
                sent, sent_at = news, now
            self.hub.check()
            flush()
            await self.look_at_log()
            await asyncio.sleep(1 - time.monotonic() % 1)  # as the core does: both wake at once

    async def pump_forever(self, wake: int) -> None:
        """Pump whenever the core says that there is something; others have their turns between."""
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(wake, ready.set)
        while True:
            await ready.wait()
            ready.clear()
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 1 << 16)
            while self.pump():
                await asyncio.sleep(0)


def _oldest(directory: Path) -> int | None:
    with History(directory) as history:
        return history.oldest()


class Handed:
    """The sockets to serve on, as the core hands them over."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._channel.setblocking(False)  # noqa: FBT003 - its own signature
        self._known: dict[str, asyncio.Future[socket.socket]] = {}
        asyncio.get_running_loop().add_reader(channel, self._take)

    def __getitem__(self, name: str) -> asyncio.Future[socket.socket]:
        return self._known.setdefault(name, asyncio.get_running_loop().create_future())

    def _take(self) -> None:
        with contextlib.suppress(OSError):
            name, descriptors, *_ = socket.recv_fds(self._channel, 64, 1)
            if not name:
                asyncio.get_running_loop().remove_reader(self._channel)
            for fd in descriptors:
                found = socket.socket(fileno=fd)
                waiting = self[name.decode()]
                if waiting.done():
                    found.close()
                else:
                    waiting.set_result(found)


async def _serve(control: int, handover: int, wake: int, lines: int, log: int) -> None:
    """Serve until the core says that it is the end, or has gone."""
    core = Core()
    loop = asyncio.get_running_loop()
    handed = Handed(socket.socket(fileno=handover))
    await loop.create_unix_connection(lambda: core, sock=socket.socket(fileno=control))
    try:
        settings = FrontSettings.of(orjson.loads(await core.first_settings()))
    except ProtocolError:
        return
    front = Front(core, Frames(lines), settings, log)
    core.configure = lambda told: front.hub.configure(FrontSettings.of(orjson.loads(told)))
    await front.look_at_log()

    async def scraped() -> bytes:
        text: str = orjson.loads((await core.ask("metrics")).text)
        return text.encode()

    async def serve_clients() -> None:
        await front.hub.listen(await handed["socket"])

    async def serve_metrics() -> None:
        await Exporter(scraped).serve_forever(await handed["metrics"])

    async with asyncio.TaskGroup() as tasks:
        work = [
            tasks.create_task(front.keep_house_forever()),
            tasks.create_task(front.pump_forever(wake)),
            tasks.create_task(serve_clients()),
            tasks.create_task(serve_metrics()),
        ]
        if await core.ended():
            while front.pump():
                pass
            await front.hub.close()
        for task in work:
            task.cancel()


def main(arguments: list[str]) -> int:
    """Serve with the descriptors that the core gave; returns the exit status."""
    os.setpriority(os.PRIO_PROCESS, 0, max(0, os.getpriority(os.PRIO_PROCESS, 0)))
    Path("/proc/self/oom_score_adj").write_text(_EXPENDABLE, encoding="ascii")
    resource.setrlimit(resource.RLIMIT_NPROC, (_PROCESSES, _PROCESSES))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    drop_all()
    die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):  # the core says when it is the end
        signal.signal(number, signal.SIG_IGN)
    set_up(os.environ.get("QMOND_LOG_LEVEL", "INFO").upper())
    given = [int(word) for word in arguments]
    for fd in given:
        os.set_inheritable(fd, False)  # noqa: FBT003 - its own signature
    asyncio.run(_serve(*given[:_DESCRIPTORS]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
