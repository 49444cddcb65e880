"""The requests of one connection that wait to be answered.

They are answered one a turn of the event loop, so that other clients have their turns between. A
user who has used up a share of the loop's time waits; a request that would wait for too long is
refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from qmond.errors import RequestError
from qmond.server.protocol import LINE_MAX, LineReader
from qmond.server.sendbuffer import SendBuffer
from qmond.server.shares import Bucket

__all__ = ["RequestQueue"]

Awaited = TypeVar("Awaited")

_PATIENCE: Final = 4
"""Seconds that a request waits for its user's share."""


class RequestQueue:
    """Has each request answered by `respond`, which gets its line; None for one too long.

    `respond` also gets the reason why the request must be refused, or None. `share` gives what is
    left of the user's share of the loop's time, in seconds. `done` is called when all requests of a
    client that sends no more are answered; it may be called again.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        buffer: SendBuffer,
        share: Callable[[], Bucket],
        respond: Callable[[bytes | None, RequestError | None], Coroutine[Any, Any, None]],
        done: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._buffer = buffer
        self._share = share
        self._respond = respond
        self._done = done
        self._is_last = False  # the client sends no more
        self._data = bytearray()
        self._lines = LineReader()
        self._turn: asyncio.TimerHandle | None = None
        self._deadline = 0.0  # of the wait for that turn
        self._answering: asyncio.Task[None] | None = None
        self._others_time = 0.0  # of the loop's, while this request is being answered

    @property
    def has_begun(self) -> bool:
        """Whether a request has begun, and the client has yet to complete it."""
        return self._lines.begun and not self._data

    @property
    def is_busy(self) -> bool:
        """Whether there is a request that is not answered."""
        return bool(self._data or self._turn or self._answering)

    def feed(self, data: bytes) -> None:
        """Take bytes; where there are too many, the connection reads no more for now."""
        self._data += data
        if len(self._data) >= LINE_MAX:
            self._transport.pause_reading()
        self.resume()

    def end(self) -> None:
        """Take note that the client sends no more; its last line may lack the newline."""
        if not self._is_last:
            self._is_last = True
            self.feed(b"\n")

    def resume(self) -> None:
        """Have the next request answered soon, unless something else comes first."""
        if self._transport.is_closing():
            return
        if self._is_last and not self.is_busy:
            self._done()
        elif self._data and not (self._turn or self._answering or self._buffer.is_full):
            self._deadline = time.monotonic() + _PATIENCE
            self._wait_for_turn()

    def _wait_for_turn(self) -> None:
        """Take a turn when the user has a share of the loop's time again, or at the deadline."""
        wait, left = self._share().wait(), self._deadline - time.monotonic()
        loop = asyncio.get_running_loop()
        self._turn = loop.call_later(min(wait, max(0, left)), self._take_turn)

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
        """Look at the bytes up to the end of a line, if the user's share is not used up."""
        wait = self._share().wait()
        if wait and time.monotonic() < self._deadline:  # another client of the user was faster
            self._wait_for_turn()
            return
        self._turn = None
        end = self._data.find(b"\n") + 1 or len(self._data)
        part = bytes(self._data[:end])
        del self._data[:end]
        if len(self._data) < LINE_MAX:
            self._transport.resume_reading()
        late = _too_many(wait) if wait else None
        for line in self._lines.feed(part):
            if line != b"":
                self._answering = asyncio.get_running_loop().create_task(self._answer(line, late))
                self._answering.add_done_callback(self._end_turn)
        self.resume()

    async def _answer(self, line: bytes | None, late: RequestError | None) -> None:
        began, self._others_time = time.thread_time(), 0.0
        await self._respond(line, late)
        self.spend(time.thread_time() - began - self._others_time)

    def _end_turn(self, _task: asyncio.Task[None]) -> None:
        self._answering = None
        self.resume()


def _too_many(wait: float) -> RequestError:
    reason = f"this user's requests take too much time: try again in {max(1, round(wait))} s"
    return RequestError("TooManyRequests", reason)
