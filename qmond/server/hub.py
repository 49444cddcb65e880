"""The hub of a socket: it accepts clients, and hands each of them the lines that it wants."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import Final

from qmond.server.audience import Audience
from qmond.server.choices import Batch, Choice, Choices
from qmond.server.clientlog import ClientLog
from qmond.server.connection import Connection
from qmond.server.forkserver import ForkServer
from qmond.server.readerpool import Readers
from qmond.server.sendbuffer import SendBuffer
from qmond.server.settings import FrontSettings
from qmond.server.shares import Shares
from qmond.server.source import Source
from qmond.server.tail import Tail

__all__ = ["Hub"]

_FAREWELL: Final = 3
"""Seconds that clients have to take what is still theirs, at the end."""
_SHARE: Final = 0.25
"""Of the loop's time, for the requests of one user."""


class Hub:
    """The connections of one listening socket; nothing waits for any of them."""

    def __init__(self, settings: FrontSettings, source: Source) -> None:
        self.settings = settings
        self._source = source
        self.audience: Audience[Connection] = Audience(self._current_settings)
        fork_server = ForkServer(() if source.log.fd is None else (source.log.fd,))
        self.readers = Readers(fork_server, self._current_settings)
        self.shares = Shares(_SHARE, _SHARE)
        self._choices = Choices()
        self._log = ClientLog()
        self._server: asyncio.Server | None = None

    def _current_settings(self) -> FrontSettings:
        return self.settings

    async def listen(self, listener: socket.socket) -> None:
        """Begin to serve. Raises OSError."""
        self._server = await asyncio.get_running_loop().create_unix_server(
            self._connection, sock=listener, backlog=self.settings.max_clients
        )

    def _connection(self) -> Connection:
        """Return what serves one more client."""
        buffer = SendBuffer(self._current_settings)
        tail = Tail(buffer, self._source, self.readers, self._choices, self._current_settings)
        return Connection(
            buffer=buffer,
            tail=tail,
            source=self._source,
            audience=self.audience,
            shares=self.shares,
            log=self._log,
        )

    def configure(self, settings: FrontSettings) -> None:
        """Go by other settings, and groups, from here on: those who are connected, too."""
        self.settings = settings
        for connection in self.audience:
            connection.allow(self.audience.rights(connection.peer))

    # ---- lines ---------------------------------------------------------------------------------

    @property
    def follows(self) -> bool:
        """Whether there is anybody who wants lines."""
        return any(connection.tail.is_on for connection in self.audience)

    def broadcast(self, batch: Batch) -> None:
        """Hand a batch to every tail; the wanted lines are chosen once for equals."""
        chosen: dict[tuple[Choice, bool], tuple[bytes, int]] = {}
        for connection in self.audience:
            tail, content = connection.tail, connection.rights.content
            if tail.feed:
                tail.feed.push(batch.data, batch.seq - len(batch), len(batch))
            elif tail.choice is not None:
                key = tail.choice, content
                if key not in chosen:
                    chosen[key] = tail.choice.of(batch, content=content)
                tail.push(*chosen[key])

    def miss(self, first: int, last: int) -> None:
        """Tell every tail of lines, by their numbers, that did not get here."""
        for connection in self.audience:
            connection.tail.miss(first, last)

    # ---- once a second, and at the end ---------------------------------------------------------

    def check(self) -> None:
        """Send those away who are silent or do not read; called about once a second."""
        now = time.monotonic()
        for connection in self.audience:
            connection.check(now)
        self.readers.check()
        self._log.check()

    async def close(self) -> None:
        """End each connection once its buffer is out, or after a while."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for connection in self.audience:
            connection.finish()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                while self.audience:
                    await asyncio.sleep(0.01)
        for connection in self.audience:
            connection.abort()
        self._log.tell()
        await self.readers.close(_FAREWELL)
