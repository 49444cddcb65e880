"""The core's end of the control channel: checks, limits and answers a front's questions."""

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
"""Requests that may wait; more of them break the protocol."""
_UNREAD: Final = 32 << 20
"""Bytes that the front may leave unread."""
_LONG: Final = frozenset({"ps"})
"""Questions whose answer grows with the number of processes, which any user can raise."""
_BUSY: Final = 9
"""Length of the pause after an answer, in times of the answer: answers take a tenth of the time."""

Reply = tuple[bytes, bool]
"""An answer in JSON, and whether it was cut."""
Answers = Mapping[str, Callable[[Mapping[str, Any]], Reply | Awaitable[Reply]]]


class Channel(asyncio.Protocol):
    """The control channel of one front; `take_beat` gets its beats. A rate limits its questions."""

    def __init__(self, answers: Answers, take_beat: Callable[[Beat], None]) -> None:
        self.gone = asyncio.Event()
        self.fault = ""
        self.heard = time.monotonic()
        self._answers = answers
        self._take_beat = take_beat
        self._lines = LineReader(REQUEST_MAX)
        self._pace = Bucket(_RATE, _RATE)
        self._messages = Bucket(2 * _RATE, 8 * _RATE)
        self._waiting: asyncio.Queue[Question] = asyncio.Queue(_WAITING)
        self._long: asyncio.Queue[Question] = asyncio.Queue(_WAITING)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport. asyncio calls this."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason does not matter
        """Note that the front has closed its end. asyncio calls this."""
        self.gone.set()

    def data_received(self, data: bytes) -> None:
        """Take messages; a wrong one, or one too many, ends the front. asyncio calls this."""
        try:
            for line in self._lines.feed(data):
                self._messages.spend(1)
                self._take(parse(line if line and self._messages.room >= 0 else b""))
        except (ValueError, asyncio.QueueFull) as error:
            self.end(f"it breaks the protocol: {error or 'too many requests'}")

    def _take(self, message: Question | Beat) -> None:
        if isinstance(message, Beat):
            self.heard = time.monotonic()
            self._take_beat(message)
        else:
            (self._long if message.op in _LONG else self._waiting).put_nowait(message)

    async def answer_forever(self) -> None:
        """Answer questions until cancelled; short answers do not wait for long ones."""
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
            except Exception as error:  # noqa: BLE001 - a fault must not stop other answers
                _log.exception("%s could not be answered", asked.op)
                self.say("error", asked.id, orjson.dumps(_described(error)))
            await asyncio.sleep(min(2, _BUSY * (time.thread_time() - began)))

    def say(self, kind: str, number: int = 0, text: bytes = b"null") -> None:
        """Send the front a message; end it if it leaves too much unread."""
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(tell(kind, number, text))
        if self._transport.get_write_buffer_size() > _UNREAD:
            self.end("it does not read")

    def end(self, fault: str) -> None:
        """Close the channel, so that the front is replaced; the first `fault` is the reason."""
        self.fault = self.fault or fault
        if self._transport:
            self._transport.abort()
        self.gone.set()


def _described(error: Exception) -> dict[str, str]:
    kind = error.kind if isinstance(error, RequestError) else "Failed"
    return {"class": kind, "message": str(error) or type(error).__name__}
