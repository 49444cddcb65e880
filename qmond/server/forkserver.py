"""The front's end of the fork server, a process that readers are forked from (reader.py).

It has imported all that a reader needs. So a reader is there within milliseconds, and shares that
memory: CEL alone is 20 MB.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import Final

import orjson

__all__ = ["ForkServer"]

_SERVER: Final = (sys.executable, "-P", "-m", "qmond.server.reader")
_IDLE: Final = 60
"""Seconds without a reader after which it is ended."""
_MESSAGE: Final = 4096
"""Bytes that a message has at most."""

Ended = asyncio.Future[int | None]


class ForkServer:
    """The fork server, which is started when a reader is needed.

    Readers inherit the descriptors that are `inherited`.
    """

    def __init__(self, inherited: Iterable[int] = ()) -> None:
        self._inherited = tuple(inherited)
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._number = 0
        self._running: dict[int, Ended] = {}
        self._last_used = 0.0

    def fork(self, source: int, sink: int, *, needs_cel: bool) -> tuple[int, Ended]:
        """Start a reader with these descriptors for input and output. Raises OSError.

        Returns its number, and a future of its exit status: None where that is not known.
        """
        channel = self._channel or self._start()
        self._number += 1
        self._last_used = time.monotonic()
        message = orjson.dumps({"fork": self._number, "cel": needs_cel})
        socket.send_fds(channel, [message], [source, sink])
        ended: Ended = asyncio.get_running_loop().create_future()
        self._running[self._number] = ended
        return self._number, ended

    def kill(self, number: int) -> None:
        """End a reader, unless it has ended already."""
        if self._channel and number in self._running:
            with contextlib.suppress(OSError):  # the fork server is gone, and so are its readers
                self._channel.send(orjson.dumps({"kill": number}))

    def check(self) -> None:
        """End it where no reader has run for a while."""
        if self._running:
            self._last_used = time.monotonic()
        elif time.monotonic() - self._last_used > _IDLE:
            self.close()

    def close(self) -> None:
        """End it, and so all readers."""
        if self._channel is None or self._process is None:
            return
        asyncio.get_running_loop().remove_reader(self._channel)
        self._channel.close()
        self._channel = None
        self._process.kill()
        self._process.wait()
        running, self._running = self._running, {}
        for ended in running.values():
            if not ended.done():
                ended.set_result(None)

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603 - our own program
                    [*_SERVER, str(theirs.fileno()), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), *self._inherited),
                    start_new_session=True,
                )
        except OSError:
            ours.close()
            raise
        ours.settimeout(0)
        self._channel = ours
        asyncio.get_running_loop().add_reader(ours, self._receive, ours)
        return ours

    def _receive(self, channel: socket.socket) -> None:
        try:
            message = channel.recv(_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            self.close()
            return
        report = orjson.loads(message)
        ended = self._running.pop(report["exited"], None)
        if ended and not ended.done():
            ended.set_result(report["status"])
