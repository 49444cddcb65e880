"""The front's end of the control channel: it asks the core little and rarely, and once for all.

What several clients ask at the same time is asked once; an answer serves all who ask within a tenth
of a second. What comes too often waits here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from qmond.errors import ProtocolError, RequestError
from qmond.server.control import Question, question, told
from qmond.server.operations import Answer
from qmond.server.shares import Bucket

__all__ = ["Core"]

_RATE: Final = 9
"""Requests a second, a little fewer than the core answers."""
_FRESH: Final = 0.1
"""Seconds that an answer serves all who ask."""
_PATIENCE: Final = 20
"""Seconds that an answer may take."""
_SHARED: Final = frozenset({"status", "ps", "config", "metrics"})
"""What is the same for all who ask."""


class Core(asyncio.Protocol):
    """The core, as the front knows it."""

    def __init__(self) -> None:
        self.configure: Callable[[bytes], object] = self._first
        loop = asyncio.get_running_loop()
        self._settings: asyncio.Future[bytes] = loop.create_future()
        self._ended: asyncio.Future[bool] = loop.create_future()
        self._rest = b""
        self._number = 0
        self._pace = Bucket(_RATE, _RATE)
        self._turn = asyncio.Lock()
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._asked: dict[bytes, asyncio.Task[Answer]] = {}
        self._transport: asyncio.Transport

    # ---- asyncio calls these -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take note of the way out."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the end is all
        """Take note that the core has gone."""
        self._end(orderly=False)

    def data_received(self, data: bytes) -> None:
        """Take what the core says."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            found = told(line)
            if found.kind == "settings":
                self.configure(found.text)
            elif found.kind == "finish":
                self._end(orderly=True)
            elif (waiting := self._waiting.pop(found.id, None)) and not waiting.done():
                if found.kind == "error":
                    error = orjson.loads(found.text)
                    waiting.set_exception(RequestError(error["class"], error["message"]))
                else:
                    waiting.set_result(Answer(found.text, truncated=found.kind == "cut"))

    def _first(self, text: bytes) -> None:
        if not self._settings.done():
            self._settings.set_result(text)

    def _end(self, *, orderly: bool) -> None:
        if not self._ended.done():
            self._ended.set_result(orderly)

    # ---- what the front does -------------------------------------------------------------------

    async def first_settings(self) -> bytes:
        """Return the settings that the core tells at first, in JSON. Raises ProtocolError."""
        either: list[asyncio.Future[Any]] = [self._settings, self._ended]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not self._settings.done():
            raise ProtocolError("the core ended before it said anything")
        return self._settings.result()

    async def ended(self) -> bool:
        """Wait for the end; says whether the core wants clients to have what is theirs."""
        return await self._ended

    def send(self, message: bytes) -> None:
        """Tell the core something."""
        if not self._transport.is_closing():
            self._transport.write(message)

    async def ask(self, op: str, args: Mapping[str, Any] | None = None) -> Answer:
        """Ask the core. Raises RequestError where it refuses, ProtocolError where it is silent."""
        key = orjson.dumps([op, args or {}])
        if op not in _SHARED:
            return await self._ask(op, args or {})
        asking = self._asked.get(key)
        if asking is None:
            loop = asyncio.get_running_loop()
            asking = self._asked[key] = loop.create_task(self._ask(op, args or {}))
            asking.add_done_callback(lambda _: loop.call_later(_FRESH, self._asked.pop, key, None))
        return await asyncio.shield(asking)

    async def _ask(self, op: str, args: Mapping[str, Any]) -> Answer:
        async with self._turn:
            await asyncio.sleep(self._pace.wait(1))
            self._pace.spend(1)
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
