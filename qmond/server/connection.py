"""One connection: the greeting, the answers to requests, time-outs, and how it ends.

A client that reads nothing for too long is cut off here, and that is logged here. Its requests wait
in a queue (requestqueue.py). The lines of events that it gets are its tail (tail.py).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from typing import Any, Final

from qmond.errors import ProtocolError, RequestError
from qmond.server.access import Peer, Rights, peer_of
from qmond.server.audience import Audience
from qmond.server.protocol import (
    Request,
    answer,
    answer_json,
    check_arguments,
    greeting,
    parse_request,
    refusal,
)
from qmond.server.requestqueue import RequestQueue
from qmond.server.sendbuffer import SendBuffer
from qmond.server.shares import Shares
from qmond.server.source import Source
from qmond.server.tail import Tail
from qmond.systemd.messages import MessageId, about

__all__ = ["Connection"]

_log = logging.getLogger(__name__)

_SILENCE: Final = 300
"""Seconds after which a client that neither asks nor tails is sent away."""
_HALF_LINE: Final = 10
"""Seconds that a request may take to arrive."""
_READER_COST: Final = 0.05
"""Seconds of a user's share that a reader's start takes."""


class Connection(asyncio.Protocol):
    """One connection, with a buffer and a tail of its own; asyncio attaches it to a socket.

    `shares` are of the loop's time, in seconds.
    """

    def __init__(
        self,
        buffer: SendBuffer,
        tail: Tail,
        source: Source,
        audience: Audience[Connection],
        shares: Shares,
    ) -> None:
        self.tail = tail
        self.peer = Peer(0, 0, 0, frozenset())
        self.rights = Rights(ask=False, content=False, control=False)
        self._buffer = buffer
        self._source = source
        self._audience = audience
        self._shares = shares
        self._last_data = time.monotonic()
        self._requests: RequestQueue
        self._transport: asyncio.Transport

    # ---- asyncio calls these -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet; where it may not ask or there are too many, say so and hang up."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        self._transport = transport
        self._buffer.attach(transport)
        connection: socket.socket = transport.get_extra_info("socket")
        self.peer = peer_of(connection)
        self._requests = RequestQueue(
            transport, self._buffer, lambda: self._shares[self.peer.uid], self._respond
        )
        try:
            self.rights = self._audience.enter(self)
        except RequestError as error:
            self._refuse(error)
            return
        _log.info("client connected: %s", self._name)
        self._buffer.write(greeting({**self._source.about(), "pid": self.peer.hosts_pid}))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        self.tail.stop()
        self._requests.close()
        self._audience.leave(self)
        _log.debug("client gone: %s: %s", self._name, exc or "closed")

    def data_received(self, data: bytes) -> None:
        """Take requests."""
        self._last_data = time.monotonic()
        self._requests.feed(data)

    def pause_writing(self) -> None:
        """Take note that the buffer is more than half full."""
        self._buffer.is_full = True

    def resume_writing(self) -> None:
        """Go on with what had to wait for room."""
        self._buffer.is_full = False
        self.tail.resume()
        self._requests.resume()

    # ---- requests ------------------------------------------------------------------------------

    async def _respond(self, line: bytes | None) -> None:
        """Answer a request; one that fails otherwise than by a refusal ends the connection."""
        try:
            await self._answer(line)
        except Exception:  # noqa: BLE001 - one client's fault is no other's
            _log.exception("a request could not be answered: %s", self._name)
            self.abort()

    async def _answer(self, line: bytes | None) -> None:
        """Answer a request, or refuse it; a tail with a reader is answered later."""
        request_id = None
        try:
            if line is None:
                raise RequestError("LineTooLong", "a request has at most 64 KiB")
            request = parse_request(line)
            request_id = request.id
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
        stalled, timeout = self._buffer.stalled(now), self._buffer.timeout
        silent = now - self._last_data
        if self._transport.is_closing():
            if stalled > 2 * timeout:
                self.abort()
        elif stalled > timeout:
            peer = {"client_pid": self.peer.pid, "client_uid": self.peer.uid}
            _log.warning(
                "client does not read, and is cut off: %s",
                self._name,
                extra=about(MessageId.CLIENT_CUT_OFF, **peer, dropped=self.tail.dropped),
            )
            self._refuse(RequestError("TooSlow", f"nothing was read for {timeout:g} s"))
        elif self._requests.has_begun and silent > _HALF_LINE:
            reason = f"half a request, and nothing more for {_HALF_LINE} s"
            self._refuse(RequestError("Timeout", reason))
        elif not self.tail.is_on and silent > _SILENCE:
            self._refuse(RequestError("Timeout", f"nothing was asked for {_SILENCE} s"))

    def allow(self, rights: Rights) -> None:
        """Go by other rights from here on: one who may no more is sent away, with the reason."""
        before, self.rights = self.rights, rights
        if self._transport.is_closing():
            return
        if not rights.ask:
            reason = "who may ask has changed, and you may not any more"
            self._refuse(RequestError("Forbidden", reason))
        elif self.tail.feed and rights.content != before.content:
            self.tail.ended("what you may see has changed: ask again")

    def finish(self) -> None:
        """Hang up once everything is sent."""
        self._buffer.is_full = False
        self.tail.finish()

    def abort(self) -> None:
        """Hang up at once."""
        self._transport.abort()

    def _refuse(self, error: RequestError) -> None:
        """Say why, and hang up; lines before that are whole."""
        self.tail.stop()
        self._requests.clear()
        self._buffer.write(refusal(None, error))
        self._buffer.close()

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

    @property
    def _name(self) -> str:
        return f"pid {self.peer.pid}, uid {self.peer.uid}, gid {self.peer.gid}"
