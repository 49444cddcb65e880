"""The core's side of the front: starts it, feeds it lines, and replaces it.

A front is replaced when it ends, when it is silent for too long, and when it breaks the protocol.
The core never waits for it. The front gets one end of each pair; the core keeps the other end as an
open file of its own, so that no flag that the front sets reaches the core.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from qmond.daemon.channel import Answers, Channel, Reply
from qmond.daemon.identity import Identity
from qmond.log.files import Position
from qmond.server.broadcast import Lines, Share
from qmond.server.control import Beat
from qmond.server.settings import FrontSettings
from qmond.server.shares import Bucket
from qmond.systemd.messages import is_in_journal

__all__ = ["Fronting"]

_log = logging.getLogger(__name__)

_FRONT: Final = (sys.executable, "-P", "-m", "qmond.front")
_SILENT: Final = 15
"""Seconds after which a silent front is replaced."""
_PAUSES: Final = (0.1, 5.0)
"""Seconds until the next one is started: at first, and at most."""
_FAREWELL: Final = 8
"""Seconds that it has to end in order."""
_STDERR_RATE: Final = 4096
"""Bytes a second of its stderr that are passed on, on average."""
_STDERR_PAUSE: Final = 0.05
"""Seconds between two reads of it."""
_PIPE: Final = 65536
"""Bytes that a pipe holds, see pipe(7)."""
_PRIVATE: Final = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID")


class _Ends(NamedTuple):
    """The core's ends of the channels between it and a front."""

    control: socket.socket
    handover: socket.socket
    wake: int
    stderr: int
    """A pipe that the front writes to."""
    ended: int
    """The front's pidfd."""


