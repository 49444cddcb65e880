"""Clients of the daemon's socket: `Client`, and `AsyncClient` for asyncio.

    with Client() as qmond:
        for line in qmond.tail(events=["READ"], guest="*/sh", last=100):
            print(json.loads(line)["buf"])

`follow` and `follow_async` reconnect after a restart of the daemon, and miss no line.

The module needs only the standard library and the daemon's socket. docs/protocol.md describes the
operations and their arguments. An argument that is None is not sent.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, Unpack

from qmond.cursor import Choice, Cursor
from qmond.errors import ProtocolError, QmondError, RequestError

if TYPE_CHECKING:
    import asyncio

__all__ = ["DEFAULT_SOCKET", "AsyncClient", "Choice", "Client", "follow", "follow_async"]

DEFAULT_SOCKET: Final = Path("/run/qmond/qmond.sock")
_PROTOCOL: Final = 1
_LINE_MAX: Final = 8 << 20
"""Bytes. The daemon sends no longer line: it cuts an answer at 4 MiB, and marks it as truncated."""
_MESSAGES: Final = (b'{"id":', b'{"end":', b'{"error":')
"""The beginnings of the lines that are not events; no event has one of these keys."""
_PAUSE: Final = 1.0
"""Seconds before `follow` connects again."""


class Client:
    """One connection to the daemon. While a tail runs, it takes no other request."""

    def __init__(self, path: Path | None = None, *, timeout: float | None = None) -> None:
        """Connect to the socket at `path`. The default is $QMOND_SOCKET, then DEFAULT_SOCKET.

        Raises QmondError if there is no daemon or the caller may not connect, ProtocolError if the
        other side does not speak this version of the protocol. So does whatever takes longer than
        `timeout` seconds, except the lines of a tail; then the connection is of no more use.
        """
        self._path = _socket_path(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(str(self._path))
        except OSError as error:
            self._socket.close()
            raise _unreachable(self._path, error) from error
        self._stream = self._socket.makefile("rb")
        self._requests = 0
        self.truncated = False
        """Whether the daemon cut the last answer, because it was too long."""
        self.about: dict[str, Any]
        """The daemon's greeting: version, boot_id, capabilities, oldest and newest line."""
        try:
            self.about = _greeting(self._path, self._stream.readline(_LINE_MAX))
        except OSError as error:
            self.close()
            raise _lost(self._path, error, timeout) from error
        except QmondError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. A thread that waits for a line of `tail` stops waiting."""
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

    def tail(self, **choice: Unpack[Choice]) -> Iterator[bytes]:
        """Yield the lines that match a Choice, as JSON without the newline.

        With `follow=False`, the iterator ends after the last past line. Otherwise it ends when the
        daemon stops. Raises RequestError at the call if the daemon refuses the request, and
        ProtocolError while iterating if the connection or the tail fails.
        """
        self.request("tail", **choice)
        self._socket.settimeout(None)
        return self._lines()

    def request(self, op: str, /, **args: Any) -> Any:  # noqa: ANN401 - any JSON value
        """Send a request for any operation, and return its answer.

        Raises RequestError if the daemon refuses it, ProtocolError if the connection fails.
        """
        self._requests += 1
        try:
            self._socket.sendall(_request(self._requests, op, args))
            line = self._stream.readline(_LINE_MAX)
        except OSError as error:
            raise _lost(self._path, error, self._socket.gettimeout()) from error
        answer, self.truncated = _answer(self._path, line)
        return answer

    def _lines(self) -> Iterator[bytes]:
        try:
            while line := self._stream.readline(_LINE_MAX):
                if _is_end(self._path, line):
                    return
                yield line.rstrip(b"\n")
        except OSError as error:
            raise _hung_up(self._path) from error


class AsyncClient:
    """A `Client` for asyncio: `async with AsyncClient() as qmond` connects and closes."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = _socket_path(path)
        self._requests = 0
        self.truncated = False
        """Whether the daemon cut the last answer, because it was too long."""
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self.about: dict[str, Any] = {}

    async def __aenter__(self) -> Self:
        """Connect. Raises QmondError, ProtocolError."""
        import asyncio  # noqa: PLC0415 - a third of qmonctl's start time, which does not need it

        try:
            self._reader, self._writer = await asyncio.open_unix_connection(
                self._path, limit=_LINE_MAX
            )
        except OSError as error:
            raise _unreachable(self._path, error) from error
        try:
            self.about = _greeting(self._path, await self._reader.readline())
        except ValueError as error:  # asyncio's, for a line beyond the limit
            await self.close()
            raise _too_long(self._path) from error
        except OSError as error:
            await self.close()
            raise _hung_up(self._path) from error
        except (QmondError, asyncio.CancelledError):
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def status(self) -> dict[str, Any]:
        """Return the state of the daemon and its counters. Raises RequestError."""
        status: dict[str, Any] = await self.request("status")
        return status

    async def ps(self) -> list[dict[str, Any]]:
        """Return the watched processes. Raises RequestError."""
        processes: list[dict[str, Any]] = await self.request("ps")
        return processes

    async def tail(self, **choice: Unpack[Choice]) -> AsyncGenerator[bytes, None]:
        """Yield lines as `Client.tail` does: `async for line in qmond.tail()`."""
        await self.request("tail", **choice)
        try:
            async for line in self._reader:
                if _is_end(self._path, line):
                    return
                yield line.rstrip(b"\n")
        except OSError as error:
            raise _hung_up(self._path) from error
        except ValueError as error:  # asyncio's, for a line beyond the limit
            raise _too_long(self._path) from error

    async def request(self, op: str, /, **args: Any) -> Any:  # noqa: ANN401 - any JSON value
        """Send a request for any operation, and return its answer.

        Raises RequestError if the daemon refuses it, ProtocolError if the connection fails.
        """
        self._requests += 1
        self._writer.write(_request(self._requests, op, args))
        try:
            line = await self._reader.readline()
        except OSError as error:
            raise _hung_up(self._path) from error
        except ValueError as error:  # asyncio's, for a line beyond the limit
            raise _too_long(self._path) from error
        answer, self.truncated = _answer(self._path, line)
        return answer


