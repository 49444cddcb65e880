"""A client of the daemon's socket, for programs: `Client`, and `AsyncClient` for asyncio.

    with Client() as qmond:
        for line in qmond.tail(events=["READ"], guest="*/sh", last=100):
            print(json.loads(line)["buf"])

`follow`, and `follow_async`, come back when the daemon was restarted, and miss nothing.

It needs nothing of the daemon but its socket, and only the standard library. What can be asked is
in docs/protocol.md; arguments that are None are left out.
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
"""Bytes; no line of the daemon's is as long: an answer has at most 4 MiB, and says what was cut."""
_MESSAGES: Final = (b'{"id":', b'{"end":', b'{"error":')
"""How what is no event begins; no event has such a key."""
_PAUSE: Final = 1.0
"""Seconds between two tries to reach a daemon that is away."""


class Client:
    """One connection to the daemon; until a tail has ended, it can be asked nothing else."""

    def __init__(self, path: Path | None = None) -> None:
        """Connect to `path`, to $QMOND_SOCKET, or to where the daemon is by default.

        Raises QmondError where there is no daemon or it may not be asked, ProtocolError where it
        does not speak this protocol.
        """
        self._path = _where(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(str(self._path))
        except OSError as error:
            self._socket.close()
            raise _unreachable(self._path, error) from error
        self._stream = self._socket.makefile("rb")
        self._requests = 0
        self.truncated = False
        """Whether the last answer was cut: there was more than an answer may be long."""
        self.about: dict[str, Any]
        """Who the daemon is: version, boot_id, capabilities, oldest and newest line."""
        try:
            self.about = _greeted(self._path, self._stream.readline(_LINE_MAX))
        except OSError as error:
            self.close()
            raise _hung_up(self._path) from error
        except QmondError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; a thread that waits for a line of this client has come to the end then."""
        with contextlib.suppress(OSError):  # the daemon was first
            self._socket.shutdown(socket.SHUT_RDWR)
        self._stream.close()
        self._socket.close()

    def status(self) -> dict[str, Any]:
        """Return what the daemon says of itself and of its books. Raises RequestError."""
        status: dict[str, Any] = self.request("status")
        return status

    def ps(self) -> list[dict[str, Any]]:
        """Return the processes under watch. Raises RequestError."""
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
        """Return how much the daemon says of itself, after changing it to `level`; for root."""
        found: str = self.request("log-level", level=level)
        return found

    def rotate(self) -> dict[str, Any]:
        """Have the daemon begin a new log file, and return the old one's `path`; for root."""
        found: dict[str, Any] = self.request("rotate")
        return found

    def reload(self) -> dict[str, Any]:
        """Have the daemon read its configuration anew; `restart` names keys that wait for one.

        For root. Raises RequestError with every fault of the new one, and then the old one stays.
        """
        found: dict[str, Any] = self.request("reload")
        return found

    def tail(self, **choice: Unpack[Choice]) -> Iterator[bytes]:
        """Yield the lines of events, without their newlines, as they come: a Choice of them.

        It ends when the daemon does, or with `follow=False` at the present. Raises RequestError
        at once where the daemon refuses; ProtocolError where it ends the tail for another reason.
        """
        self.request("tail", **choice)
        return self._lines()

    def request(self, op: str, /, **args: Any) -> Any:  # noqa: ANN401 - any JSON value
        """Ask for anything, and return the answer. Raises RequestError, ProtocolError."""
        self._requests += 1
        try:
            self._socket.sendall(_request(self._requests, op, args))
            line = self._stream.readline(_LINE_MAX)
        except OSError as error:
            raise _hung_up(self._path) from error
        found, self.truncated = _answered(self._path, line)
        return found

    def _lines(self) -> Iterator[bytes]:
        try:
            while line := self._stream.readline(_LINE_MAX):
                if _is_end(self._path, line):
                    return
                yield line.rstrip(b"\n")
        except OSError as error:
            raise _hung_up(self._path) from error


class AsyncClient:
    """The same for asyncio: `async with AsyncClient() as qmond`, and what it gives is awaited."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = _where(path)
        self._requests = 0
        self.truncated = False
        """Whether the last answer was cut: there was more than an answer may be long."""
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self.about: dict[str, Any] = {}

    async def __aenter__(self) -> Self:
        """Connect. Raises QmondError, ProtocolError."""
        import asyncio  # noqa: PLC0415 - a third of qmonctl's start, which needs none

        try:
            self._reader, self._writer = await asyncio.open_unix_connection(
                self._path, limit=_LINE_MAX
            )
        except OSError as error:
            raise _unreachable(self._path, error) from error
        try:
            self.about = _greeted(self._path, await self._reader.readline())
        except ValueError as error:  # of asyncio, for what is longer than the limit
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
        """Hang up."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def status(self) -> dict[str, Any]:
        """Return what the daemon says of itself. Raises RequestError."""
        status: dict[str, Any] = await self.request("status")
        return status

    async def ps(self) -> list[dict[str, Any]]:
        """Return the processes under watch. Raises RequestError."""
        processes: list[dict[str, Any]] = await self.request("ps")
        return processes

    async def tail(self, **choice: Unpack[Choice]) -> AsyncGenerator[bytes, None]:
        """Yield the lines of events as `Client.tail` does: `async for line in qmond.tail()`."""
        await self.request("tail", **choice)
        try:
            async for line in self._reader:
                if _is_end(self._path, line):
                    return
                yield line.rstrip(b"\n")
        except OSError as error:
            raise _hung_up(self._path) from error
        except ValueError as error:  # of asyncio, for what is longer than the limit
            raise _too_long(self._path) from error

    async def request(self, op: str, /, **args: Any) -> Any:  # noqa: ANN401 - any JSON value
        """Ask for anything, and return the answer. Raises RequestError, ProtocolError."""
        self._requests += 1
        self._writer.write(_request(self._requests, op, args))
        try:
            line = await self._reader.readline()
        except OSError as error:
            raise _hung_up(self._path) from error
        except ValueError as error:  # of asyncio, for what is longer than the limit
            raise _too_long(self._path) from error
        found, self.truncated = _answered(self._path, line)
        return found


# ---- across restarts -----------------------------------------------------------------------------


def follow(
    path: Path | None = None,
    *,
    choose: Callable[[Client], Choice] | None = None,
    on_retry: Callable[[QmondError], None] | None = None,
    **choice: Unpack[Choice],
) -> Generator[bytes, None, None]:
    """Yield lines as `Client.tail` does, for ever: across restarts of the daemon, each line once.

    It connects when the first line is asked for. `choose` is asked after each connect for what
    depends on the daemon, and goes over `choice`; `on_retry` is told of each fault that leads to
    another try. Raises QmondError where there is no daemon to begin with, where `fields` has no
    `seq` or lines have none; RequestError whenever the daemon refuses.
    """
    cursor = Cursor(choice)
    while True:
        try:
            with Client(path) as client:
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

    A task that is cancelled while it waits for a line hangs up. Who leaves the loop in another way
    hangs up with `contextlib.aclosing`.
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


# ---- the protocol, for both ----------------------------------------------------------------------


def _where(path: Path | None) -> Path:
    return path or Path(os.environ.get("QMOND_SOCKET", DEFAULT_SOCKET))


def _hung_up(path: Path) -> ProtocolError:
    return ProtocolError(f"{path}: the daemon hung up")


def _unreachable(path: Path, error: OSError) -> QmondError:
    return QmondError(f"{path}: {error.strerror}", hint=_hint(error))


def _hint(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "only root and the members of the daemon's group may ask it: `id`, `qmonctl doctor`"
    return "is the daemon running? `systemctl status qmond`, or start `qmond` as root"


def _request(number: int, op: str, args: dict[str, Any]) -> bytes:
    given = {
        key: value if isinstance(value, str | int | float) else list(value)
        for key, value in args.items()
        if value is not None
    }
    return json.dumps({"id": number, "op": op, "args": given}).encode() + b"\n"


def _greeted(path: Path, line: bytes) -> dict[str, Any]:
    about: dict[str, Any] = _message(path, line).get("qmond", {})
    if about.get("protocol") != _PROTOCOL:
        raise ProtocolError(f"{path}: this is no qmond of protocol {_PROTOCOL}")
    return about


def _too_long(path: Path) -> ProtocolError:
    return ProtocolError(f"{path}: the daemon sent a line of more than {_LINE_MAX >> 20} MiB")


def _answered(path: Path, line: bytes) -> tuple[Any, bool]:
    """Return an answer, and whether it was cut."""
    message = _message(path, line)
    if "ok" not in message:
        raise ProtocolError(f"{path}: the daemon gave no answer: {line[:100]!r}")
    return message["ok"], message.get("truncated") is True


def _is_end(path: Path, line: bytes) -> bool:
    """Say whether events end here. Raises RequestError, ProtocolError where that is no good end."""
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
        raise ProtocolError(f"{path}: the daemon hung up")
    if len(line) >= _LINE_MAX:
        raise _too_long(path)
    try:
        message = json.loads(line)
    except ValueError as error:
        raise ProtocolError(f"{path}: the daemon sent what is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise ProtocolError(f"{path}: the daemon sent no object")
    if "error" in message:
        raise RequestError(message["error"]["class"], message["error"]["message"])
    return message
