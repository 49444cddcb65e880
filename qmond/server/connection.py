"""One connection: the greeting, the answers to requests, time-outs, and how it ends.

A client that may not go on is cut off here: it is told why, and so is the journal (clientlog.py).
Its requests wait in a queue (requestqueue.py). The lines of events that it gets are its tail
(tail.py). A client may shut down its sending side: it still gets all that is its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from typing import Any, Final

from qmond.errors import ProtocolError, RequestError
from qmond.server.access import Peer, Rights, is_gone, peer_of
from qmond.server.audience import Audience
from qmond.server.clientlog import ClientLog
from qmond.server.protocol import (
    LINE_MAX,
    Request,
    answer,
    answer_json,
    check_arguments,
    greeting,
    parse_request,
    refusal,
)
from qmond.server.requestqueue import RequestQueue
from qmond.server.sendbuffer import BLOCK, SendBuffer
from qmond.server.shares import Shares
from qmond.server.source import Source
from qmond.server.tail import Tail

__all__ = ["Connection"]

_SILENCE: Final = 300
"""Seconds after which a client that neither asks nor tails is sent away."""
_HALF_LINE: Final = 10
"""Seconds that a request may take to arrive."""
_READER_COST: Final = 0.05
"""Seconds of a user's share that a reader's start takes."""
_DISCARDED: Final = 1 << 20
"""Bytes of requests that are read when a client is cut off: more than the kernel keeps."""


class Connection(asyncio.Protocol):
    """One connection, with a buffer and a tail of its own; asyncio attaches it to a socket.

    `shares` are of the loop's time, in seconds.
    """

    def __init__(
        self,
        *,
        buffer: SendBuffer,
        tail: Tail,
        source: Source,
        audience: Audience[Connection],
        shares: Shares,
        log: ClientLog,
    ) -> None:
        self.tail = tail
        self.peer = Peer(0, 0, 0, frozenset())
        self.rights = Rights(ask=False, content=False, control=False)
        self._buffer = buffer
        self._source = source
        self._audience = audience
        self._shares = shares
        self._log = log
        self._last_data = self._last_busy = time.monotonic()
        self._requests: RequestQueue
        self._socket: socket.socket
        self._transport: asyncio.Transport

    # ---- asyncio calls these -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet; where it may not ask or there are too many, say so and hang up."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        self._transport = transport
        self._buffer.attach(transport)
        self._socket = transport.get_extra_info("socket")
        self.peer = peer_of(self._socket)
        self._requests = RequestQueue(
            transport,
            self._buffer,
            lambda: self._shares[self.peer.uid],
            self._respond,
            self.tail.end_with_it,
        )
        try:
            self.rights = self._audience.enter(self)
        except RequestError as error:
            self._cut_off(error)
            return
        self._log.connected(self.peer)
        self._buffer.write(greeting({**self._source.about(), "pid": self.peer.hosts_pid}))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        self.tail.stop()
        self._requests.close()
        self._audience.leave(self)
        self._log.gone(self.peer, exc)

    def data_received(self, data: bytes) -> None:
        """Take requests."""
        self._last_data = time.monotonic()
        self._requests.feed(data)

    def eof_received(self) -> bool:
        """Answer what was asked, and send the tail's lines, as long as the client still reads."""
        if is_gone(self._socket):
            return False
        self._requests.end()
        return True

    def pause_writing(self) -> None:
        """Take note that the buffer is more than half full."""
        self._buffer.is_full = True

    def resume_writing(self) -> None:
        """Go on with what had to wait for room."""
        self._buffer.is_full = False
        self.tail.resume()
        self._requests.resume()

    # ---- requests ------------------------------------------------------------------------------

    async def _respond(self, line: bytes | None, late: RequestError | None) -> None:
        """Answer a request; one that fails otherwise than by a refusal ends the connection."""
        try:
            await self._answer(line, late)
        except Exception as error:  # noqa: BLE001 - one client's fault is no other's
            failed = RequestError("Failed", "a fault of qmond's own: its messages have the details")
            self._cut_off(failed, error)

    async def _answer(self, line: bytes | None, late: RequestError | None) -> None:
        """Answer a request, or refuse it; a tail with a reader is answered later."""
        request_id = None
        try:
            if line is None:
                raise RequestError("LineTooLong", "a request has at most 64 KiB")
            request = parse_request(line)
            request_id = request.id
            if late:
                raise late
            if request.op == "tail":
                await self._begin_tail(request)
            elif request.op == "stop":
                check_arguments("stop", request.args, ())
                self.tail.stop()
                figures = {"sent": self.tail.sent, "dropped": self.tail.dropped}
                self._buffer.write(answer(request, figures))
            else:
                self._buffer.write(await self._perform(request))
        except ProtocolError as error:
            if not self._transport.is_closing():
                self._buffer.write(refusal(request_id, error))

    async def _begin_tail(self, request: Request) -> None:
        selection = self.tail.select(request)
        if selection.is_plain:
            await self._requests.wait(self._source.follow())
            self.tail.follow(request, selection)
        else:
            uid, content = self.peer.uid, self.rights.content
            self.tail.read(request, selection, uid=uid, content=content)
            self._requests.spend(_READER_COST)

    async def _perform(self, request: Request) -> bytes:
        """Return the answer to any other operation."""
        operations = self._source.operations
        operation = operations.get(request.op)
        if operation is None:
            names = ", ".join(sorted([*operations, "tail", "stop"]))
            raise RequestError("UnknownOp", f"op: {request.op!r} is unknown; there are {names}")
        check_arguments(request.op, request.args, operation.arguments)
        if operation.control and not self.rights.control:
            raise RequestError("Forbidden", f"{request.op} is for root")
        asked = operation.answer(request.args, self.peer, self.rights)
        made = await self._requests.wait(asked)
        return answer_json(request, made.text, truncated=made.truncated)

    # ---- how it ends ---------------------------------------------------------------------------

    def check(self, now: float) -> None:
        """Cut the client off if it does not read, or neither asks nor tails for too long."""
        if is_gone(self._socket):
            self.abort()
            return
        stalled, timeout = self._buffer.stalled(now), self._buffer.timeout
        if self._buffer.waiting or self._requests.is_busy or self.tail.is_on:
            self._last_busy = now
        silent = now - self._last_data
        if self._transport.is_closing():
            if stalled > 2 * timeout:
                self.abort()
        elif stalled > timeout:
            reason = f"less than {BLOCK >> 10} KiB was read in {timeout:g} s"
            self._cut_off(RequestError("TooSlow", reason))
        elif self._requests.has_begun and silent > _HALF_LINE:
            reason = f"half a request, and nothing more for {_HALF_LINE} s"
            self._cut_off(RequestError("Timeout", reason))
        elif min(silent, now - self._last_busy) > _SILENCE:
            self._cut_off(RequestError("Timeout", f"nothing was asked for {_SILENCE} s"))

    def allow(self, rights: Rights) -> None:
        """Go by other rights from here on: one who may no more is sent away, with the reason."""
        before, self.rights = self.rights, rights
        if self._transport.is_closing():
            return
        if not rights.ask:
            reason = "who may ask has changed, and you may not any more"
            self._cut_off(RequestError("Forbidden", reason))
        elif self.tail.feed and rights.content != before.content:
            self.tail.feed.end("what you may see has changed: ask again")

    def finish(self) -> None:
        """Hang up once everything is sent."""
        self._buffer.is_full = False
        self.tail.finish()

    def abort(self) -> None:
        """Hang up at once."""
        self._transport.abort()

    def _cut_off(self, reason: RequestError, fault: Exception | None = None) -> None:
        """Say why, and hang up; lines before that are whole. `fault` is an error of ours."""
        if self._transport.is_closing() and not fault:
            return
        self.tail.stop()
        self._log.cut_off(self.peer, reason, self.tail.dropped, fault)
        self._requests.clear()
        self._discard_requests()
        self._buffer.write(refusal(None, reason))
        self._buffer.close()

    def _discard_requests(self) -> None:
        """Read what has come: closed with that unread, the socket would tell of an error first."""
        with contextlib.suppress(OSError):
            for _ in range(_DISCARDED // LINE_MAX):
                os.read(self._socket.fileno(), LINE_MAX)

    def describe(self) -> dict[str, Any]:
        """Return what `status` says of this client."""
        return {
            "pid": self.peer.pid,
            "uid": self.peer.uid,
            "gid": self.peer.gid,
            "content": self.rights.content,
            "tailing": self.tail.is_on,
            "sent": self.tail.sent,
            "dropped": self.tail.dropped,
            "buffered": self._buffer.waiting,
        }
