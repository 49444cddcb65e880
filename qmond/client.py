"""Clients of the daemon's socket: `Client`, and `AsyncClient` for asyncio.

    import json
    from qmond.client import Client

    with Client() as qmond:
        for line in qmond.tail(events=["WRITE"], guest="*/sensor", last=100, follow=False):
            print(json.loads(line)["buf"])

`follow` and `follow_async` reconnect after a restart of the daemon, and miss no line. An argument
that is None is not sent. docs/client.md describes the client, docs/protocol.md all operations and
their arguments. The client needs only the standard library and the daemon's socket.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any, Final, Self, Unpack

from qmond import wire
from qmond.asyncclient import AsyncClient
from qmond.cursor import Choice, Cursor
from qmond.errors import ProtocolError, QmondError, RequestError
from qmond.wire import DEFAULT_SOCKET

__all__ = [
    "DEFAULT_SOCKET",
    "AsyncClient",
    "Choice",
    "Client",
    "ProtocolError",
    "QmondError",
    "RequestError",
    "follow",
    "follow_async",
]

_PAUSE: Final = 1.0
"""Seconds before `follow` connects again."""


class Client:
    """One connection to the daemon, for one thread. It has one tail at a time.

    A request ends the tail that is open. So does closing the iterator of the tail, which a `break`
    out of its loop does. `with` closes the connection.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, timeout: float | None = None
    ) -> None:
        """Connect to the socket at `path`. The default is $QMOND_SOCKET, then DEFAULT_SOCKET.

        Raises QmondError if there is no daemon or the caller may not connect, ProtocolError if the
        other side does not speak this version of the protocol. So does whatever takes longer than
        `timeout` seconds, except the lines of a tail; then the connection is of no more use.
        """
        wire.check_timeout(timeout)
        self._path = wire.socket_path(path)
        self._timeout = timeout
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(str(self._path))
        except OSError as error:
            self._socket.close()
            if isinstance(error, TimeoutError):
                raise wire.late(self._path, timeout) from error
            raise wire.unreachable(self._path, error) from error
        self._stream = self._socket.makefile("rb")
        self._requests = 0
        self._tail: int | None = None  # the number of the request whose lines may be read
        self._is_reading = False
        self.truncated = False
        """Whether the daemon cut the last answer, because it was too long."""
        self.about: dict[str, Any]
        """The daemon's greeting: version, boot_id, capabilities, oldest and newest line."""
        try:
            self.about = wire.greeting(self._path, self._read())
        except QmondError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. A thread that waits for a line of `tail` stops waiting."""
        self._tail = None
        with contextlib.suppress(OSError):  # the daemon has closed it already
            self._socket.shutdown(socket.SHUT_RDWR)
        self._stream.close()
        self._socket.close()

    def status(self) -> dict[str, Any]:
        """Return the state of the daemon and its counters. Raises RequestError."""
        status: dict[str, Any] = self.request("status")
        return status

    def ps(self) -> list[dict[str, Any]]:
        """Return the watched processes. Raises RequestError."""
        processes: list[dict[str, Any]] = self.request("ps")
        return processes

    def events(self) -> list[dict[str, Any]]:
        """Return the table of events, each with its keys. Raises RequestError."""
        table: list[dict[str, Any]] = self.request("events")
        return table

    def config(self) -> dict[str, Any]:
        """Return the configuration in force. Raises RequestError."""
        config: dict[str, Any] = self.request("config")
        return config

    def log_level(self, level: str | None = None) -> str:
        """Set the least level of the daemon's own messages, if given, and return it; for root."""
        current: str = self.request("log-level", level=level)
        return current

    def rotate(self) -> dict[str, Any]:
        """Make the daemon begin a new log file; returns the `path` of the old one. For root."""
        answer: dict[str, Any] = self.request("rotate")
        return answer

    def reload(self) -> dict[str, Any]:
        """Make the daemon read its configuration again. For root.

        In the answer, `restart` lists the changed keys that need a restart. If the file has faults,
        the old configuration stays in force, and a RequestError lists all of them.
        """
        answer: dict[str, Any] = self.request("reload")
        return answer

    def tail(self, **choice: Unpack[Choice]) -> Generator[bytes, None, None]:
        """Yield the lines that match a Choice, as JSON without the newline.

        With `follow=False`, the iterator ends after the last past line. Otherwise it ends after
        `until`, or when the daemon stops. It may be left early, or closed: the connection then
        takes other requests. Raises RequestError at the call if the daemon refuses the request.
        While iterating, raises ProtocolError if the connection or the tail fails, QmondError if a
        request ended the tail.
        """
        self.request("tail", **choice)
        self._socket.settimeout(None)
        self._tail = self._requests
        return self._lines(self._tail)

    def request(self, op: str, /, **args: Any) -> Any:  # noqa: ANN401 - any JSON value
        """Send a request for any operation, and return its answer.

        Raises RequestError if the daemon refuses it, ProtocolError if the connection fails.
        """
        if self._tail is not None:
            self._stop_tail()
        self._send(op, args, self._timeout)
        answer, self.truncated = wire.answer(self._path, self._read(), self._requests)
        return answer

    def _lines(self, tail: int) -> Generator[bytes, None, None]:
        try:
            while (line := self._next_line(tail)) is not None:
                yield line
        finally:
            if self._tail == tail:
                self._stop_tail()

    def _next_line(self, tail: int) -> bytes | None:
        """Return the next line of a tail, or None at its end."""
        if self._tail != tail:
            raise wire.closed(self._path) if self._stream.closed else wire.ended(self._path)
        self._tail = None
        line = self._read()
        if not line or wire.is_end(self._path, line):
            return None
        self._tail = tail
        return line.rstrip(b"\n")

    def _stop_tail(self) -> None:
        """End the tail, and skip what has been sent of it; close the connection if that fails."""
        self._tail = None
        end = time.monotonic() + wire.STOP_MAX
        try:
            self._send("stop", {}, wire.STOP_MAX)
            while wire.is_before(self._path, line := self._read(), self._requests):
                if time.monotonic() > end:
                    raise TimeoutError
            wire.answer(self._path, line, self._requests)
        except (OSError, QmondError):
            self.close()

    def _send(self, op: str, args: dict[str, Any], timeout: float | None) -> None:
        if self._is_reading:
            raise wire.in_use(self._path, "thread")
        self._requests += 1
        try:
            self._socket.settimeout(timeout)
            self._socket.sendall(wire.request(self._requests, op, args))
        except OSError as error:
            raise self._lost(error) from error

    def _read(self) -> bytes:
        self._is_reading = True
        try:
            return self._stream.readline(wire.LINE_MAX)
        except (OSError, ValueError) as error:  # ValueError: it was closed meanwhile
            raise self._lost(error) from error
        except BaseException:  # ^C in the middle of a line, whose beginning is gone
            self.close()
            raise
        finally:
            self._is_reading = False

    def _lost(self, error: Exception) -> ProtocolError:
        if isinstance(error, TimeoutError):
            return wire.late(self._path, self._socket.gettimeout())
        return wire.closed(self._path) if self._stream.closed else wire.hung_up(self._path)