class Fronting:
    """The front of one daemon, as `identity` (None: as this user); `log` is the log's directory."""

    def __init__(self, identity: Identity | None, log: Path) -> None:
        self.share = Share()
        self.follows = False
        """Whether any client wants lines."""
        self.clients = 0
        self.starts = 0
        self._settings: Callable[[], FrontSettings] = FrontSettings
        self._answers: Answers = {}
        self._identity = identity
        self._log = log
        self._gone_dropped = self._dropped = 0
        self._channel: Channel | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._given: dict[str, socket.socket] = {}
        self._wake = -1
        self._handover: socket.socket | None = None
        self._running: asyncio.Task[None] | None = None
        self._stderr_bucket = Bucket(_STDERR_RATE, 16 * _STDERR_RATE)
        self._stderr_timer: asyncio.TimerHandle | None = None
        self._finishing = False
        self._starter = ThreadPoolExecutor(
            1, "qmond-front"
        )  # lives on: PDEATHSIG follows the thread

    # ---- lines ---------------------------------------------------------------------------------

    def publish(self, lines: Lines, before: Position, after: Position) -> None:
        """Give the front a batch if any client wants lines, and the log's end in any case."""
        if self.follows and len(lines):
            self.share.put(lines, before, after)
        self.share.tell(lines.seq, after)
        if self.follows:
            with contextlib.suppress(OSError):  # full: the front has been woken already
                os.write(self._wake, b".")

    def _follow(self, _args: Mapping[str, Any]) -> Reply:
        self.follows = True
        return b"null", False

    @property
    def dropped(self) -> int:
        """How many lines clients did not get, as reported by all fronts so far."""
        return self._gone_dropped + self._dropped

    def _take_beat(self, beat: Beat) -> None:
        self.clients = beat.clients
        self._dropped = max(self._dropped, beat.dropped)
        self.follows = self.follows and beat.follow

    # ---- its life ------------------------------------------------------------------------------

    def give(self, name: str, listener: socket.socket) -> None:
        """Have this front, and each later one, serve on a socket."""
        if name in self._given and self._channel:
            self._channel.end(f"its socket {name} was shut down")
        self._given[name] = listener
        self._hand_over()

    def configure(self, settings: Callable[[], FrontSettings]) -> None:
        """Have this front, and each later one, go by other settings, made anew for each."""
        self._settings = settings
        self._send_settings()

    def _send_settings(self) -> None:
        if self._channel:
            self._channel.say("settings", 0, orjson.dumps(self._settings().to_json()))

    def check(self) -> None:
        """Replace a silent front; called about once a second."""
        channel = self._channel
        if channel and time.monotonic() - channel.heard > _SILENT:
            channel.end(f"it said nothing for {_SILENT} s")

    def describe(self) -> dict[str, Any]:
        """Return what `status` says of it."""
        return {"pid": self._process.pid if self._process else None, "starts": self.starts}

    def start(self, answers: Answers) -> None:
        """Run a front from now on, and another one whenever it has ended.

        `answers` are the functions that answer its questions, by name.
        """
        self._answers = {**answers, "follow": self._follow}
        self._running = asyncio.get_running_loop().create_task(self._run_forever())

    async def _run_forever(self) -> None:
        least, most = _PAUSES
        pause = least
        while not self._finishing:
            began = time.monotonic()
            try:
                why = await self._run()
            except Exception as error:  # noqa: BLE001 - whatever failed, clients need a front
                why = f"it could not be started: {error}"
            if self._finishing:
                break
            pause = least if time.monotonic() - began > most else min(most, 2 * pause)
            _log.warning("the front has ended, clients must reconnect: %s", why)
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """End the front, after clients got their lines. Takes a few seconds at most."""
        if self._running is None:
            return
        running, self._running = self._running, None
        self._finishing = True
        if self._channel:
            self._channel.say("finish")
            await asyncio.wait([running], timeout=_FAREWELL)
        if self._channel:
            self._channel.end("it did not come to its end")
            await asyncio.wait([running], timeout=_FAREWELL)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        self._starter.shutdown(wait=False)

    async def _run(self) -> str:
        """Run one front until it ends; returns why it ended."""
        loop = asyncio.get_running_loop()
        channel = Channel(self._answers, self._take_beat)
        with contextlib.ExitStack() as stack:
            ends = await self._open(stack)
            self.starts += 1
            self._wake, self._handover = ends.wake, ends.handover
            loop.add_reader(ends.stderr, self._pass_on_stderr, ends.stderr)
            stack.callback(self._ignore_stderr, ends.stderr)
            await loop.create_unix_connection(lambda: channel, sock=ends.control)
            loop.add_reader(ends.ended, channel.gone.set)  # its children may keep the channel open
            stack.callback(loop.remove_reader, ends.ended)
            self._channel = channel
            self._send_settings()
            self._hand_over()
            answering = asyncio.create_task(channel.answer_forever())
            try:
                await channel.gone.wait()
            finally:
                answering.cancel()
                self._channel = self._handover = None
                channel.end("")
                self.follows = False
                self._wake = -1
                self._gone_dropped, self._dropped, self.clients = self.dropped, 0, 0
            status = await asyncio.to_thread(self._reap, orderly=self._finishing)
        return channel.fault or f"status {status}"

    async def _open(self, stack: contextlib.ExitStack) -> _Ends:
        """Start a front; returns the core's ends, which are closed with the stack."""

        def ours_until_the_end(end: socket.socket) -> socket.socket:
            end.setblocking(False)  # noqa: FBT003 - its own signature
            stack.callback(end.close)
            return end

        with contextlib.ExitStack() as theirs:  # inherited by the front alone
            log = os.open(self._log, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            theirs.callback(os.close, log)
            control, its_control = socket.socketpair()
            theirs.callback(its_control.close)
            ours_until_the_end(control)
            handing, handed = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            theirs.callback(handed.close)
            ours_until_the_end(handing)
            awake, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            theirs.callback(os.close, awake)
            stack.callback(os.close, wake)
            stderr, its_stderr = os.pipe2(os.O_CLOEXEC)
            theirs.callback(os.close, its_stderr)
            stack.callback(os.close, stderr)
            os.set_blocking(stderr, False)
            inherited = [its_control.fileno(), handed.fileno(), awake, self.share.fd, log]
            run = asyncio.get_running_loop().run_in_executor
            self._process = await run(self._starter, self._start, inherited, its_stderr)
            ended = os.pidfd_open(self._process.pid)
            stack.callback(os.close, ended)
        return _Ends(control, handing, wake, stderr, ended)

    def _start(self, inherited: list[int], stderr: int) -> subprocess.Popen[bytes]:
        command = (*_FRONT, *map(str, inherited))
        environment = {name: text for name, text in os.environ.items() if name not in _PRIVATE}
        if is_in_journal():  # so is the front: it has a socket of its own to journald
            found = os.fstat(stderr)
            environment["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino}"
        return subprocess.Popen(  # noqa: S603 - our own program
            self._identity.command(*command) if self._identity else command,
            pass_fds=inherited,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,  # not the core's: whoever has that one can block the core's messages
            cwd="/",
            start_new_session=True,
        )

    def _ignore_stderr(self, stderr: int) -> None:
        if self._stderr_timer:
            self._stderr_timer.cancel()
        asyncio.get_running_loop().remove_reader(stderr)

    def _pass_on_stderr(self, stderr: int) -> None:
        """Pass on what the front or one of its readers wrote to stderr, within a rate."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(stderr)
        try:
            data = os.read(stderr, _PIPE)
        except BlockingIOError:
            data = b""
        if data:  # an endless writer costs at most so many turns of the loop
            self._stderr_timer = loop.call_later(
                _STDERR_PAUSE, loop.add_reader, stderr, self._pass_on_stderr, stderr
            )
        self._stderr_bucket.spend(len(data))
        if self._stderr_bucket.room >= 0:
            text = data.decode(errors="replace")
            sys.stderr.write("".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text))
            sys.stderr.flush()

    def _reap(self, *, orderly: bool) -> int | None:
        """Kill the process unless it has ended, with its children; returns its exit status."""
        process, self._process = self._process, None
        if process is None:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = process.wait(1)
            if orderly and status == 0:
                return status
        self._kill_all(process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(5)
        return None

    def _kill_all(self, process: subprocess.Popen[bytes]) -> None:
        """Send SIGKILL to a front and to all processes of its user: it may have left children.

        A process of the front's user sends the signal. It is waited for with a time-out, since the
        front could stop it.
        """
        if self._identity is None or os.geteuid() == 0:
            process.kill()
        if self._identity is None:
            return
        try:
            killing = subprocess.Popen(  # noqa: S603 - our own words
                self._identity.command("sh", "-c", "kill -KILL -1"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            killing.wait(5)
        except (OSError, subprocess.TimeoutExpired) as error:
            _log.warning("processes that a front left behind could not be killed: %s", error)

    def _hand_over(self) -> None:
        """Send the front the sockets that it serves on."""
        for name, listener in self._given.items():
            if self._handover:
                with contextlib.suppress(OSError):
                    socket.send_fds(self._handover, [name.encode()], [listener.fileno()])
