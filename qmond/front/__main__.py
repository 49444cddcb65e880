"""The front: the process that talks to strangers. It serves the socket's clients, and the metrics.

The core starts it, with descriptors and nothing else: `python -m qmond.front CONTROL HANDOVER WAKE
LINES LOG`. It has no privilege. It cannot take the core's time: lines come through memory that it
can only read, and the core answers its questions when there is time. When a front fails, the core
starts another.
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
from qmond.server.feed import LiveStart  # noqa: E402
from qmond.server.hub import Hub  # noqa: E402
from qmond.server.settings import FrontSettings  # noqa: E402
from qmond.server.source import Log, Source  # noqa: E402
from qmond.systemd.messages import flush, set_up  # noqa: E402

__all__ = ["Front", "main"]

_log = logging.getLogger(__name__)

_BEAT: Final = 3
"""Seconds until the core is told again what has not changed."""
_EXPENDABLE: Final = "250"
"""Where memory is short, the front is killed before the core, and after its readers: proc(5)."""
_DESCRIPTORS: Final = 5
_PROCESSES: Final = 128
"""Processes and threads of its user: the service's tasks must suffice for the core, too."""
_MEMORY: Final = 2 << 30
"""Bytes of address space."""


class Front:
    """The way of the lines from the core to the hub; `log` is the log's directory.

    It follows the core's lines as long as anybody wants them.
    """

    def __init__(self, core: Core, frames: Frames, settings: FrontSettings, log: int) -> None:
        self._core = core
        self._frames = frames
        self._log = log
        self._seq, self._end = 0, Position(0, 0, 0)  # of the next line, and of the log before it
        self._follows = False
        self._follow_lock = asyncio.Lock()
        self._sent: Beat | None = None
        """The last beat, as far as the core still goes by it."""
        self._waiting = 0  # how many wait for it to follow
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

    def forward_frame(self) -> bool:
        """Hand the next frame to the hub; says whether there was one."""
        if not self._follows:
            return False
        try:
            frame = self._frames.take()
        except OverflowError:
            self._go_on_at(*self._frames.skip()[1:])
            return True
        if frame is None:
            return False
        self._go_on_at(frame.first, frame.before)
        self.hub.broadcast(frame)
        self._seq, self._end = frame.seq, frame.end
        return True

    def _go_on_at(self, seq: int, end: Position) -> None:
        """Go on with the line of a number; the hub is told of those before it that did not come."""
        if seq > self._seq:
            self.hub.miss(self._seq, seq - 1)
        self._seq, self._end = seq, end

    async def _follow(self) -> LiveStart:
        """Begin to follow, and forward all that has come; returns where the next lines begin."""
        self._waiting += 1
        try:
            async with self._follow_lock:
                if not self._follows:
                    await self._core.ask("follow")
                    self._sent = None  # it said something else of that
                    _, self._seq, self._end = self._frames.skip()
                    self._follows = True
        finally:
            self._waiting -= 1
        while self.forward_frame():
            pass
        return LiveStart(self._seq, self._end)

    async def _tree(self, pid: int) -> LiveStart:
        """Return where the next lines begin, and the descendants of a process at that moment."""
        answer = orjson.loads((await self._core.ask("tree", {"pid": pid})).text)
        while self.forward_frame():  # lines from before the answer: a reader has them from the log
            pass
        members = tuple(answer["members"])
        return LiveStart(answer["seq"], Position(*answer["end"]), members)

    def _dropped(self, count: int) -> bytes:
        """Return the DROPPED line of so many lines that a client did not get."""
        settings, now = self.hub.settings, time.monotonic_ns()
        moment = divmod(max(0, now // 1000 - settings.epoch_us), 1_000_000)
        more = b""
        if settings.numbered:
            more = b',"time":"%b","seq":%d' % (Anchor(wall_offset()).utc(now), self._seq)
        return b'{"ts":%d.%06d,"event":"DROPPED","count":%d%b}\n' % (*moment, count, more)

    # ---- what clients are told of it -----------------------------------------------------------

    def _about(self) -> dict[str, Any]:
        """Return the greeting's content: version, operations, and which lines there are."""
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

    async def find_oldest(self) -> None:
        """Find the oldest line of this boot in the log, again whenever a new file was begun."""
        end = self._frames.state().end
        if self._oldest is None or end.inode != self._oldest_in.inode:
            try:
                found = await asyncio.to_thread(_oldest, Path(f"/proc/self/fd/{self._log}"))
            except OSError as error:
                _log.debug("the log cannot be read: %s", error.strerror)
            else:
                self._oldest, self._oldest_in = found, end

    async def check_forever(self) -> None:
        """Look after the clients once a second, and send the core this front's figures."""
        audience, sent_at = self.hub.audience, 0.0
        while True:
            wanted = self.hub.follows or self._waiting > 0
            self._follows = self._follows and wanted
            now, news = time.monotonic(), Beat(len(audience), audience.dropped, wanted)
            if news != self._sent or now - sent_at > _BEAT:
                self._core.send(beat(news))
                self._sent, sent_at = news, now
            self.hub.check()
            flush()
            await self.find_oldest()
            await asyncio.sleep(1 - time.monotonic() % 1)  # as the core does: both wake at once

    async def forward_forever(self, wake: int) -> None:
        """Forward frames whenever the core writes to `wake`; other tasks have turns between."""
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(wake, ready.set)
        while True:
            await ready.wait()
            ready.clear()
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 1 << 16)
            while self.forward_frame():
                await asyncio.sleep(0)


def _oldest(directory: Path) -> int | None:
    with History(directory) as history:
        return history.oldest()


class Listeners:
    """The sockets to serve on, by their names, as the core hands them over."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._channel.setblocking(False)  # noqa: FBT003 - its own signature
        self._named: dict[str, asyncio.Future[socket.socket]] = {}
        asyncio.get_running_loop().add_reader(channel, self._take)

    def __getitem__(self, name: str) -> asyncio.Future[socket.socket]:
        return self._named.setdefault(name, asyncio.get_running_loop().create_future())

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
    """Serve until the core has finished, or has gone."""
    core = Core()
    loop = asyncio.get_running_loop()
    listeners = Listeners(socket.socket(fileno=handover))
    await loop.create_unix_connection(lambda: core, sock=socket.socket(fileno=control))
    try:
        settings = FrontSettings.from_json(orjson.loads(await core.first_settings()))
    except ProtocolError:
        return
    front = Front(core, Frames(lines), settings, log)
    core.configure = lambda text: front.hub.configure(FrontSettings.from_json(orjson.loads(text)))
    await front.find_oldest()

    async def metrics() -> bytes:
        text: str = orjson.loads((await core.ask("metrics")).text)
        return text.encode()

    async def serve_clients() -> None:
        await front.hub.listen(await listeners["socket"])

    async def serve_metrics() -> None:
        await Exporter(metrics).serve_forever(await listeners["metrics"])

    async with asyncio.TaskGroup() as tasks:
        work = [
            tasks.create_task(front.check_forever()),
            tasks.create_task(front.forward_forever(wake)),
            tasks.create_task(serve_clients()),
            tasks.create_task(serve_metrics()),
        ]
        if await core.ended():
            while front.forward_frame():
                pass
            await front.hub.close()
        for task in work:
            task.cancel()


def main(arguments: list[str]) -> int:
    """Serve with the descriptors that the core has given; returns the exit status."""
    os.setpriority(os.PRIO_PROCESS, 0, max(0, os.getpriority(os.PRIO_PROCESS, 0)))
    Path("/proc/self/oom_score_adj").write_text(_EXPENDABLE, encoding="ascii")
    resource.setrlimit(resource.RLIMIT_NPROC, (_PROCESSES, _PROCESSES))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    drop_all()
    die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):  # the core decides when this process ends
        signal.signal(number, signal.SIG_IGN)
    set_up(os.environ.get("QMOND_LOG_LEVEL", "INFO").upper())
    given = [int(word) for word in arguments]
    for fd in given:
        os.set_inheritable(fd, False)  # noqa: FBT003 - its own signature
    asyncio.run(_serve(*given[:_DESCRIPTORS]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
