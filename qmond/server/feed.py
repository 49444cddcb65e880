"""The front's end of a client's reader: lines go in as far as there is room, some come out."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from typing import Any, Protocol

import orjson

from qmond.log.files import Position
from qmond.server.forkserver import ForkServer
from qmond.server.reader import CPU_MAX

__all__ = ["Feed", "Joint", "Sink"]


class Joint:
    """Where the past ends and what comes begins: the number of the next line, the log's end.

    `members` are the processes of a tree at that moment.
    """

    __slots__ = ("end", "members", "seq")

    def __init__(self, seq: int, end: Position, members: tuple[int, ...] = ()) -> None:
        self.seq = seq
        self.end = end
        self.members = members


class Sink(Protocol):
    """Who gets what a reader chose."""

    def answered(self, answer: dict[str, Any]) -> None:
        """Take the reader's word on the request: `ok`, or `error` with class and message."""

    def receive(self, lines: bytes) -> bool:
        """Take lines; says whether there is room for more."""

    def lost(self, count: int) -> None:
        """Take note that there was no room for so many lines, and that they are nowhere else."""

    def ended(self, reason: str) -> None:
        """No more lines come."""


class Feed(asyncio.Protocol):
    """One reader. What is pushed from `listen` on waits for it, at most so many bytes.

    Where lines have numbers, the reader looks up in the log what there was no room for. asyncio
    calls `data_received` for what it chose, `resume_writing` when there is room for more.
    """

    def __init__(self, sink: Sink, most: int, server: ForkServer, *, numbered: bool) -> None:
        self._sink = sink
        self._most = most
        self._server = server
        self._numbered = numbered
        self._early: list[tuple[int, int, bytes]] | None = None
        """What came before the reader was there: first number, count, lines."""
        self._waiting = 0
        self._held = b""  # of a line that is not whole yet
        self._answered = False
        self._left_out: tuple[int, int] | None = None  # the numbers of lines that had no room
        self._input: asyncio.WriteTransport | None = None
        self._output: asyncio.ReadTransport | None = None
        self._reader = 0
        self._closed = self._finishing = False
        self._read = asyncio.Event()
        """Set when all that the reader wrote has come."""

    def listen(self) -> None:
        """Take what is pushed from now on."""
        self._early = []

    async def run(self, request: Mapping[str, Any], joint: Joint) -> None:
        """Run the reader to its end; it has what is pushed from a joint on.

        Raises OSError where it cannot be started.
        """
        if self._closed:
            return
        self._early = [row for row in self._early or () if row[0] >= joint.seq]
        if self._left_out:
            first, last = max(self._left_out[0], joint.seq), self._left_out[1]
            self._left_out = (first, last) if first <= last else None
        told = {**request, "end": [*joint.end], "members": [*joint.members]}
        source, given = os.pipe2(os.O_CLOEXEC)
        taken, sink = os.pipe2(os.O_CLOEXEC)
        try:
            needs_cel = bool(request["args"].get("where"))
            self._reader, ended = self._server.fork(source, sink, needs_cel=needs_cel)
        except OSError:
            os.close(given)
            os.close(taken)
            raise
        finally:
            os.close(source)
            os.close(sink)
        loop = asyncio.get_running_loop()
        way_in, _ = await loop.connect_write_pipe(lambda: self, os.fdopen(given, "wb"))
        self._output, _ = await loop.connect_read_pipe(lambda: self, os.fdopen(taken, "rb"))
        self._input = way_in  # from here on it takes what is pushed: the request comes first
        if self._closed:
            self.close()
        else:
            self._begin(orjson.dumps(told) + b"\n")
        try:
            status = await ended
            await self._read.wait()
        finally:
            self._input.close()
            self._output.close()
        self._over(status)

    def _begin(self, request: bytes) -> None:
        """Ask, and let it have what came meanwhile."""
        assert self._input is not None  # noqa: S101 - for the type checker
        self._input.set_write_buffer_limits(high=0)  # tell whenever all is out
        self._input.write(request)
        early, self._early = self._early or [], None
        for _, _, lines in early:
            self._input.write(lines)
        self.resume_writing()
        if self._finishing:
            self._input.close()

    def data_received(self, data: bytes) -> None:
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
        if lines and not self._sink.receive(lines) and self._output:
            self._output.pause_reading()

    def eof_received(self) -> None:
        """Take note that the reader writes no more."""
        self._read.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - see below
        """Take note that a pipe is gone: its reader's end alone tells whether all is."""
        if self._output is None or self._output.is_closing():
            self._read.set()

    def _over(self, status: int | None) -> None:
        """Tell the client that it is over."""
        if self._closed:
            return
        self._closed = True
        reason = _reason(status)
        if not self._answered:
            self._sink.answered({"error": {"class": "Failed", "message": reason}})
        else:
            self._sink.ended(reason)

    def push(self, lines: memoryview, first: int, count: int) -> None:
        """Give the reader lines; `first` is the number of the first of them.

        Where there is no room for them, the reader will look them up in the log.
        """
        if not self._listens:
            return
        waiting = self._waiting if self._input is None else self._input.get_write_buffer_size()
        fitting = len(lines)
        if waiting + len(lines) > self._most or (self._left_out and self._input is None):
            room = 0 if self._numbered else max(0, self._most - waiting)
            fitting = bytes(lines[:room]).rfind(b"\n") + 1
        taken = count if fitting == len(lines) else bytes(lines[:fitting]).count(b"\n")
        if fitting and self._input is None:
            assert self._early is not None  # noqa: S101 - for the type checker
            self._waiting += fitting
            self._early.append((first, taken, bytes(lines[:fitting])))
        elif fitting and self._input:
            self.resume_writing()
            self._input.write(bytes(lines[:fitting]))
        if taken < count:
            self.leave_out(first + taken, first + count - 1)

    def leave_out(self, first: int, last: int) -> None:
        """Take note of lines that the reader does not get; their numbers follow the last ones."""
        if not self._listens:
            return
        if self._numbered:
            self._left_out = self._left_out[0] if self._left_out else first, last
            if self._input and self._input.get_write_buffer_size() == 0:
                self.resume_writing()
        else:
            self._sink.lost(last - first + 1)

    def resume_writing(self) -> None:
        """Have what was left out looked up, now that there is room."""
        if self._left_out and self._input:
            self._input.write(b"#read %d %d\n" % self._left_out)
            self._left_out = None

    def resume(self) -> None:
        """Go on: there is room for more."""
        if self._output and not self._closed:
            self._output.resume_reading()

    def finish(self) -> None:
        """Let the reader come to the end of what it was given."""
        self._finishing = True
        if self._input and not self._closed:
            self.resume_writing()
            self._input.close()

    def close(self) -> None:
        """End the reader."""
        self._closed = True
        if self._input and self._output:
            self._server.kill(self._reader)
            if not self._input.is_closing():
                self._input.abort()
            self._output.close()

    @property
    def _listens(self) -> bool:
        return not self._closed and (self._input is not None or self._early is not None)


def _reason(status: int | None) -> str:
    """Return in words how a reader ended."""
    if status == -signal.SIGPROF:
        return f"`where` took more than {CPU_MAX:g} s of CPU time for one line"
    return "complete" if status == 0 else f"the reader failed ({status})"
