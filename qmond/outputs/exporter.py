"""The exporter: it answers Prometheus' scrapes by HTTP, and runs in the front.

It knows only as much HTTP as Prometheus needs: GET /metrics, one request a connection. Clients may
be hostile, so connections, bytes and seconds are bounded. Further clients wait in the kernel.
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
_PAUSE: Final = 0.02
"""Seconds that a place stays taken after an answer, so that a loop of scrapes costs little time."""
_REQUEST_MAX: Final = 8 << 10
"""Bytes of a request."""
_REQUEST: Final = re.compile(rb"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.[01]\r\n")

Metrics = Callable[[], Awaitable[bytes]]


class Exporter:
    """Answers scrapes; `metrics` gives the text."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._places = asyncio.Semaphore(PLACES)

    async def serve_forever(self, listener: socket.socket) -> None:
        """Answer each client that connects, until cancelled."""
        listener.settimeout(0)
        async with asyncio.TaskGroup() as tasks:
            await self._accept_forever(listener, tasks)

    async def _accept_forever(self, listener: socket.socket, tasks: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._places.acquire()
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError:  # the client has gone already, or no descriptors are left
                self._places.release()
                await asyncio.sleep(_PAUSE)
                continue
            tasks.create_task(self._serve(connection))

    async def _serve(self, connection: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError, TimeoutError), connection:
                async with asyncio.timeout(_PATIENCE):
                    await self._handle(connection)
            await asyncio.sleep(_PAUSE)
        finally:
            self._places.release()

    async def _handle(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        request = b""
        while b"\r\n\r\n" not in request and len(request) <= _REQUEST_MAX:
            received = await loop.sock_recv(connection, _REQUEST_MAX)
            if not received:
                return
            request += received
        await loop.sock_sendall(connection, await respond(request, self._metrics))
        # bytes that nobody reads would make the kernel reset the connection, and the answer be lost
        connection.shutdown(socket.SHUT_WR)
        for _ in range(16):
            if not await loop.sock_recv(connection, _REQUEST_MAX):
                return


async def respond(request: bytes, metrics: Metrics) -> bytes:
    """Return the answer to a request, which is whole or too long."""
    if b"\r\n\r\n" not in request:
        return _answer(
            "431 Request Header Fields Too Large", f"at most {_REQUEST_MAX} bytes\n".encode()
        )
    found = _REQUEST.match(request)
    if found is None:
        return _answer("400 Bad Request", f"expected GET {_PATH} HTTP/1.1\n".encode())
    method, target = found[1].decode(), found[2].decode()
    if target.partition("?")[0] != _PATH:
        return _answer("404 Not Found", f"there is only {_PATH}\n".encode())
    if method != "GET":
        return _answer("405 Method Not Allowed", b"expected GET\n", "Allow: GET\r\n")
    try:
        return _answer("200 OK", await metrics())
    except (OSError, ProtocolError) as error:
        return _answer("500 Internal Server Error", f"no figures: {error}\n".encode())


def _answer(status: str, body: bytes, more: str = "") -> bytes:
    kind = CONTENT_TYPE if status.startswith("200") else "text/plain; charset=utf-8"
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}{more}Connection: close\r\n\r\n".encode() + body