# ---- across restarts -----------------------------------------------------------------------------


def follow(
    path: str | os.PathLike[str] | None = None,
    *,
    choose: Callable[[Client], Choice] | None = None,
    on_retry: Callable[[QmondError], None] | None = None,
    timeout: float | None = None,
    **choice: Unpack[Choice],
) -> Generator[bytes, None, None]:
    """Yield lines as `Client.tail` does, across restarts of the daemon, each line once.

    The generator ends after `until`, otherwise not by itself. It connects when the first line is
    requested. `choose` is called after each connect; what it returns overrides `choice`. `on_retry`
    is called with each error before the generator connects again. Raises QmondError if the first
    connect fails, or if lines have no `seq`; RequestError if the daemon refuses the request. Client
    has the meaning of `timeout`.
    """
    cursor = Cursor(choice)
    while True:
        try:
            with Client(path, timeout=timeout) as client:
                changes = choose(client) if choose else Choice()
                lines = client.tail(**cursor.ask(client.about, changes))
                for line in lines:  # named: the client is closed before it is
                    cursor.take(line)
                    yield line
            if cursor.is_over():
                return
        except QmondError as error:
            if not cursor.may_retry(error):
                raise
            if on_retry:
                on_retry(error)
        time.sleep(_PAUSE)


async def follow_async(
    path: str | os.PathLike[str] | None = None,
    *,
    choose: Callable[[AsyncClient], Awaitable[Choice]] | None = None,
    on_retry: Callable[[QmondError], None] | None = None,
    **choice: Unpack[Choice],
) -> AsyncGenerator[bytes, None]:
    """Yield lines as `follow` does, for asyncio.

    The connection is closed when a task that waits for a line is cancelled. To leave the loop in
    another way, close the generator with `contextlib.aclosing`.
    """
    import asyncio  # noqa: PLC0415 - for these programs alone

    cursor = Cursor(choice)
    while True:
        try:
            async with AsyncClient(path) as client:
                changes = await choose(client) if choose else Choice()
                tail = client.tail(**cursor.ask(client.about, changes))
                async with contextlib.aclosing(tail) as lines:
                    async for line in lines:
                        cursor.take(line)
                        yield line
            if cursor.is_over():
                return
        except QmondError as error:
            if not cursor.may_retry(error):
                raise
            if on_retry:
                on_retry(error)
        await asyncio.sleep(_PAUSE)
