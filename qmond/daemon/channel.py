"""The control channel as the core has it: what a front asks is checked, counted and answered."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import orjson

from qmond.errors import ProtocolError, RequestError
from qmond.server.control import REQUEST_MAX, Beat, Question, parse, tell
from qmond.server.protocol import LineReader
from qmond.server.shares import Bucket

__all__ = ["Answers", "Channel", "Reply"]

_log = logging.getLogger(__name__)

_RATE: Final = 10
"""Requests a second that are answered."""
_WAITING: Final = 64
"""Requests that may wait; a front that asks faster does not keep to the rules."""
_UNREAD: Final = 32 << 20
"""Bytes that the front may leave unread."""
_LONG: Final = frozenset({"ps"})
"""What is as long as there are processes, which anybody can start."""
_BUSY: Final = 9
"""Times as long as an answer took until the next: answers take a tenth of the loop's time."""

Reply = tuple[bytes, bool]
"""An answer in JSON, and whether it had to be cut."""
Answers = Mapping[str, Callable[[Mapping[str, Any]], Reply | Awaitable[Reply]]]


class Channel(asyncio.Protocol):
    """The control channel of one front: so many of its questions are answered in a second."""

    def __init__(self, answers: Answers, heard: Callable[[Beat], None]) -> None:
        self.gone = asyncio.Event()
        self.fault = ""
        self.heard = time.monotonic()
        self._answers = answers
        self._beat = heard
        self._lines = LineReader(REQUEST_MAX)
        self._pace = Bucket(_RATE, _RATE)
        self._news = Bucket(2 * _RATE, 8 * _RATE)
        self._waiting: asyncio.Queue[Question] = asyncio.Queue(_WAITING)
        self._long: asyncio.Queue[Question] = asyncio.Queue(_WAITING)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take note of the way out: asyncio calls this."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the end is all
        """Take note that the front has gone: asyncio calls this."""
        self.gone.set()

    def data_received(self, data: bytes) -> None:
        """Take messages; one that is wrong, or one too many, ends the front."""
        try:
            for line in self._lines.feed(data):
                self._news.spend(1)
                self._take(parse(line if line and self._news.room >= 0 else b""))
        except (ValueError, asyncio.QueueFull) as error:
            self.end(f"it does not keep to the rules: {error or 'too many requests'}")

    def _take(self, message: Question | Beat) -> None:
        if isinstance(message, Beat):
            self.heard = time.monotonic()
            self._beat(message)
        else:
            (self._long if message.op in _LONG else self._waiting).put_nowait(message)

    async def answer_forever(self) -> None:
        """Answer what is asked, until cancelled; who asks little does not wait for a long list."""
        await asyncio.gather(self._answer(self._waiting), self._answer(self._long))

    async def _answer(self, waiting: asyncio.Queue[Question]) -> None:
        while True:
            asked = await waiting.get()
            await asyncio.sleep(self._pace.wait(1))
            self._pace.spend(1)
            began = time.thread_time()
            try:
                found = self._answers[asked.op](asked.args)
                text, cut = await found if isinstance(found, Awaitable) else found
                self.say("cut" if cut else "ok", asked.id, text)
            except (ProtocolError, OSError) as error:
                self.say("error", asked.id, orjson.dumps(_described(error)))
            except Exception as error:  # noqa: BLE001 - one question's fault is no other's
                _log.exception("%s could not be answered", asked.op)
                self.say("error", asked.id, orjson.dumps(_described(error)))
            await asyncio.sleep(min(2, _BUSY * (time.thread_time() - began)))

    def say(self, kind: str, number: int = 0, text: bytes = b"null") -> None:
        """Tell the front something; where it has not read for long, that is its end."""
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(tell(kind, number, text))
        if self._transport.get_write_buffer_size() > _UNREAD:
            self.end("it does not read")

    def end(self, fault: str) -> None:
        """Have the front replaced."""
        self.fault = self.fault or fault
        if self._transport:
            self._transport.abort()
        self.gone.set()


def _described(error: Exception) -> dict[str, str]:
    kind = error.kind if isinstance(error, RequestError) else "Failed"
    return {"class": kind, "message": str(error) or type(error).__name__}
