"""The hub and its socket: lines go out to each client that wants them, and nothing waits for one.

A client has a bounded buffer. Past it, whole lines are left out, counted, and told in its own
stream as DROPPED as soon as there is room again.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from struct import unpack
from typing import Any, Protocol

from qmond import __version__
from qmond.config import Socket
from qmond.errors import InUseError, ProtocolError, QmondError, RequestError
from qmond.protocol import (
    EVERYTHING,
    LineReader,
    Request,
    Selection,
    answer,
    greeting,
    parse_request,
    parse_selection,
    refusal,
)

__all__ = ["Batch", "Hub", "Lock"]

_log = logging.getLogger(__name__)


class Batch(Protocol):
    """Lines that come together."""

    def __len__(self) -> int:
        """How many there are."""

    @property
    def data(self) -> memoryview:
        """All of them; valid only now."""

    def select(self, mask: int, pids: frozenset[int] | None) -> tuple[bytes, int]:
        """Return those of some events and processes, and their number."""


class Lock:
    """A file that says: the socket beside it is this process'. It is gone when it is closed."""

    def __init__(self, path: Path) -> None:
        """Take the lock. Raises InUseError where another process has it, OSError."""
        self._path = path
        while True:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(self._fd)
                raise InUseError(
                    f"{path.with_suffix('')}: another qmond has this socket",
                    hint="ask it with `qmonctl status`, or give this one another socket.path",
                ) from error
            if self._is_ours():
                return
            os.close(self._fd)  # its last owner removed it between our two calls

    def close(self) -> None:
        """Remove the file, then let go of it."""
        self._path.unlink(missing_ok=True)
        os.close(self._fd)

    def _is_ours(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._fd))
        except FileNotFoundError:
            return False


class Hub:
    """The socket and its clients.

    `configured` has the events that there are, as bits; `verbs` gives the answers to requests
    that take no arguments; `dropped` makes a DROPPED line from a count.
    """

    def __init__(
        self,
        *,
        boot_id: str,
        configured: int,
        limits: Socket,
        verbs: Mapping[str, Callable[[], Any]],
        dropped: Callable[[int], bytes],
    ) -> None:
        self.boot_id = boot_id
        self.configured = configured
        self.limits = limits
        self.verbs = verbs
        self.dropped = dropped
        self.clients: set[Client] = set()
        self._server: asyncio.Server | None = None
        self._path: Path | None = None

    async def listen(self, path: Path) -> None:
        """Begin to serve; the caller holds the path's lock. Raises QmondError."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.unlink(missing_ok=True)  # left by one that was killed: the lock is ours
            mask = os.umask(0o177)  # root's alone from the first moment on
            try:
                listener.bind(str(path))
            finally:
                os.umask(mask)
            self._server = await asyncio.get_running_loop().create_unix_server(
                lambda: Client(self), sock=listener
            )
        except OSError as error:
            listener.close()
            raise QmondError(f"{path}: {error.strerror}") from error
        self._path = path

    def broadcast(self, batch: Batch) -> None:
        """Hand a batch to every client that tails; the wanted lines are chosen once for equals."""
        chosen: dict[Selection, tuple[bytes, int]] = {}
        for client in tuple(self.clients):
            selection = client.selection
            if selection is None:
                continue
            if selection not in chosen:
                if selection == EVERYTHING:
                    chosen[selection] = bytes(batch.data), len(batch)
                else:
                    chosen[selection] = batch.select(selection.mask, selection.pids)
            client.push(*chosen[selection])

    async def close(self) -> None:
        """Remove the socket, and end each connection once its buffer is out, or after a second."""
        if self._server is None or self._path is None:
            return
        self._path.unlink(missing_ok=True)
        self._server.close()
        for client in tuple(self.clients):
            client.finish()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                while self.clients:
                    await asyncio.sleep(0.01)
        for client in tuple(self.clients):
            client.abort()


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, hub: Hub) -> None:
        self.selection: Selection | None = None
        self.peer = {"pid": 0, "uid": 0, "gid": 0}
        self.sent = 0
        self.dropped = 0
        self._untold = 0
        self._hub = hub
        self._reader = LineReader()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet, or where there are too many, say so and hang up."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        self._transport = transport
        connection = transport.get_extra_info("socket")
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        self.peer = dict(zip(("pid", "uid", "gid"), unpack("=iII", credentials), strict=True))
        if len(self._hub.clients) >= self._hub.limits.max_clients:
            error = RequestError(
                "TooManyClients", f"{self._hub.limits.max_clients} are connected already"
            )
            transport.write(refusal(None, error))
            transport.close()
            return
        half = self._hub.limits.client_buffer // 2
        transport.set_write_buffer_limits(high=half, low=half // 2)
        self._hub.clients.add(self)
        _log.debug("client connected: %s", self.peer)
        transport.write(greeting(__version__, self._hub.boot_id))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        self._hub.clients.discard(self)
        _log.debug("client gone: %s: %s", self.peer, exc or "closed")

    def data_received(self, data: bytes) -> None:
        """Answer each request that is complete."""
        for line in self._reader.feed(data):
            if self._transport.is_closing():
                return
            if self._transport.get_write_buffer_size() > self._hub.limits.client_buffer:
                self.abort()  # it asks and asks, and does not read
                return
            if line != b"":
                self._transport.write(self._respond(line))

    def push(self, lines: bytes, count: int) -> None:
        """Send lines that the client wants, as far as there is room for them."""
        if self._transport.is_closing():
            return
        room = self._hub.limits.client_buffer - self._transport.get_write_buffer_size()
        if self._untold or len(lines) > room:
            self._untold += count
            self.dropped += count
            return
        self._transport.write(lines)
        self.sent += count

    def resume_writing(self) -> None:
        """Tell what was left out, now that there is room again: asyncio calls this."""
        if self._untold:
            self._transport.write(self._hub.dropped(self._untold))
            self._untold = 0

    def finish(self) -> None:
        """Hang up once everything is sent."""
        self.resume_writing()
        self._transport.close()

    def abort(self) -> None:
        """Hang up at once."""
        self._transport.abort()

    def describe(self) -> dict[str, Any]:
        """Return what `status` says of this client."""
        return self.peer | {
            "tailing": self.selection is not None,
            "sent": self.sent,
            "dropped": self.dropped,
            "buffered": self._transport.get_write_buffer_size(),
        }

    def _respond(self, line: bytes | None) -> bytes:
        request_id = None
        try:
            if line is None:
                raise RequestError("LineTooLong", "a request has at most 64 KiB")
            request = parse_request(line)
            request_id = request.id
            return answer(request, self._perform(request))
        except ProtocolError as error:
            return refusal(request_id, error)

    def _perform(self, request: Request) -> object:
        match request.op:
            case "tail":
                selection = parse_selection(request.args, self._hub.configured)
                if self.selection is not None:
                    raise RequestError("Busy", "this connection tails already")
                self.selection = selection
                return {}
            case op if op in self._hub.verbs:
                if request.args:
                    raise RequestError("BadArgument", f"{op} takes no arguments")
                answered: object = self._hub.verbs[op]()
                return answered
            case _:
                raise RequestError("UnknownOp", f"op: {request.op!r} is unknown")
