"""How the figures get to whoever asks by HTTP on this host; it runs in the front.

The HTTP is as little as Prometheus needs: GET /metrics, one request a connection. Whoever comes
may be hostile: connections, bytes and seconds are bounded, and beyond that the kernel lets
others wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from qmond.errors import ProtocolError
from qmond.outputs.exposition import CONTENT_TYPE

__all__ = ["PLACES", "Exporter", "respond"]

_PATH: Final = "/metrics"
PLACES: Final = 8
"""Connections at once."""
_PATIENCE: Final = 5
"""Seconds for a request and its answer."""
_PACE: Final = 0.02
"""Seconds that a place stays taken at least, so that asking in a loop leaves time for the ring."""
_MOST: Final = 8 << 10
"""Bytes of a request."""
_REQUEST: Final = re.compile(rb"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.[01]\r\n")

Text = Callable[[], Awaitable[bytes]]


class Exporter:
    """Answers scrapes; `text` gives the figures."""

    def __init__(self, text: Text) -> None:
        self._text = text
        self._places = asyncio.Semaphore(PLACES)

    async def serve_forever(self, listener: socket.socket) -> None:
        """Answer who connects, until cancelled."""
        listener.settimeout(0)
        async with asyncio.TaskGroup() as tasks:
            await self._accept_forever(listener, tasks)

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
        await loop.sock_sendall(connection, await respond(request, self._text))
        # what is not read would make the kernel take back the answer
        connection.shutdown(socket.SHUT_WR)
        for _ in range(16):
            if not await loop.sock_recv(connection, _MOST):
                return


async def respond(request: bytes, text: Text) -> bytes:
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
        return _answer("200 OK", await text())
    except (OSError, ProtocolError) as error:
        return _answer("500 Internal Server Error", f"no figures: {error}\n".encode())


def _answer(status: str, body: bytes, more: str = "") -> bytes:
    kind = CONTENT_TYPE if status.startswith("200") else "text/plain; charset=utf-8"
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}{more}Connection: close\r\n\r\n".encode() + body
