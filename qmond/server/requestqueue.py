"""The requests of one connection that wait to be answered.

They are answered one a turn of the event loop, so that other clients have their turns between. A
user who has used up a share of the loop's time waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from qmond.server.protocol import LINE_MAX, LineReader
from qmond.server.sendbuffer import SendBuffer
from qmond.server.shares import Bucket

__all__ = ["RequestQueue"]

Awaited = TypeVar("Awaited")


class RequestQueue:
    """Has each request answered by `respond`, which gets its line; None for one too long.

    `share` gives what is left of the user's share of the loop's time, in seconds.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        buffer: SendBuffer,
        share: Callable[[], Bucket],
        respond: Callable[[bytes | None], Coroutine[Any, Any, None]],
    ) -> None:
        self._transport = transport
        self._buffer = buffer
        self._share = share
        self._respond = respond
        self._data = bytearray()
        self._lines = LineReader()
        self._turn: asyncio.TimerHandle | None = None
        self._answering: asyncio.Task[None] | None = None
        self._others_time = 0.0  # of the loop's, while this request is being answered

    @property
    def has_begun(self) -> bool:
        """Whether a request has begun that is not complete."""
        return self._lines.begun

    def feed(self, data: bytes) -> None:
        """Take bytes; where there are too many, the connection reads no more for now."""
        self._data += data
        if len(self._data) >= LINE_MAX:
            self._transport.pause_reading()
        self.resume()

    def resume(self) -> None:
        """Have the next request answered soon, unless something else comes first."""
        waits = self._turn or self._answering or self._buffer.is_full or not self._data
        if not waits and not self._transport.is_closing():
            loop = asyncio.get_running_loop()
            self._turn = loop.call_later(self._share().wait(), self._take_turn)

    def clear(self) -> None:
        """Forget the requests that wait."""
        self._data.clear()

    def close(self) -> None:
        """Forget all of them, also the one that is being answered."""
        self.clear()
        for waiting in (self._turn, self._answering):
            if waiting:
                waiting.cancel()

    def spend(self, seconds: float) -> None:
        """Take time from the user's share."""
        self._share().spend(seconds)

    async def wait(self, what: Awaitable[Awaited]) -> Awaited:
        """Wait for something; the time until then is taken from nobody's share."""
        began = time.thread_time()
        try:
            return await what
        finally:
            self._others_time += time.thread_time() - began

    def _take_turn(self) -> None:
        """Look at the bytes up to the end of a line."""
        self._turn = None
        end = self._data.find(b"\n") + 1 or len(self._data)
        part = bytes(self._data[:end])
        del self._data[:end]
        if len(self._data) < LINE_MAX:
            self._transport.resume_reading()
        for line in self._lines.feed(part):
            if line != b"":
                self._answering = asyncio.get_running_loop().create_task(self._answer(line))
                self._answering.add_done_callback(self._end_turn)
        self.resume()

    async def _answer(self, line: bytes | None) -> None:
        began, self._others_time = time.thread_time(), 0.0
        await self._respond(line)
        self.spend(time.thread_time() - began - self._others_time)

    def _end_turn(self, _task: asyncio.Task[None]) -> None:
        self._answering = None
        self.resume()
