"""How the figures get out: to whoever asks by HTTP on this host, and into a text file.

The HTTP is as little as Prometheus needs: GET /metrics, one request a connection. Whoever comes
may be hostile: connections, bytes and seconds are bounded, and beyond that the kernel lets
others wait. Neither an address that is taken nor a full disk ends the watch: it is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from qmond.access import bind_unix
from qmond.config import Metrics as Config
from qmond.exposition import CONTENT_TYPE

__all__ = ["Exporter", "respond", "write_whole"]

_log = logging.getLogger(__name__)

_PATH: Final = "/metrics"
_PLACES: Final = 8
"""Connections at once."""
_PATIENCE: Final = 5
"""Seconds for a request and its answer."""
_PACE: Final = 0.02
"""Seconds that a place stays taken at least, so that asking in a loop leaves time for the ring."""
_MOST: Final = 8 << 10
"""Bytes of a request."""
_RETRY: Final = 5
"""Seconds until an address that could not be had is tried again."""
_REQUEST: Final = re.compile(rb"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.[01]\r\n")

Text = Callable[[], bytes]


class Exporter:
    """Gives the figures out as the configuration says: `text` to a scrape, `file` as a file."""

    def __init__(self, config: Config, text: Text, file: Text, group: int | None) -> None:
        self._config = config
        self._text = text
        self._file = file
        self._group = group
        self._places = asyncio.Semaphore(_PLACES)

    # ---- by HTTP -------------------------------------------------------------------------------

    async def serve_forever(self) -> None:
        """Answer scrapes, until cancelled."""
        address = self._config.listen
        if address is None:
            return
        told = False
        while True:
            try:
                listener = _listen(address, self._group)
            except OSError as error:
                if not told:
                    _log.warning(
                        "no metrics yet: metrics.listen: %s: %s; tried again every %d s",
                        address,
                        error.strerror,
                        _RETRY,
                    )
                told = True
                await asyncio.sleep(_RETRY)
            else:
                break
        _log.info("metrics: %s", address)
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._accept_forever(listener, tasks)
        finally:
            listener.close()
            if address.startswith("unix:"):
                Path(address.removeprefix("unix:")).unlink(missing_ok=True)

    async def _accept_forever(self, listener: socket.socket, tasks: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._places.acquire()
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError:  # it has gone already, or there are no descriptors left
                self._places.release()
                await asyncio.sleep(_PACE)
                continue
            tasks.create_task(self._serve(connection))

    async def _serve(self, connection: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError, TimeoutError), connection:
                async with asyncio.timeout(_PATIENCE):
                    await self._converse(connection)
            await asyncio.sleep(_PACE)
        finally:
            self._places.release()

    async def _converse(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        request = b""
        while b"\r\n\r\n" not in request and len(request) <= _MOST:
            received = await loop.sock_recv(connection, _MOST)
            if not received:
                return
            request += received
        await loop.sock_sendall(connection, respond(request, self._text))
        # what is not read would make the kernel take back the answer
        connection.shutdown(socket.SHUT_WR)
        for _ in range(16):
            if not await loop.sock_recv(connection, _MOST):
                return

    # ---- into a file ---------------------------------------------------------------------------

    async def write_forever(self) -> None:
        """Write the text file at each interval, until cancelled; then it goes: it would be old."""
        path = self._config.textfile
        if path is None:
            return
        failing = False
        try:
            while True:
                try:
                    await asyncio.to_thread(write_whole, path, self._file())
                except OSError as error:
                    if not failing:
                        _log.warning("metrics.textfile: %s: %s", path, error.strerror)
                    failing = True
                else:
                    failing = False
                await asyncio.sleep(self._config.interval)
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def respond(request: bytes, text: Text) -> bytes:
    """Return the answer to a request, which is whole or has gone on for too long."""
    if b"\r\n\r\n" not in request:
        return _answer("431 Request Header Fields Too Large", f"at most {_MOST} bytes\n".encode())
    found = _REQUEST.match(request)
    if found is None:
        return _answer("400 Bad Request", f"expected GET {_PATH} HTTP/1.1\n".encode())
    method, target = found[1].decode(), found[2].decode()
    if target.partition("?")[0] != _PATH:
        return _answer("404 Not Found", f"there is only {_PATH}\n".encode())
    if method != "GET":
        return _answer("405 Method Not Allowed", b"expected GET\n", "Allow: GET\r\n")
    try:
        return _answer("200 OK", text())
    except OSError as error:
        return _answer("500 Internal Server Error", f"no figures: {error.strerror}\n".encode())


def _answer(status: str, body: bytes, more: str = "") -> bytes:
    kind = CONTENT_TYPE if status.startswith("200") else "text/plain; charset=utf-8"
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}{more}Connection: close\r\n\r\n".encode() + body


def write_whole(path: Path, text: bytes) -> None:
    """Put a text in a file's place, so that who reads it has the old or the new. Raises OSError."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with open(os.open(fresh, flags, 0o600), "wb") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)  # the collector is another user
        fresh.rename(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def _listen(address: str, group: int | None) -> socket.socket:
    """Return a socket that listens, and waits for nobody. Raises OSError."""
    if address.startswith("unix:"):
        listener = bind_unix(_free(Path(address.removeprefix("unix:"))), group)
    else:
        host, _, port = address.rpartition(":")
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host.strip("[]"), int(port)))
        except OSError:
            listener.close()
            raise
    listener.settimeout(0)
    listener.listen(_PLACES)
    return listener


def _free(path: Path) -> Path:
    """Return a path for a socket after removing what a killed daemon left. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0)
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            pass
        except ConnectionRefusedError:
            if path.is_socket():  # otherwise it is somebody's file
                path.unlink()
        else:
            raise FileExistsError(errno.EADDRINUSE, "another program listens there")
    return path
