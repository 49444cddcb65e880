"""One connection: what it asks, what it gets, and how it ends.

A client has a bounded buffer. Past it, whole lines are left out, counted, and told in its own
stream as DROPPED as soon as there is room again. What takes more than a look at a line's event and
process is done by a reader, a process of the client's own (reader.py).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from qmond.access import Peer, Rights, peer_of
from qmond.config import Socket
from qmond.errors import ProtocolError, RequestError
from qmond.feeds import Feed
from qmond.logfile import Position
from qmond.messages import MessageId, about
from qmond.protocol import (
    LineReader,
    Request,
    Selection,
    answer,
    check_arguments,
    farewell,
    greeting,
    parse_request,
    parse_selection,
    refusal,
)
from qmond.verbs import Verb

__all__ = ["Batch", "Client", "Clients", "Source"]

_log = logging.getLogger(__name__)

_SILENCE: Final = 300
"""Seconds after which a client that neither asks nor tails is sent away."""
_HALF_LINE: Final = 10
"""Seconds that a request may take to arrive."""


class Batch(Protocol):
    """Lines that come together."""

    def __len__(self) -> int:
        """How many there are."""

    @property
    def seq(self) -> int:
        """The number of the line that comes after them."""

    @property
    def data(self) -> memoryview:
        """All of them; valid only now."""

    def select(self, mask: int, pids: frozenset[int] | None) -> tuple[bytes, int]:
        """Return those of some events and processes, and their number."""


@dataclass(frozen=True, slots=True)
class Source:
    """What the daemon gives to its clients.

    `configured` has the events that there are, as bits; `verbs` what can be asked beside events;
    `about` says who the daemon is; `dropped` makes a DROPPED line from a count; `log` is its
    directory, `end` the place in it where the past ends now: the live file and its size;
    `numbered` says whether lines have a number and a time; `tree` gives a process' descendants.
    """

    configured: int
    verbs: Mapping[str, Verb]
    about: Callable[[], Mapping[str, Any]]
    dropped: Callable[[int], bytes]
    log: Path
    end: Callable[[], Position]
    numbered: bool
    tree: Callable[[int], list[int]]


class Clients(Protocol):
    """Those who are connected, and what holds for all of them."""

    limits: Socket
    source: Source
    readers: set[asyncio.Task[None]]
    """Those whose process has not ended yet, also of clients that are gone."""

    def enter(self, client: Client) -> bool:
        """Take one more; says whether there was room."""

    def leave(self, client: Client) -> None:
        """Forget one."""

    def rights(self, peer: Peer) -> Rights:
        """Return what a peer may."""


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, clients: Clients) -> None:
        self.selection: Selection | None = None
        self.feed: Feed | None = None
        self.peer = Peer(0, 0, 0, frozenset())
        self.rights = Rights(ask=False, content=False, control=False)
        self.sent = 0
        self.dropped = 0
        self._untold = 0
        self._finishing = self._is_full = False
        self._clients = clients
        self._reader = LineReader()
        self._tail = Request("tail")
        self._heard = self._moved = time.monotonic()
        self._transport: asyncio.Transport

    # ---- asyncio calls these -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet; where it may not ask or there are too many, say so and hang up."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        self._transport = transport
        connection: socket.socket = transport.get_extra_info("socket")
        self.peer = peer_of(connection)
        self.rights = self._clients.rights(self.peer)
        limits = self._clients.limits
        if not self.rights.ask:
            self._refuse("Forbidden", f"neither root nor a member of the group {limits.group}")
        elif not self._clients.enter(self):
            self._refuse("TooManyClients", f"{limits.max_clients} are connected already")
        else:
            half = limits.client_buffer // 2
            transport.set_write_buffer_limits(high=half, low=half // 2)
            _log.info("client connected: %s", self._name)
            transport.write(greeting(self._clients.source.about()))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        self._stop()
        self._clients.leave(self)
        _log.debug("client gone: %s: %s", self._name, exc or "closed")

    def data_received(self, data: bytes) -> None:
        """Answer each request that is complete."""
        self._heard = time.monotonic()
        for line in self._reader.feed(data):
            if self._transport.is_closing():
                return
            if self._transport.get_write_buffer_size() > self._clients.limits.client_buffer:
                self.abort()  # it asks and asks, and does not read
                return
            if line != b"" and (answered := self._respond(line)) is not None:
                self._transport.write(answered)

    def pause_writing(self) -> None:
        """Take note that the buffer is more than half full."""
        self._is_full = True

    def resume_writing(self) -> None:
        """Tell what was left out, now that there is room again."""
        self._is_full = False
        if self._untold:
            self._transport.write(self._clients.source.dropped(self._untold))
            self._untold = 0
        if self.feed:
            self.feed.resume()

    # ---- what goes out -------------------------------------------------------------------------

    def push(self, lines: bytes, count: int) -> None:
        """Send lines that the client wants, as far as there is room for them."""
        if self._transport.is_closing():
            return
        room = self._clients.limits.client_buffer - self._transport.get_write_buffer_size()
        if self._untold or len(lines) > room:
            self._untold += count
            self.dropped += count
            return
        self._transport.write(lines)
        self.sent += count

    def answered(self, found: dict[str, Any]) -> None:
        """Tell what the reader says of the request."""
        if "ok" in found:
            self._transport.write(answer(self._tail, found["ok"]))
        else:
            error = RequestError(found["error"]["class"], found["error"]["message"])
            self._stop()
            self._transport.write(refusal(self._tail.id, error))

    def receive(self, lines: bytes) -> bool:
        """Send what the reader chose; says whether there is room for more."""
        self._transport.write(lines)
        self.sent += lines.count(b"\n")
        return not self._is_full

    def ended(self, reason: str) -> None:
        """Tell that no more events follow."""
        self._stop()
        if not self._transport.is_closing():
            self._transport.write(farewell(self._tail.id, reason))
            if self._finishing:
                self._transport.close()

    # ---- how it ends ---------------------------------------------------------------------------

    def check(self, now: float) -> None:
        """Send the client away where it is silent for too long, or does not read."""
        waiting = self._transport.get_write_buffer_size()
        if waiting <= self._clients.limits.client_buffer // 2:
            self._moved = now
        limit = self._clients.limits.client_timeout
        if self._transport.is_closing():
            if now - self._moved > 2 * limit:
                self.abort()
        elif now - self._moved > limit:
            peer = {"client_pid": self.peer.pid, "client_uid": self.peer.uid}
            _log.warning(
                "client does not read, and is cut off: %s",
                self._name,
                extra=about(MessageId.CLIENT_CUT_OFF, **peer, dropped=self.dropped),
            )
            self._refuse("TooSlow", f"nothing was read for {limit:g} s")
        elif self._reader.begun and now - self._heard > _HALF_LINE:
            self._refuse("Timeout", f"half a request, and nothing more for {_HALF_LINE} s")
        elif not self.selection and not self.feed and now - self._heard > _SILENCE:
            self._refuse("Timeout", f"nothing was asked for {_SILENCE} s")

    def finish(self) -> None:
        """Hang up once everything is sent."""
        self.resume_writing()
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
            "tailing": self.selection is not None or self.feed is not None,
            "sent": self.sent,
            "dropped": self.dropped,
            "buffered": self._transport.get_write_buffer_size(),
        }

    def _refuse(self, kind: str, message: str) -> None:
        """Say why, and hang up; lines before that are whole."""
        self._stop()
        self._transport.write(refusal(None, RequestError(kind, message)))
        self._transport.close()

    @property
    def _name(self) -> str:
        return f"pid {self.peer.pid}, uid {self.peer.uid}, gid {self.peer.gid}"

    # ---- requests ------------------------------------------------------------------------------

    def _respond(self, line: bytes | None) -> bytes | None:
        """Return the answer to a request; None where it comes later."""
        request_id = None
        try:
            if line is None:
                raise RequestError("LineTooLong", "a request has at most 64 KiB")
            request = parse_request(line)
            request_id = request.id
            if request.op == "tail":
                return self._begin(request)
            if request.op == "stop":
                check_arguments("stop", request.args, ())
                self._stop()
                return answer(request, {"sent": self.sent, "dropped": self.dropped})
            return answer(request, self._perform(request))
        except ProtocolError as error:
            return refusal(request_id, error)

    def _perform(self, request: Request) -> object:
        verbs = self._clients.source.verbs
        verb = verbs.get(request.op)
        if verb is None:
            names = ", ".join(sorted([*verbs, "tail", "stop"]))
            raise RequestError("UnknownOp", f"op: {request.op!r} is unknown; there are {names}")
        check_arguments(request.op, request.args, verb.arguments)
        if verb.control and not self.rights.control:
            raise RequestError("Forbidden", f"{request.op} is for root")
        answered: object = verb.answer(request.args)
        return answered

    def _begin(self, request: Request) -> bytes | None:
        source, now = self._clients.source, time.time()
        selection = parse_selection(request.args, source.configured, now)
        if self.selection is not None or self.feed is not None:
            raise RequestError("Busy", "this connection tails already; stop ends that")
        if not source.numbered and (selection.from_seq or selection.since is not None):
            raise RequestError("BadArgument", "from_seq, since: lines have no number and no time")
        newest = source.about().get("newest", 0)
        if selection.from_seq is not None and selection.from_seq > newest + 1:
            raise RequestError("BadArgument", f"from_seq: the newest line is {newest}")
        self._tail, self._untold = request, 0
        if selection.is_plain:
            self.selection = selection
            return answer(request, {})

        def ask() -> dict[str, Any]:
            return {
                "args": request.args,
                "configured": source.configured,
                "now": now,
                "content": self.rights.content,
                "log": str(source.log),
                "end": [*source.end()],
                "members": source.tree(selection.tree) if selection.tree else [],
            }

        self.feed = Feed(self, ask, self._clients.limits.client_buffer)
        reading = asyncio.get_running_loop().create_task(self._read(self.feed))
        self._clients.readers.add(reading)
        reading.add_done_callback(self._clients.readers.discard)
        return None

    async def _read(self, feed: Feed) -> None:
        """Have a reader run."""
        try:
            await feed.run()
        except OSError as error:
            self._stop()
            failed = RequestError("Failed", f"no reader could be started: {error.strerror}")
            self._transport.write(refusal(self._tail.id, failed))

    def _stop(self) -> None:
        """Send no more events; what was left out is told."""
        self.selection = None
        if self.feed:
            self.feed.close()
            self.feed = None
        if self._untold and not self._transport.is_closing():
            self._transport.write(self._clients.source.dropped(self._untold))
        self._untold = 0
