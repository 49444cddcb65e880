"""One connection: what it asks, what it gets, and how it ends.

A client has a bounded buffer. When it is full, whole lines are left out, counted, and told in the
client's own stream as DROPPED as soon as there is room again. A client that reads nothing for too
long is cut off here, and that is logged here. What takes more than a look at a line's event and
process is done by a reader, a process of the client's own (reader.py). Requests are answered one a
turn of the loop, and who has used up a share of its time waits.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable
from typing import Any, Final, TypeVar

from qmond.errors import ProtocolError, RequestError
from qmond.server.access import Peer, Rights, peer_of
from qmond.server.audience import Choice, Clients
from qmond.server.feed import Feed, Joint
from qmond.server.protocol import (
    LINE_MAX,
    LineReader,
    Request,
    Selection,
    answer,
    answer_made,
    check_arguments,
    farewell,
    greeting,
    parse_request,
    parse_selection,
    refusal,
)
from qmond.systemd.messages import MessageId, about

__all__ = ["Client"]

_log = logging.getLogger(__name__)

Awaited = TypeVar("Awaited")

_SILENCE: Final = 300
"""Seconds after which a client that neither asks nor tails is sent away."""
_FEED_MAX: Final = 1 << 20
"""Bytes that wait for a reader; what does not fit it reads from the log."""
_HALF_LINE: Final = 10
"""Seconds that a request may take to arrive."""
_READER_COST: Final = 0.05
"""Seconds of a user's share that a reader's start takes."""


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, clients: Clients) -> None:
        self.choice: Choice | None = None
        self.feed: Feed | None = None
        self.peer = Peer(0, 0, 0, frozenset())
        self.rights = Rights(ask=False, content=False, control=False)
        self.sent = 0
        self.dropped = 0
        self._untold = 0
        self._finishing = self._is_full = False
        self._clients = clients
        self._reader = LineReader()
        self._raw = bytearray()  # requests that wait for their turn
        self._turn: asyncio.TimerHandle | None = None
        self._answering: asyncio.Task[None] | None = None
        self._tail = Request("tail")
        self._heard = self._moved = time.monotonic()
        self._apart = 0.0
        self._given = self._left = 0  # bytes for the client, and those that the kernel took
        self._transport: asyncio.Transport

    # ---- asyncio calls these -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet; where it may not ask or there are too many, say so and hang up."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        self._transport = transport
        connection: socket.socket = transport.get_extra_info("socket")
        self.peer = peer_of(connection)
        self.rights = self._clients.rights(self.peer)
        settings = self._clients.settings
        if not self.rights.ask:
            self._refuse("Forbidden", f"neither root nor a member of the group {settings.group}")
        elif reason := self._clients.enter(self):
            self._refuse("TooManyClients", reason)
        else:
            half = settings.client_buffer // 2
            transport.set_write_buffer_limits(high=half, low=half // 2)
            _log.info("client connected: %s", self._name)
            self._write(greeting(self._clients.source.about()))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        self._stop()
        self._raw.clear()
        for waiting in (self._turn, self._answering):
            if waiting:
                waiting.cancel()
        self._clients.leave(self)
        _log.debug("client gone: %s: %s", self._name, exc or "closed")

    def data_received(self, data: bytes) -> None:
        """Take requests; too many at once wait where they come from."""
        self._heard = time.monotonic()
        self._raw += data
        if len(self._raw) >= LINE_MAX:
            self._transport.pause_reading()
        self._wait_for_turn()

    def pause_writing(self) -> None:
        """Take note that the buffer is more than half full."""
        self._is_full = True

    def resume_writing(self) -> None:
        """Tell what was left out, now that there is room again."""
        self._is_full = False
        self._tell_lost()
        if self.feed:
            self.feed.resume()
        self._wait_for_turn()

    # ---- what goes out -------------------------------------------------------------------------

    def push(self, lines: bytes, count: int) -> None:
        """Send lines that the client wants, as far as there is room for them."""
        if self._transport.is_closing() or not count:
            return
        room = self._clients.settings.client_buffer - self._transport.get_write_buffer_size()
        if not self._untold and len(lines) <= room:
            self._write(lines)
            self.sent += count
            return
        whole = 0 if self._untold else lines.rfind(b"\n", 0, max(0, room)) + 1
        taken = lines.count(b"\n", 0, whole)
        if whole:
            self._write(lines[:whole])
            self.sent += taken
        self.lost(count - taken)

    def lost(self, count: int) -> None:
        """Take note of lines that the client does not get, and tell as soon as there is room."""
        self._untold += count
        self.dropped += count
        if not self._is_full and not self._transport.is_closing():
            self._tell_lost()

    def answered(self, found: dict[str, Any]) -> None:
        """Tell what the reader says of the request."""
        if "ok" in found:
            self._write(answer(self._tail, found["ok"]))
        else:
            error = RequestError(found["error"]["class"], found["error"]["message"])
            self._stop()
            self._write(refusal(self._tail.id, error))

    def receive(self, lines: bytes) -> bool:
        """Send what the reader chose; says whether there is room for more."""
        self._write(lines)
        self.sent += lines.count(b"\n")
        return not self._is_full

    def ended(self, reason: str) -> None:
        """Tell that no more events follow."""
        self._stop()
        if not self._transport.is_closing():
            self._write(farewell(self._tail.id, reason))
            if self._finishing:
                self._transport.close()

    def _write(self, data: bytes) -> None:
        self._given += len(data)
        self._transport.write(data)

    def _tell_lost(self) -> None:
        untold, self._untold = self._untold, 0
        if untold:
            self._write(self._clients.source.dropped(untold))

    # ---- how it ends ---------------------------------------------------------------------------

    def check(self, now: float) -> None:
        """Send the client away where it is silent for too long, or does not read."""
        waiting = self._transport.get_write_buffer_size()
        left = self._given - waiting
        if not waiting or left != self._left:
            self._moved = now
        self._left = left
        timeout = self._clients.settings.client_timeout
        if self._transport.is_closing():
            if now - self._moved > 2 * timeout:
                self.abort()
        elif now - self._moved > timeout:
            peer = {"client_pid": self.peer.pid, "client_uid": self.peer.uid}
            _log.warning(
                "client does not read, and is cut off: %s",
                self._name,
                extra=about(MessageId.CLIENT_CUT_OFF, **peer, dropped=self.dropped),
            )
            self._refuse("TooSlow", f"nothing was read for {timeout:g} s")
        elif self._reader.begun and now - self._heard > _HALF_LINE:
            self._refuse("Timeout", f"half a request, and nothing more for {_HALF_LINE} s")
        elif not self.choice and not self.feed and now - self._heard > _SILENCE:
            self._refuse("Timeout", f"nothing was asked for {_SILENCE} s")

    def allow(self, rights: Rights) -> None:
        """Go by other rights from here on: one who may no more is sent away, with the reason."""
        before, self.rights = self.rights, rights
        if self._transport.is_closing():
            return
        if not rights.ask:
            self._refuse("Forbidden", "who may ask has changed, and you may not any more")
        elif self.feed and rights.content != before.content:
            self.ended("what you may see has changed: ask again")

    def finish(self) -> None:
        """Hang up once everything is sent."""
        self._is_full = False
        self._tell_lost()
        if self.feed:
            self._finishing = True
            self.feed.finish()
        else:
            self._transport.close()

    def abort(self) -> None:
        """Hang up at once."""
        self._transport.abort()

    def describe(self) -> dict[str, Any]:
        """Return what `status` says of this client."""
        return {
            "pid": self.peer.pid,
            "uid": self.peer.uid,
            "gid": self.peer.gid,
            "content": self.rights.content,
            "tailing": self.choice is not None or self.feed is not None,
            "sent": self.sent,
            "dropped": self.dropped,
            "buffered": self._transport.get_write_buffer_size(),
        }

    def _refuse(self, kind: str, message: str) -> None:
        """Say why, and hang up; lines before that are whole."""
        self._stop()
        self._raw.clear()
        self._write(refusal(None, RequestError(kind, message)))
        self._transport.close()

    @property
    def _name(self) -> str:
        return f"pid {self.peer.pid}, uid {self.peer.uid}, gid {self.peer.gid}"

    # ---- requests ------------------------------------------------------------------------------

    def _wait_for_turn(self) -> None:
        """Answer the next request soon, but not before others had their turn."""
        waits = self._turn or self._answering or self._is_full or not self._raw
        if not waits and not self._transport.is_closing():
            delay = self._clients.shares[self.peer.uid].wait()
            self._turn = asyncio.get_running_loop().call_later(delay, self._take_turn)

    def _take_turn(self) -> None:
        """Look at what has come, up to the end of a line."""
        self._turn = None
        end = self._raw.find(b"\n") + 1 or len(self._raw)
        part = bytes(self._raw[:end])
        del self._raw[:end]
        if len(self._raw) < LINE_MAX:
            self._transport.resume_reading()
        for line in self._reader.feed(part):
            if line != b"":
                self._answering = asyncio.get_running_loop().create_task(self._respond(line))
                self._answering.add_done_callback(self._end_turn)
        self._wait_for_turn()

    def _end_turn(self, task: asyncio.Task[None]) -> None:
        self._answering = None
        if not task.cancelled() and (error := task.exception()):
            _log.error("a request could not be answered: %s", self._name, exc_info=error)
            self.abort()
        self._wait_for_turn()

    async def _respond(self, line: bytes | None) -> None:
        """Answer a request; a tail with a reader is answered later."""
        request_id = None
        began, self._apart = time.thread_time(), 0.0
        try:
            if line is None:
                raise RequestError("LineTooLong", "a request has at most 64 KiB")
            request = parse_request(line)
            request_id = request.id
            if request.op == "tail":
                await self._begin(request)
            elif request.op == "stop":
                check_arguments("stop", request.args, ())
                self._stop()
                self._write(answer(request, {"sent": self.sent, "dropped": self.dropped}))
            else:
                self._write(await self._perform(request))
        except ProtocolError as error:
            if not self._transport.is_closing():
                self._write(refusal(request_id, error))
        spent = time.thread_time() - began - self._apart
        self._clients.shares[self.peer.uid].spend(spent)

    async def _wait(self, what: Awaitable[Awaited]) -> Awaited:
        """Wait; what others do meanwhile is not this user's."""
        began = time.thread_time()
        try:
            return await what
        finally:
            self._apart += time.thread_time() - began

    async def _perform(self, request: Request) -> bytes:
        operations = self._clients.source.operations
        operation = operations.get(request.op)
        if operation is None:
            names = ", ".join(sorted([*operations, "tail", "stop"]))
            raise RequestError("UnknownOp", f"op: {request.op!r} is unknown; there are {names}")
        check_arguments(request.op, request.args, operation.arguments)
        if operation.control and not self.rights.control:
            raise RequestError("Forbidden", f"{request.op} is for root")
        made = await self._wait(operation.answer(request.args, self.peer, self.rights))
        return answer_made(request, made.text, truncated=made.truncated)

    async def _begin(self, request: Request) -> None:
        source, settings, now = self._clients.source, self._clients.settings, time.time()
        selection = parse_selection(request.args, settings.configured, now)
        if self.choice is not None or self.feed is not None:
            raise RequestError("Busy", "this connection tails already; stop ends that")
        if not settings.numbered and (selection.from_seq or selection.since is not None):
            raise RequestError("BadArgument", "from_seq, since: lines have no number and no time")
        newest = source.about().get("newest", 0)
        if selection.from_seq is not None and selection.from_seq > newest + 1:
            raise RequestError("BadArgument", f"from_seq: the newest line is {newest}")
        if selection.is_plain:
            await self._wait(source.follow())
            self._tail, self._untold = request, 0
            self.choice = self._clients.choose(selection)
            self._write(answer(request, {}))
            return
        if reason := self._clients.has_no_reader_for(self):
            raise RequestError("TooManyReaders", reason)
        self._clients.shares[self.peer.uid].spend(_READER_COST)
        self._tail, self._untold = request, 0
        server = self._clients.fork_server
        most = min(settings.client_buffer, _FEED_MAX)
        self.feed = Feed(self, most, server, numbered=settings.numbered)
        asked = {
            "args": request.args,
            "configured": settings.configured,
            "now": now,
            "content": self.rights.content,
        }
        reading = asyncio.get_running_loop().create_task(self._read(self.feed, asked, selection))
        self._clients.readers[reading] = self.peer.uid
        reading.add_done_callback(self._clients.readers.pop)

    async def _read(self, feed: Feed, asked: dict[str, Any], selection: Selection) -> None:
        """Have a reader run; the past ends for it where `listen` begins, or a little later."""
        source = self._clients.source
        try:
            joint: Joint = await source.follow()
            feed.listen()
            if selection.tree is not None:
                joint = await source.tree(selection.tree)
            await feed.run({**asked, "log": source.log.path}, joint)
        except (OSError, ProtocolError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            if self.feed is feed:
                self._stop()
                failed = RequestError("Failed", f"no reader could be started: {why}")
                self._write(refusal(self._tail.id, failed))

    def _stop(self) -> None:
        """Send no more events; what was left out is told."""
        self.choice = None
        if self.feed:
            self.feed.close()
            self.feed = None
        if not self._transport.is_closing():
            self._tell_lost()
        self._untold = 0