# ---- across restarts -----------------------------------------------------------------------------


def follow(
    path: Path | None = None,
    *,
    choose: Callable[[Client], Choice] | None = None,
    on_retry: Callable[[QmondError], None] | None = None,
    timeout: float | None = None,
    **choice: Unpack[Choice],
) -> Generator[bytes, None, None]:
    """Yield lines as `Client.tail` does, across restarts of the daemon, each line once.

    The generator does not end by itself. It connects when the first line is requested. `choose` is
    called after each connect; what it returns overrides `choice`. `on_retry` is called with each
    error before the generator connects again. Raises QmondError if the first connect fails, or if
    lines have no `seq`; RequestError if the daemon refuses the request. `timeout`: see Client.
    """
    cursor = Cursor(choice)
    while True:
        try:
            with Client(path, timeout=timeout) as client:
                changes = choose(client) if choose else Choice()
                for line in client.tail(**cursor.ask(client.about, changes)):
                    cursor.take(line)
                    yield line
        except QmondError as error:
            if not cursor.may_retry(error):
                raise
            if on_retry:
                on_retry(error)
        time.sleep(_PAUSE)


async def follow_async(
    path: Path | None = None,
    *,
    choose: Callable[[AsyncClient], Awaitable[Choice]] | None = None,
    on_retry: Callable[[QmondError], None] | None = None,
    **choice: Unpack[Choice],
) -> AsyncGenerator[bytes, None]:
    """Yield lines as `follow` does, for asyncio.

    The connection is closed when a task that waits for a line is cancelled. To leave the loop in
    another way, close the generator with `contextlib.aclosing`.
    """
    import asyncio  # noqa: PLC0415 - as above

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
        except QmondError as error:
            if not cursor.may_retry(error):
                raise
            if on_retry:
                on_retry(error)
        await asyncio.sleep(_PAUSE)


# ---- the protocol of both clients ------------------------------------------------------------


def _socket_path(path: Path | None) -> Path:
    return path or Path(os.environ.get("QMOND_SOCKET", DEFAULT_SOCKET))


def _hung_up(path: Path) -> ProtocolError:
    return ProtocolError(f"{path}: the daemon hung up")


def _lost(path: Path, error: OSError, timeout: float | None) -> ProtocolError:
    if isinstance(error, TimeoutError):
        why = "is it overloaded? See `journalctl -u qmond`"
        return ProtocolError(f"{path}: the daemon did not answer within {timeout:g} s", hint=why)
    return _hung_up(path)


def _unreachable(path: Path, error: OSError) -> QmondError:
    return QmondError(f"{path}: {error.strerror}", hint=_hint(error))


def _hint(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "only root and the members of the daemon's group may connect: see `qmonctl doctor`"
    return "is the daemon running? `systemctl status qmond`, or start `qmond` as root"


def _request(number: int, op: str, args: dict[str, Any]) -> bytes:
    given = {
        key: value if isinstance(value, str | int | float) else list(value)
        for key, value in args.items()
        if value is not None
    }
    return json.dumps({"id": number, "op": op, "args": given}).encode() + b"\n"


def _greeting(path: Path, line: bytes) -> dict[str, Any]:
    about: dict[str, Any] = _message(path, line).get("qmond", {})
    if about.get("protocol") != _PROTOCOL:
        raise ProtocolError(
            f"{path}: this is not qmond, or not version {_PROTOCOL} of its protocol"
        )
    return about


def _too_long(path: Path) -> ProtocolError:
    return ProtocolError(f"{path}: the daemon sent a line of more than {_LINE_MAX >> 20} MiB")


def _answer(path: Path, line: bytes) -> tuple[Any, bool]:
    """Return the answer in a line, and whether the daemon cut it."""
    message = _message(path, line)
    if "ok" not in message:
        raise ProtocolError(
            f"{path}: the daemon sent something else than an answer: {line[:100]!r}"
        )
    return message["ok"], message.get("truncated") is True


def _is_end(path: Path, line: bytes) -> bool:
    """Whether a line ends the tail. Raises RequestError or ProtocolError if the tail failed."""
    if not line.endswith(b"\n"):
        if len(line) >= _LINE_MAX:
            raise _too_long(path)
        raise ProtocolError(f"{path}: the daemon hung up in the middle of a line")
    if not line.startswith(_MESSAGES):
        return False
    message = _message(path, line)
    reason = message.get("end", {}).get("reason")
    if reason not in {None, "complete"}:
        raise ProtocolError(f"{path}: {reason}")
    return reason is not None


def _message(path: Path, line: bytes) -> dict[str, Any]:
    if not line:
        raise _hung_up(path)
    if len(line) >= _LINE_MAX:
        raise _too_long(path)
    try:
        message = json.loads(line)
    except ValueError as error:
        raise ProtocolError(f"{path}: the daemon sent a line that is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise ProtocolError(f"{path}: the daemon sent a line that is not a JSON object")
    if "error" in message:
        raise RequestError(message["error"]["class"], message["error"]["message"])
    return message
