"""The daemon's end of a client's reader: lines go in as far as there is room, some come out."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

import orjson

__all__ = ["Feed", "Sink"]

_READER: Final = (sys.executable, "-P", "-m", "qmond.reader")


class Sink(Protocol):
    """Who gets what a reader chose."""

    def answered(self, answer: dict[str, Any]) -> None:
        """Take the reader's word on the request: `ok`, or `error` with class and message."""

    def receive(self, lines: bytes) -> bool:
        """Take lines; says whether there is room for more."""

    def ended(self, reason: str) -> None:
        """No more lines come."""


class Feed(asyncio.SubprocessProtocol):
    """One reader; `request` gives what it is asked, at the moment from which on lines are pushed.

    `most` is how many bytes may wait for it.
    """

    def __init__(self, sink: Sink, request: Callable[[], dict[str, Any]], most: int) -> None:
        self._sink = sink
        self._request = request
        self._most = most
        self._held = b""  # of a line that is not whole yet
        self._answered = False
        self._left_out: tuple[int, int] | None = None  # the numbers of lines that had no room
        self._transport: asyncio.SubprocessTransport | None = None
        self._closed = False
        self._exited = asyncio.Event()

    async def run(self) -> None:
        """Run the reader to its end. Raises OSError where it cannot be started."""
        loop = asyncio.get_running_loop()
        await loop.subprocess_exec(lambda: self, *_READER, stderr=None, start_new_session=True)
        await self._exited.wait()

    def process_exited(self) -> None:
        """Have `run` end: asyncio calls this."""
        self._exited.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask: asyncio calls this."""
        self._transport = cast("asyncio.SubprocessTransport", transport)
        if self._closed:
            self._transport.kill()
            return
        self._input.set_write_buffer_limits(high=0)  # tell whenever all is out
        self._input.write(orjson.dumps(self._request()) + b"\n")

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: ARG002 - there is only 1
        """Pass on what the reader chose."""
        if self._closed:
            return
        whole, newline, rest = data.rpartition(b"\n")
        if not newline:
            self._held += data
            return
        lines, self._held = self._held + whole + newline, rest
        if not self._answered:
            self._answered = True
            answer, _, lines = lines.partition(b"\n")
            self._sink.answered(orjson.loads(answer))
        if lines and not self._sink.receive(lines):
            self._output.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the status tells
        """Tell the client that it is over: the reader has ended, and all that it wrote is read."""
        status = self._transport.get_returncode() if self._transport else None
        if not self._closed:
            self._closed = True
            self._sink.ended("complete" if status == 0 else f"the reader failed ({status})")

    def push(self, lines: memoryview, first: int, count: int) -> None:
        """Give the reader lines; `first` is the number of the first of them.

        Where there is no room for them, the reader will look them up in the log.
        """
        if self._transport is None or self._closed or not count:
            return
        waiting = self._input.get_write_buffer_size()
        if waiting + len(lines) > self._most:
            begin = self._left_out[0] if self._left_out else first
            self._left_out = begin, first + count - 1
            if waiting == 0:
                self.resume_writing()
            return
        self.resume_writing()
        self._input.write(lines)

    def resume_writing(self) -> None:
        """Have what was left out looked up, now that there is room: asyncio calls this, too."""
        if self._left_out:
            self._input.write(b"#read %d %d\n" % self._left_out)
            self._left_out = None

    def resume(self) -> None:
        """Go on: there is room for more."""
        if self._transport and not self._closed:
            self._output.resume_reading()

    def finish(self) -> None:
        """Let the reader come to the end of what it was given."""
        if self._transport and not self._closed:
            self.resume_writing()
            self._input.close()

    def close(self) -> None:
        """End the reader."""
        self._closed = True
        if self._transport:
            self._transport.close()  # it kills

    @property
    def _input(self) -> asyncio.WriteTransport:
        assert self._transport is not None  # noqa: S101 - for the type checker
        return cast("asyncio.WriteTransport", self._transport.get_pipe_transport(0))

    @property
    def _output(self) -> asyncio.ReadTransport:
        assert self._transport is not None  # noqa: S101 - for the type checker
        return cast("asyncio.ReadTransport", self._transport.get_pipe_transport(1))
