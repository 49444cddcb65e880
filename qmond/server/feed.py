"""The front's end of one reader: lines go in as far as there is room, chosen lines come out."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from typing import Any, Protocol

import orjson

from qmond.log.files import Position
from qmond.server.forkserver import ForkServer
from qmond.server.reader import CPU_MAX, NOT_BOOLEAN

__all__ = ["Feed", "LiveStart", "Sink"]


class LiveStart:
    """Where the log ends and the live lines begin: the next line's number, and the log's end.

    `members` are the processes of a tree at that moment.
    """

    __slots__ = ("end", "members", "seq")

    def __init__(self, seq: int, end: Position, members: tuple[int, ...] = ()) -> None:
        self.seq = seq
        self.end = end
        self.members = members


class Sink(Protocol):
    """What takes the lines that a reader chose."""

    def answered(self, answer: dict[str, Any]) -> None:
        """Take the reader's answer to the request: `ok`, or `error` with class and message."""

    def receive(self, lines: bytes) -> bool:
        """Take lines; says whether there is room for more."""

    def lost(self, count: int) -> None:
        """Count lines that there was no room for, and that are in no log."""

    def ended(self, reason: str) -> None:
        """Take note that no more lines come."""


class Feed(asyncio.Protocol):
    """One reader. Lines that are pushed after `listen` wait for it, at most `size` bytes.

    Where lines have numbers, the reader finds in the log what there was no room for. asyncio calls
    `data_received` for the lines that the reader chose, and `resume_writing` when it has taken all.
    """

    def __init__(self, sink: Sink, size: int, server: ForkServer, *, numbered: bool) -> None:
        self._sink = sink
        self._size = size
        self._server = server
        self._numbered = numbered
        self._queue: list[tuple[int, int, bytes]] | None = None
        """Lines from before the reader was there: first number, count, text."""
        self._queued = 0  # bytes
        self._partial = b""  # a chosen line that is not whole yet
        self._has_answered = False
        self._skipped: tuple[int, int] | None = None  # the numbers of lines that had no room
        self._input: asyncio.WriteTransport | None = None
        self._output: asyncio.ReadTransport | None = None
        self._reader = 0
        self._is_closed = self._is_finishing = False
        self._output_ended = asyncio.Event()

    def listen(self) -> None:
        """Keep the lines that are pushed from now on."""
        self._queue = []

    async def run(self, request: Mapping[str, Any], start: LiveStart) -> None:
        """Run the reader to its end; it gets the pushed lines from `start` on.

        Raises OSError where it cannot be started.
        """
        if self._is_closed:
            return
        self._forget_before(start.seq)
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
        to_reader, _ = await loop.connect_write_pipe(lambda: self, os.fdopen(given, "wb"))
        self._output, _ = await loop.connect_read_pipe(lambda: self, os.fdopen(taken, "rb"))
        self._input = to_reader  # pushed lines go there from now on: the request must be first
        if self._is_closed:
            self.close()
        else:
            following = start.seq if self._numbered else None
            place = {"end": [*start.end], "following": following, "members": [*start.members]}
            whole = {**request, **place}
            self._send_request(orjson.dumps(whole) + b"\n")
        try:
            status = await ended
            await self._output_ended.wait()
        finally:
            self._input.close()
            self._output.close()
        self.end(_reason(status))

    def _forget_before(self, seq: int) -> None:
        """Forget lines that the reader finds in the log: those before a number."""
        self._queue = [row for row in self._queue or () if row[0] >= seq]
        if self._skipped:
            first, last = max(self._skipped[0], seq), self._skipped[1]
            self._skipped = (first, last) if first <= last else None

    def _send_request(self, request: bytes) -> None:
        """Send the request, and the lines that wait."""
        assert self._input is not None  # noqa: S101 - for the type checker
        self._input.set_write_buffer_limits(high=0)  # so resume_writing is called when all is out
        self._input.write(request)
        queue, self._queue = self._queue or [], None
        for _, _, lines in queue:
            self._input.write(lines)
        self.resume_writing()
        if self._is_finishing:
            self._input.close()

    def data_received(self, data: bytes) -> None:
        """Pass on the lines that the reader chose."""
        if self._is_closed:
            return
        whole, newline, rest = data.rpartition(b"\n")
        if not newline:
            self._partial += data
            return
        lines, self._partial = self._partial + whole + newline, rest
        if not self._has_answered:
            self._has_answered = True
            answer, _, lines = lines.partition(b"\n")
            self._sink.answered(orjson.loads(answer))
        if lines and not self._sink.receive(lines) and self._output:
            self._output.pause_reading()

    def eof_received(self) -> None:
        """Take note that the reader writes no more."""
        self._output_ended.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - see below
        """Take note that a pipe is gone; asyncio does not say which of the two."""
        if self._output is None or self._output.is_closing():
            self._output_ended.set()

    def end(self, reason: str) -> None:
        """Tell the sink that no more lines come, and why."""
        if self._is_closed:
            return
        self._is_closed = True
        if not self._has_answered:
            self._sink.answered({"error": {"class": "Failed", "message": reason}})
        else:
            self._sink.ended(reason)

    def push(self, lines: memoryview, first: int, count: int) -> None:
        """Give the reader lines; `first` is the number of the first of them.

        The reader will look up in the log those that there is no room for.
        """
        if not self._takes_lines:
            return
        waiting = self._queued if self._input is None else self._input.get_write_buffer_size()
        fitting = len(lines)
        if waiting + len(lines) > self._size or (self._skipped and self._input is None):
            room = 0 if self._numbered else max(0, self._size - waiting)
            fitting = bytes(lines[:room]).rfind(b"\n") + 1
        taken = count if fitting == len(lines) else bytes(lines[:fitting]).count(b"\n")
        if fitting and self._input is None:
            assert self._queue is not None  # noqa: S101 - for the type checker
            self._queued += fitting
            self._queue.append((first, taken, bytes(lines[:fitting])))
        elif fitting and self._input:
            self.resume_writing()
            self._input.write(bytes(lines[:fitting]))
        if taken < count:
            self.skip(first + taken, first + count - 1)

    def skip(self, first: int, last: int) -> None:
        """Take note of lines that are not pushed; their numbers follow those of the last ones."""
        if not self._takes_lines:
            return
        if self._numbered:
            self._skipped = self._skipped[0] if self._skipped else first, last
            if self._input and self._input.get_write_buffer_size() == 0:
                self.resume_writing()
        else:
            self._sink.lost(last - first + 1)

    def resume_writing(self) -> None:
        """Have the reader look up the lines that had no room, now that there is room."""
        if self._skipped and self._input:
            self._input.write(b"#read %d %d\n" % self._skipped)
            self._skipped = None

    def resume(self) -> None:
        """Read on: the sink has room for more."""
        if self._output and not self._is_closed:
            self._output.resume_reading()

    def finish(self) -> None:
        """Push no more lines; the reader ends once it has looked at those that it was given."""
        self._is_finishing = True
        if self._input and not self._is_closed:
            self.resume_writing()
            self._input.close()

    def close(self) -> None:
        """End the reader at once."""
        self._is_closed = True
        if self._input and self._output:
            self._server.kill(self._reader)
            if not self._input.is_closing():
                self._input.abort()
            self._output.close()

    @property
    def _takes_lines(self) -> bool:
        return not self._is_closed and (self._input is not None or self._queue is not None)


def _reason(status: int | None) -> str:
    """Return in words how a reader ended."""
    if status == -signal.SIGPROF:
        return f"`where` took more than {CPU_MAX:g} s of CPU time for one line"
    for kind, number in NOT_BOOLEAN.items():
        if status == number:
            return f"`where` gives {kind}, not true or false: compare it, as in fd == 3"
    return "complete" if status == 0 else f"the reader failed ({status})"
