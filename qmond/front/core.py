"""The front's end of the control channel, by which it asks the core.

The core is asked little and rarely: questions that are too many wait here. A question that several
clients have is asked once, for all who had it before it was sent. So an answer is never older than
the request that it answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from qmond.errors import ProtocolError, RequestError
from qmond.server.control import Question, parse_core_message, question
from qmond.server.operations import Answer
from qmond.server.shares import Bucket

__all__ = ["Core"]

_RATE: Final = 9
"""Questions a second, a little fewer than the core answers."""
_PATIENCE: Final = 20
"""Seconds that an answer may take."""
_QUEUED: Final = 27
"""Questions that may wait here before one that anybody can have many of is refused: three seconds'
worth."""
_SHAREABLE: Final = frozenset({"status", "ps", "config", "metrics"})
"""The questions whose answer is the same for all who ask."""
_UNBOUNDED: Final = frozenset({"tree"})
"""The questions that every client can have many of."""


class Core(asyncio.Protocol):
    """The core, as the front knows it; `configure` is called with settings, in JSON."""

    def __init__(self) -> None:
        self.configure: Callable[[bytes], object] = self._take_first_settings
        loop = asyncio.get_running_loop()
        self._settings: asyncio.Future[None] = loop.create_future()
        self._newest = b""
        self._ended: asyncio.Future[bool] = loop.create_future()
        self._partial = b""  # a message that is not whole yet
        self._number = 0
        self._pace = Bucket(_RATE, _RATE)
        self._pacing = asyncio.Lock()
        self._queued = 0  # questions that wait for that
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._unsent: dict[bytes, asyncio.Task[Answer]] = {}
        self._transport: asyncio.Transport

    # ---- asyncio calls these -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the end is all
        """Take note that the core has gone."""
        self._end(orderly=False)

    def data_received(self, data: bytes) -> None:
        """Take the core's messages."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            message = parse_core_message(line)
            if message.kind == "settings":
                self.configure(message.text)
            elif message.kind == "finish":
                self._end(orderly=True)
            elif (waiting := self._waiting.pop(message.id, None)) and not waiting.done():
                if message.kind == "error":
                    error = orjson.loads(message.text)
                    waiting.set_exception(RequestError(error["class"], error["message"]))
                else:
                    waiting.set_result(Answer(message.text, truncated=message.kind == "cut"))

    def _take_first_settings(self, text: bytes) -> None:
        self._newest = text  # a reload may come before the first are asked for
        if not self._settings.done():
            self._settings.set_result(None)

    def _end(self, *, orderly: bool) -> None:
        if not self._ended.done():
            self._ended.set_result(orderly)

    # ---- the front calls these -----------------------------------------------------------------

    async def first_settings(self) -> bytes:
        """Return the first settings, in JSON. Raises ProtocolError where the core has gone."""
        either: list[asyncio.Future[Any]] = [self._settings, self._ended]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not self._settings.done():
            raise ProtocolError("the core ended before it sent any settings")
        return self._newest

    async def ended(self) -> bool:
        """Wait for the core's end; says whether it is orderly: clients get all that is theirs."""
        return await self._ended

    def send(self, message: bytes) -> None:
        """Send a message to the core."""
        if not self._transport.is_closing():
            self._transport.write(message)

    async def ask(self, op: str, args: Mapping[str, Any] | None = None) -> Answer:
        """Ask the core. Raises RequestError where it refuses, ProtocolError where it is silent."""
        if op not in _SHAREABLE:
            if op in _UNBOUNDED and self._queued >= _QUEUED:
                raise RequestError("TooManyRequests", "too many ask at the same time: try again")
            return await self._ask(op, args or {})
        key = orjson.dumps([op, args or {}])
        asking = self._unsent.get(key)
        if asking is None:
            work = self._ask(op, args or {}, key)
            asking = self._unsent[key] = asyncio.get_running_loop().create_task(work)
        return await asyncio.shield(asking)

    async def _ask(self, op: str, args: Mapping[str, Any], key: bytes = b"") -> Answer:
        self._queued += 1
        try:
            async with self._pacing:
                await asyncio.sleep(self._pace.wait(1))
                self._pace.spend(1)
        finally:
            self._queued -= 1
        self._unsent.pop(key, None)
        self._number += 1
        number = self._number
        waiting: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        try:
            self.send(question(Question(number, op, dict(args))))
            async with asyncio.timeout(_PATIENCE):
                return await waiting
        except TimeoutError as error:
            raise ProtocolError(f"no answer for {_PATIENCE} s") from error
        finally:
            self._waiting.pop(number, None)
