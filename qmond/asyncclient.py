"""`AsyncClient`, the client of the daemon's socket for asyncio; qmond/client.py has it, too."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Self, Unpack

from qmond import wire
from qmond.cursor import Choice
from qmond.errors import ProtocolError, QmondError

if TYPE_CHECKING:
    import asyncio

__all__ = ["AsyncClient"]


class AsyncClient:
    """A `Client` for asyncio: `async with AsyncClient() as qmond` connects and closes.

    It is for one task. A request or a tail that is cancelled leaves the connection as it was.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self._path = wire.socket_path(path)
        self._requests = 0
        self._tail: int | None = None  # the number of the request whose lines may be read
        self._is_reading = False
        self._is_behind = False
        """Whether what belongs to earlier requests may come before the next answer."""
        self.truncated = False
        """Whether the daemon cut the last answer, because it was too long."""
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self.about: dict[str, Any] = {}

    async def __aenter__(self) -> Self:
        """Connect. Raises QmondError, ProtocolError."""
        import asyncio  # noqa: PLC0415 - a third of qmonctl's start time, which does not need it

        try:
            self._reader, self._writer = await asyncio.open_unix_connection(
                self._path, limit=wire.LINE_MAX
            )
        except OSError as error:
            raise wire.unreachable(self._path, error) from error
        try:
            self.about = wire.greeting(self._path, await self._read())
        except (QmondError, asyncio.CancelledError):
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        self._tail = None
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def status(self) -> dict[str, Any]:
        """Return the state of the daemon and its counters. Raises RequestError."""
        status: dict[str, Any] = await self.request("status")
        return status

    async def ps(self) -> list[dict[str, Any]]:
        """Return the watched processes. Raises RequestError."""
        processes: list[dict[str, Any]] = await self.request("ps")
        return processes

    async def tail(self, **choice: Unpack[Choice]) -> AsyncGenerator[bytes, None]:
        """Yield lines as `Client.tail` does: `async for line in qmond.tail()`."""
        self._leave_tail()
        tail = self._tail = self._send("tail", {**choice})
        try:
            await self._receive_answer(tail)
            while (line := await self._next_line(tail)) is not None:
                yield line
        except QmondError:
            if self._tail == tail:
                self._tail = None
            raise
        finally:
            if self._tail == tail:
                with contextlib.suppress(QmondError):  # the connection is lost
                    self._leave_tail()

    async def request(self, op: str, /, **args: Any) -> Any:  # noqa: ANN401 - any JSON value
        """Send a request for any operation, and return its answer.

        Raises RequestError if the daemon refuses it, ProtocolError if the connection fails.
        """
        self._leave_tail()
        return await self._receive_answer(self._send(op, args))

    async def _next_line(self, tail: int) -> bytes | None:
        """Return the next line of a tail, or None at its end."""
        if self._tail != tail:
            raise wire.closed(self._path) if self._writer.is_closing() else wire.ended(self._path)
        line = await self._read()
        if not line or wire.is_end(self._path, line):
            self._tail = None
            return None
        return line.rstrip(b"\n")

    def _leave_tail(self) -> None:
        """End the tail that is open, if there is one; the next request skips what comes of it.

        This does not wait: a task that is cancelled does it, too.
        """
        if self._tail is not None:
            self._send("stop", {})
            self._tail, self._is_behind = None, True

    async def _receive_answer(self, number: int) -> Any:  # noqa: ANN401 - any JSON value
        was_behind, self._is_behind = self._is_behind, True  # until the answer is there
        line, end = await self._read(), time.monotonic() + wire.STOP_MAX
        while was_behind and wire.is_before(self._path, line, number):
            if time.monotonic() > end:
                await self.close()
                raise ProtocolError(f"{self._path}: the daemon goes on with a tail that was left")
            line = await self._read()
        self._is_behind = False
        answer, self.truncated = wire.answer(self._path, line, number)
        return answer

    def _send(self, op: str, args: dict[str, Any]) -> int:
        """Send a request, and return its number."""
        if self._is_reading:
            raise wire.in_use(self._path, "task")
        if self._writer.is_closing():
            raise wire.closed(self._path)
        self._requests += 1
        self._writer.write(wire.request(self._requests, op, args))
        return self._requests

    async def _read(self) -> bytes:
        self._is_reading = True
        try:
            return await self._reader.readline()
        except OSError as error:
            raise wire.hung_up(self._path) from error
        except ValueError as error:  # asyncio's, for a line beyond the limit
            raise wire.too_long(self._path) from error
        finally:
            self._is_reading = False
